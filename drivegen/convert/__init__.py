"""Foreign checkpoints as drivegen models."""

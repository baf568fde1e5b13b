"""What every room stands on: errors, weights, settings, signals, devices; nothing of driving or of diffusion."""

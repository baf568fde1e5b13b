"""What noise does to latents: one owner of the schedule, for training and sampling alike."""

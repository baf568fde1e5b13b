"""The foundations: errors, weights, settings, signals, devices; nothing specific to driving or diffusion."""

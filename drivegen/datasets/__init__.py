"""Recorded scenes: each format is read into the same frames, found by entry point."""

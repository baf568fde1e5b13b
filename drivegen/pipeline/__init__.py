"""Frames to images: settings in, views out, and what is written beside them."""

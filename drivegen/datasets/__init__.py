"""Recorded scenes: each format is read into the same frames, found by entry point."""

from drivegen.datasets.base import SceneSource, formats, open

__all__ = ["SceneSource", "formats", "open"]

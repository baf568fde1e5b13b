"""A pickle that would run code, for tests that none is run."""

from __future__ import annotations

from pathlib import Path


class Hostile:
    """A pickle of this writes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.write_text, (self.path, "run"))

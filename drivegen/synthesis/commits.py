"""The complete frames of an unfinished dataset: a file per frame, written last, with the SHA-256 of all its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drivegen.support.errors import InputError
from drivegen.support.files import make_subfolder, sha256, write_json
from drivegen.synthesis.plan import WORK


class Commits:
    """The complete frames, recorded in a dataset's hidden folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = make_subfolder(out, WORK, "units")

    def add(
        self, token: str, lines: list[dict[str, Any]], files: dict[str, str], boxes: Sequence[tuple[int, int] | None]
    ) -> None:
        """Record a frame as complete.

        Args:
            token: its sample's.
            lines: the manifest's, one per image.
            files: the SHA-256 of each of its files, by name relative to the dataset.
            boxes: what is true of each of its boxes (`truth.Truth.boxes`).
        """
        write_json(self._path(token), {"lines": lines, "files": files, "boxes": boxes})

    def read(self, token: str) -> dict[str, Any] | None:
        """Return the record of a frame, None where it does not exist or one of its files has changed."""
        try:
            noted = json.loads(self._path(token).read_text(encoding="utf-8"))
            whole = all(sha256(self.out / name) == digest for name, digest in noted["files"].items())
            noted["lines"], noted["boxes"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return noted if whole else None

    def get(self, token: str) -> dict[str, Any]:
        """Return the record of a complete frame."""
        try:
            found: dict[str, Any] = json.loads(self._path(token).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{self._path(token)} cannot be read: {error}; run it again") from error
        return found

    def _path(self, token: str) -> Path:
        return self.folder / f"{token}.json"

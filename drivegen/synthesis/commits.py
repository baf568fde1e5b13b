"""The complete frames of an unfinished dataset: a file per frame, written last, with the SHA-256 of all its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drivegen.datasets.nuscenes.parts import Part
from drivegen.support.errors import InputError
from drivegen.support.files import make_subfolder, sha256, write_atomically
from drivegen.synthesis.plan import WORK


class Commits:
    """The complete frames, recorded in a dataset's hidden folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / WORK / "units"

    def begin(self) -> None:
        """Make the folder; it is not made again by a process that outlives the run."""
        make_subfolder(self.out, WORK, "units")

    def add(
        self, token: str, lines: list[dict[str, Any]], files: dict[str, str], rows: Part, audit: dict[str, Any] | None = None
    ) -> None:
        """Record a frame as complete.

        Args:
            token: its sample's.
            lines: the manifest's, one per image.
            files: the SHA-256 of each of its files, by name relative to the dataset.
            rows: its rows in the tables; none where the audit drops it.
            audit: its line of the audit, where there is one.
        """
        noted = {"lines": lines, "files": files, "rows": rows} | ({} if audit is None else {"audit": audit})
        write_atomically(self._path(token), json.dumps(noted, ensure_ascii=False).encode())

    def whole(self, token: str) -> bool:
        """Tell whether a frame is complete: it is recorded, and its files are as they were written."""
        try:
            noted = json.loads(self._path(token).read_text(encoding="utf-8"))
            noted["lines"], noted["rows"]
            return all(sha256(self.out / name) == digest for name, digest in noted["files"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False

    def get(self, token: str) -> dict[str, Any]:
        """Return the record of a complete frame."""
        try:
            found: dict[str, Any] = json.loads(self._path(token).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{self._path(token)} cannot be read: {error}; run it again") from error
        return found

    def is_there(self, token: str) -> bool:
        """Tell whether a frame is recorded, without reading its files."""
        return self._path(token).is_file()

    def _path(self, token: str) -> Path:
        return self.folder / f"{token}.json"

"""What of an unfinished dataset is complete, so that an interrupted run continues and no half-written file is taken for a
complete one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drivegen.support.errors import InputError
from drivegen.support.files import make_subfolder, refuse_link, sha256, write_json
from drivegen.support.locks import LOCK
from drivegen.world.city import CityScene

Levels = list[tuple[int, int]]
"""(index of a box in the frame as built, its level of visibility 1 to 4) for each box of a frame that is annotated."""

Paths = Callable[[CityScene, Path], list[Path]]
"""Lists the files of a scene below a root."""

FOLDER = ".world"


@dataclass(frozen=True)
class Settings:
    """What the bytes of a dataset depend on; size is (height, width) in pixels, renderer a digest of this package's code."""

    scenes: int
    frames: int
    seed: int
    size: tuple[int, int]
    renderer: str
    wording: str = "plain"


class Journal:
    """The hidden folder ``.world`` of a dataset that is being written: its settings, and a file per complete scene.

    A scene's file holds the SHA-256 of all its files. They are compared before the scene counts as complete: after a loss of
    power the disk may hold a file's name without its content.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root, self.settings, self.folder = root, settings, root / FOLDER

    def begin(self) -> None:
        """Note the settings, or compare them with those of the run before.

        Raises InputError where they differ, and where the folder holds anything without having been begun by this command.
        """
        path = refuse_link(self.folder) / "settings.json"
        if not path.is_file():
            if others := sorted(p.name for p in self.root.iterdir() if p.name not in (LOCK, FOLDER)):
                raise InputError(f"{self.root} is not empty: it holds {others[0]!r}; give a new folder, or empty it")
            make_subfolder(self.root, FOLDER)
            write_json(path, asdict(self.settings))
            return
        wanted, known = json.loads(json.dumps(asdict(self.settings))), _read(path)
        changed = [name for name in wanted if known.get(name) != wanted[name]]
        if changed:
            what = ", ".join(f"{name} was {known.get(name)!r} and is {wanted[name]!r}" for name in changed)
            raise InputError(f"{self.root} holds an unfinished dataset with other settings: {what}; name another folder")

    def read(self, index: int, city: CityScene, paths: Paths) -> list[Levels] | None:
        """Return what is annotated of each frame of a scene, or None where the scene is not complete.

        Args:
            index: number of the scene.
            city: the scene.
            paths: lists its files.
        """
        noted = _read(self._path(index))
        files = paths(city, self.root)
        try:
            levels = [[(int(box), int(level)) for box, level in frame] for frame in noted["levels"]]
            fits = len(levels) == len(city.scene.frames) and all(
                0 <= box < len(frame.boxes) and 1 <= level <= 4
                for frame, seen in zip(city.scene.frames, levels, strict=True) for box, level in seen
            )  # fmt: skip
            whole = fits and all(path.is_file() and sha256(path) == noted["sha256"][self._name(path)] for path in files)
        except (KeyError, TypeError, ValueError, OSError):
            return None
        return levels if whole else None

    def add(self, index: int, city: CityScene, levels: list[Levels], paths: Paths) -> None:
        """Record a scene as complete.

        Args:
            index: number of the scene.
            city: the scene.
            levels: the annotated boxes of each frame with their visibilities.
            paths: lists the scene's files.
        """
        hashes = {self._name(path): sha256(path) for path in paths(city, self.root)}
        write_json(self._path(index), {"levels": levels, "sha256": hashes})

    def end(self) -> None:
        """Remove the folder: the dataset is complete."""
        shutil.rmtree(self.folder)

    def _path(self, index: int) -> Path:
        return self.folder / f"scene-{index:04d}.json"

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _read(path: Path) -> dict[str, Any]:
    """Read an object; an empty one where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

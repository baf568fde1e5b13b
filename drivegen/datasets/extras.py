"""Inputs of plugins from files: pictures, arrays, JSON and text, found by a frame's token or its pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from drivegen.scene import Frame
from drivegen.scene.pictures import user_image
from drivegen.support.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SUFFIXES = (*PICTURES, ".npy", ".npz", ".json", ".txt")
"""Endings of the files that are read; others in the folder are left alone."""


def read_extra(path: Path, where: str) -> Any:
    """Read a file as a value for `inputs`: a PIL image, an array, a dict of arrays (.npz), JSON values, or text.

    Raises InputError, which begins with `where`, for a file that is missing, damaged or of another ending.
    """
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return user_image(path, where)
    if suffix not in SUFFIXES:
        raise InputError(f"{where}: {path} cannot be read; files that can end with {', '.join(SUFFIXES)}")
    try:
        if suffix in (".npy", ".npz"):
            loaded = np.load(path, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            with loaded:
                return {name: loaded[name] for name in loaded.files}
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if suffix == ".json" else text.strip()
    except OSError as error:
        raise InputError(f"{where}: {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, KeyError, RecursionError, NotImplementedError) as error:
        what = {".json": "JSON", ".txt": "text in UTF-8"}.get(suffix, "a numpy file of numbers")
        raise InputError(f"{where}: {path} is not {what}: {error}") from error
    except Exception as error:  # zipfile and zlib have errors of their own
        raise InputError(f"{where}: {path} is damaged: {type(error).__name__} {error}") from error


class ExtrasFolder:
    """A folder of files for one plugin: one per frame, named by its token, or one per camera, named by its picture.

    ``<token>.<ending>`` holds the plugin's input; ``<picture>.<ending>``, ``<channel>/<picture>.<ending>`` or
    ``samples/<channel>/<picture>.<ending>`` for every camera gives {channel: content}. Raises InputError where there is no such
    folder, and where two files differ in their ending alone.
    """

    def __init__(self, name: str, folder: str | Path) -> None:
        self.name, self.folder = name, Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"data.extras.{name} = {str(folder)!r} is not a folder; give the folder of files for {name!r}")
        self._files: dict[str, str] = {}
        for at, folders, files in os.walk(self.folder, followlinks=True):
            below = Path(at).relative_to(self.folder)
            if len(below.parts) >= 2:
                folders.clear()
            for file in files:
                if Path(file).suffix.lower() in SUFFIXES:
                    self._add(below / file)
        if not self._files:
            raise InputError(f"data.extras.{name}: {folder} holds no file that ends with {', '.join(SUFFIXES)}")

    def _add(self, file: Path) -> None:
        key = file.with_suffix("").as_posix()
        if key in self._files:
            both = f"{self._files[key]} and {file} for one frame or picture"
            raise InputError(f"data.extras.{self.name}: {self.folder} holds {both}; remove one of them")
        self._files[key] = file.as_posix()

    def files(self, token: str, pictures: Iterable[Path]) -> tuple[Path, ...]:
        """Return the files of a frame, by its token or by its pictures; for a missing one, the path that is tried first."""
        if token in self._files:
            return (self.folder / self._files[token],)
        found = [self._of_picture(picture) for picture in pictures]
        if not any(found):
            return (self.folder / f"{token}.*",)
        return tuple(
            file or self.folder / f"{picture.stem}.*" for file, picture in zip(found, pictures, strict=True)
        )  # fmt: skip

    def _of_picture(self, picture: Path) -> Path | None:
        stem, channel = picture.stem, picture.parent.name
        for key in (stem, f"{channel}/{stem}", f"samples/{channel}/{stem}"):
            if key in self._files:
                return self.folder / self._files[key]
        return None

    def read(self, frame: Frame, paths: bool = False) -> Any:
        """Read the input of a frame's plugin; with paths=True return the files' paths, for a plugin that reads them itself."""
        read = (lambda path, where: path) if paths else read_extra
        where = f"extras of {self.name!r} for frame {frame.token!r}"
        if frame.token in self._files:
            return read(self.folder / self._files[frame.token], where)
        out = {}
        for camera in frame.cameras:
            file = None if camera.image_path is None else self._of_picture(camera.image_path)
            if file is None:
                name = frame.token if camera.image_path is None else f"{frame.token} or {camera.image_path.stem}"
                raise InputError(f"{where}: {self.folder} has no file {name} with one of the endings {', '.join(SUFFIXES)}")
            out[camera.channel] = read(file, f"{where}, {camera.channel}")
        return out

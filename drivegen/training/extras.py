"""Inputs of plugins in training besides the frame: files of a folder per plugin, and what a callable adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from drivegen.datasets.base import stat_digest
from drivegen.datasets.extras import ExtrasFolder
from drivegen.plugin import Plugin
from drivegen.scene import Frame
from drivegen.support.errors import InputError, nearest

Enrich = Callable[[Frame], Frame]
"""Takes a frame and returns it with more in it: extras, other boxes, a description; never other pictures."""


class Extras:
    """Fills frames' extras.

    Args:
        folders: plugin name → folder of files (`datasets.extras.ExtrasFolder`), for every frame.
        enrich: is given each frame, its extras from the dataset and the folders in it, and returns it with more.
        plugins: those that there are, by name; None = any. Raises InputError for a folder of another name.
    """

    def __init__(
        self, folders: Mapping[str, str | Path] | None = None, enrich: Enrich | None = None,
        plugins: Mapping[str, Plugin] | None = None,
    ) -> None:  # fmt: skip
        for name in folders or {}:
            if plugins is not None and name not in plugins:
                known = ", ".join(plugins) or "none"
                raise InputError(f"data.extras names {name!r}, but the plugins are {known}{nearest(name, plugins)}")
        if enrich is not None and not callable(enrich):
            raise InputError(f"enrich is of type {type(enrich).__name__}; give a function that takes a Frame and returns one")
        declared = {name: plugins[name].accepts or () for name in folders or {}} if plugins is not None else {}
        self._paths = {name for name, inputs in declared.items() if any(each.type == "file" for each in inputs)}
        self.folders = {name: ExtrasFolder(name, folder) for name, folder in (folders or {}).items()}
        self.enrich = enrich

    def files(self, token: str, pictures: tuple[Path, ...]) -> tuple[Path, ...]:
        """List the files of one frame, whether they exist or not."""
        return tuple(file for folder in self.folders.values() for file in folder.files(token, pictures))

    def fingerprints(self, token: str, pictures: tuple[Path, ...]) -> dict[str, str]:
        """Return, by plugin name, a digest of its files for one frame."""
        return {name: stat_digest(folder.files(token, pictures)) for name, folder in self.folders.items()}

    def fill(self, frame: Frame) -> Frame:
        """Return the frame with the inputs of its plugins."""
        if self.folders:
            read = {name: folder.read(frame, name in self._paths) for name, folder in self.folders.items()}
            frame = replace(frame, extras={**frame.extras, **read})
        return frame if self.enrich is None else self._enriched(frame, self.enrich)

    def _enriched(self, frame: Frame, enrich: Enrich) -> Frame:
        try:
            made = enrich(frame)
        except (InputError, OSError):
            raise
        except Exception as error:  # a user's own code
            raise InputError(f"enrich raised {type(error).__name__} for frame {frame.token!r}: {error}") from error
        if not isinstance(made, Frame):
            raise InputError(f"enrich returned {type(made).__name__} for frame {frame.token!r}; it must return a Frame")
        before, after = ([(camera.channel, camera.image_path) for camera in one.cameras] for one in (frame, made))
        if made.token != frame.token or before != after:
            what = "another token" if made.token != frame.token else "other cameras or pictures"
            raise InputError(f"enrich returned frame {frame.token!r} with {what}; it may change all else, not what is learned")
        return made

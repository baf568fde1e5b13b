"""The interface of dataset readers, and how the reader of a folder is found: by entry point, asking each."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import ClassVar

from drivegen.scene import Frame, Moment, Scene
from drivegen.scene.moments import around
from drivegen.support.errors import InputError, nearest
from drivegen.support.values import file_path, text

GROUP = "drivegen.datasets"
"""The group of entry points: ``nuscenes = "drivegen.datasets.nuscenes:Dataset"``, a format's name and its `SceneSource`."""


class SceneSource(ABC):
    """An open dataset: its scenes, samples and frames. A reader of another format is a subclass of this.

    root is the folder, version the part of it that is read ("" where the format has no versions). Tokens of samples are unique
    within a dataset. Invalid data raises InputError with file, row, value and remedy.
    """

    layout: ClassVar[str]
    """How a folder of this format looks, for messages: "a folder with the nuScenes tables, such as v1.0-trainval/"."""

    root: Path
    version: str

    @classmethod
    @abstractmethod
    def recognises(cls, root: Path) -> bool:
        """Whether a folder looks like this format, judged by file names alone."""

    @classmethod
    @abstractmethod
    def open(cls, root: Path, version: str | None = None) -> SceneSource:
        """Open the dataset in a folder; version may be omitted where there is only one."""

    @property
    @abstractmethod
    def scenes(self) -> tuple[str, ...]:
        """Scene names, in the dataset's own order."""

    @abstractmethod
    def scenes_of_split(self, name: str) -> tuple[str, ...]:
        """Names of this dataset's scenes in a published split (``val``); none where the format knows no such split."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of splits that the dataset itself defines, which `scenes_of_split` knows besides published ones."""
        return ()

    @abstractmethod
    def samples(self, scene: str | None = None) -> tuple[str, ...]:
        """Sample tokens in time order, of one scene (name or token) or of all, scene after scene."""

    @abstractmethod
    def scene(self, name_or_token: str) -> Scene:
        """Read a whole scene."""

    @abstractmethod
    def frame(self, sample_token: str) -> Frame:
        """Read one sample: cameras each with its own ego pose, boxes, map, text."""

    @abstractmethod
    def views(self, sample_token: str) -> int:
        """Count the cameras of a sample, without reading a picture."""

    def picture_sizes(self, sample_token: str) -> tuple[tuple[int, int], ...]:
        """List the native (width, height) in pixels of a sample's pictures; a reader of its own may be faster."""
        return tuple((camera.width_px, camera.height_px) for camera in self.frame(sample_token).cameras)

    @abstractmethod
    def fingerprint(self, sample_token: str) -> str:
        """Return a short digest that changes with the tables, the maps and the sample's files (by their sizes and times)."""

    def files(self, sample_token: str) -> tuple[Path, ...]:
        """List the files that `frame` needs for a sample, whether they exist or not; () where unknown."""
        return ()

    # -- neighbouring moments ----------------------------------------------------------------------------------------
    # What is here works for every reader by reading whole frames; a reader that can look times up is faster.

    def nearby(self, sample_token: str, past_s: float, future_s: float) -> tuple[str, ...]:
        """Return the samples of the same scene around a sample, in time order, without the sample itself.

        One sample beyond each end is included, to interpolate from.

        Args:
            sample_token: of the sample.
            past_s: seconds before it; 0 for none.
            future_s: seconds after it; 0 for none.
        """
        if not (past_s or future_s):
            return ()
        tokens = next((found for scene in self.scenes if sample_token in (found := self.samples(scene))), ())
        moments = [self.moment(token) for token in tokens]
        own = self.moment(sample_token)
        return tuple(moment.token for moment in around(moments, own.timestamp_us, past_s, future_s))

    def moment(self, sample_token: str) -> Moment:
        """Read a sample as a neighbour of another one; its pictures are not opened."""
        return self.frame(sample_token).moment()

    def frame_with_neighbours(self, sample_token: str, past_s: float, future_s: float) -> Frame:
        """Read one sample and its neighbours (`nearby`); without neighbours this costs no more than `frame`.

        Args:
            sample_token: of the sample.
            past_s: seconds before it; 0 for none.
            future_s: seconds after it; 0 for none.
        """
        moments = tuple(self.moment(token) for token in self.nearby(sample_token, past_s, future_s))
        frame = self.frame(sample_token)
        return replace(frame, neighbours=moments) if moments else frame


def stat_digest(paths: Iterable[Path]) -> str:
    """Return a digest of files' names, sizes and times, in place of their contents; a missing file counts by its name."""
    return hashlib.sha256(repr([_stat(path) for path in paths]).encode()).hexdigest()[:16]


def _stat(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return path.name, 0, 0
    return path.name, found.st_size, found.st_mtime_ns


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name; a name that is too long is none's."""
    try:
        return path.is_dir()
    except OSError:
        return False


def formats() -> dict[str, EntryPoint]:
    """Return the installed readers by format name, importing none."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def open(root: str | Path, version: str | None = None, format: str | None = None) -> SceneSource:
    """Open a dataset with the reader that recognises its folder.

    Args:
        root: the folder.
        version: which part of it, where it holds several; None for the only one.
        format: the reader's name, where several recognise the folder or none does; None asks each.

    Raises InputError where the folder does not exist, no reader or more than one recognises it, or the data is refused.
    """
    root, known, broken = file_path(root, "data root"), formats(), {}
    if not is_folder(root):
        raise InputError(f"data root {root} is not a folder; give the folder of a dataset")
    if not known:
        raise InputError(
            "no reader of datasets is installed, not even drivegen's own: install drivegen anew (pip install -e .)"
        )
    if format is not None:
        if text(format, "format") not in known:
            raise InputError(
                f"no reader of the format {format!r} is installed; there are {', '.join(known)}{nearest(format, known)}"
            )
        return _reader(known[format]).open(root, version)
    found: dict[str, type[SceneSource]] = {}
    layouts = []
    for name, point in known.items():
        try:
            reader = _reader(point)
        except InputError as error:  # a broken reader breaks only itself
            broken[name] = str(error)
            continue
        layouts.append(f"{name} ({reader.layout})")
        if reader.recognises(root):
            found[name] = reader
    if len(found) == 1:
        return next(iter(found.values())).open(root, version)
    if found:
        raise InputError(f"data root {root} is recognised by several readers ({', '.join(found)}); name one as format")
    also = "".join(f"; {why}" for why in broken.values())
    if len(layouts) == 1 and not broken:  # the only reader can say what is missing
        return _reader(next(iter(known.values()))).open(root, version)
    raise InputError(f"data root {root} is of no known format; readable are {', '.join(layouts) or 'none'}{also}")


def _reader(point: EntryPoint) -> type[SceneSource]:
    try:
        cls = point.load()
    except (Exception, SystemExit) as error:  # a third party's module may raise anything
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"the reader of {point.name!r} ({point.value}) cannot be imported: {what}") from error
    if not (isinstance(cls, type) and issubclass(cls, SceneSource)):
        raise InputError(f"the reader of {point.name!r}: {point.value} is not a drivegen.datasets.SceneSource")
    return cls

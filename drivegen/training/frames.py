"""Frames of datasets in training: their references, what is read of each, and how several become a batch."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from drivegen import datasets
from drivegen.datasets import SceneSource
from drivegen.host import batch as data
from drivegen.plugin import Plugin
from drivegen.scene import Camera, Frame
from drivegen.scene.pictures import load_image
from drivegen.support.errors import InputError, nearest
from drivegen.training.cache import ArrayCache
from drivegen.training.extras import Extras
from drivegen.training.missing import refuse_missing
from drivegen.training.value_digest import value_digest


@dataclass(frozen=True)
class FrameRef:
    """A frame of a dataset.

    Args:
        root: which dataset.
        token: the sample's.
        views: how many cameras it has.
        identity: a digest of its pictures and tables, and of the code that reads them.
        given: by plugin name, a digest of what that plugin is given besides: neighbouring moments, extras.
    """

    root: int
    token: str
    views: int
    identity: str
    given: Mapping[str, str] = field(default_factory=dict)

    def key(self, plugin: str | None = None) -> str:
        """File name in a cache, of the pictures or of a plugin's arrays."""
        safe = self.token if self.token.isalnum() else hashlib.sha256(self.token.encode()).hexdigest()[:32]
        own = self.given.get(plugin, "") if plugin is not None else ""
        return f"{safe}-{self.identity}" + (f"-{own}" if own else "")


@dataclass(frozen=True, eq=False)
class TrainBatch:
    """A batch of conditions with its pictures.

    pixels (N, 3, H, W) uint8, or moments (N, 2C, h, w): the VAE posterior's mean and standard deviation, unscaled.
    """

    conditions: data.Batch
    pixels: Tensor | None = None
    moments: Tensor | None = None
    cameras: tuple[tuple[Camera, ...], ...] | None = None
    """The rig of each frame, where it was asked for."""

    def to(self, device: torch.device | str) -> TrainBatch:
        """Move every tensor to a device."""
        move: Callable[[Tensor | None], Tensor | None] = lambda x: None if x is None else x.to(device, non_blocking=True)  # noqa: E731
        return TrainBatch(self.conditions.to(device), move(self.pixels), move(self.moments), self.cameras)


class Sources:
    """Opened datasets and the frames in them, split by scene into those that are trained on and those that are not.

    Args:
        roots: dataset folders, each opened by the reader that recognises it.
        size: (height, width) of the generated images, in pixels.
        version: of the datasets, where a root has several.
        val_scenes: scenes that are not trained on: names, published splits (``val``), or a share of each root's last ones.
        max_frames: at most this many frames are trained on.
        extras: what fills frames' extras; None = the datasets alone.
        plugins: those whose `neighbours` are read.
        skip_missing: leave out frames of which a file is missing, with a warning that says how many.

    Raises InputError that lists every missing file, before any frame is read.
    """

    def __init__(
        self, roots: Sequence[str | Path], size: tuple[int, int], version: str | None = None,
        val_scenes: float | Sequence[str] = 0.0, max_frames: int | None = None, extras: Extras | None = None,
        plugins: Mapping[str, Plugin] | None = None, skip_missing: bool = False,
    ) -> None:  # fmt: skip
        share = float(val_scenes) if isinstance(val_scenes, (int, float)) else 0.0
        if not 0 <= share < 1:
            raise InputError(f"val_scenes = {share:g} is out of range; allowed: 0 <= share < 1, or a list of names")
        self.size, self.extras = size, extras or Extras()
        self.neighbours = data.neighbours_wanted(plugins or {})
        self._wanted = {name: data.neighbours_wanted({name: plugin}) for name, plugin in (plugins or {}).items()}
        self.datasets: list[SceneSource] = [datasets.open(root, version) for root in roots]
        self._readers = [value_digest(type(dataset)) for dataset in self.datasets]
        named = set() if isinstance(val_scenes, (int, float)) else scenes_named(self.datasets, val_scenes)
        held_out: list[tuple[int, str]] = []
        trained_on: list[tuple[int, str]] = []
        for index, dataset in enumerate(self.datasets):
            scenes = list(dataset.scenes)
            last = round(len(scenes) * share)
            if share > 0 and len(scenes) > 1:
                last = max(1, last)
            held = named | set(scenes[len(scenes) - last :])
            for scene in scenes:
                (held_out if scene in held else trained_on).extend((index, token) for token in dataset.samples(scene))
        if not trained_on:
            raise InputError(f"no frame is left to train on in {', '.join(map(str, roots))}; val_scenes takes them all")
        chosen = {frame: self._files(*frame) for frame in (*trained_on[: None if skip_missing else max_frames], *held_out)}
        missing = {frame: lacking for frame, files in chosen.items() if (lacking := [f for f in files if not f.is_file()])}
        if missing and skip_missing:
            warnings.warn(f"{len(missing)} of {len(chosen)} frames are left out: a file of each is missing", stacklevel=3)
            trained_on = [frame for frame in trained_on if frame not in missing]
            held_out = [frame for frame in held_out if frame not in missing]
        if missing and not (skip_missing and trained_on):
            refuse_missing({token: paths for (_, token), paths in missing.items()}, len(chosen))
        self._fingerprints: dict[tuple[int, str], str] = {}
        self.train = [self._reference(*frame) for frame in trained_on[:max_frames]]
        self.val = [self._reference(*frame) for frame in held_out]

    def _files(self, index: int, token: str) -> tuple[Path, ...]:
        own = self.datasets[index].files(token)
        return (*own, *self.extras.files(token, own))

    def _fingerprint(self, index: int, token: str) -> str:
        if (index, token) not in self._fingerprints:
            self._fingerprints[index, token] = self.datasets[index].fingerprint(token)
        return self._fingerprints[index, token]

    def _reference(self, index: int, token: str) -> FrameRef:
        dataset = self.datasets[index]
        identity = hashlib.sha256(f"{self._fingerprint(index, token)} {self._readers[index]}".encode()).hexdigest()[:12]
        given = self.extras.fingerprints(token, dataset.files(token) if self.extras.folders else ())
        for name, (past, future) in self._wanted.items():
            if past or future:
                moments = [self._fingerprint(index, other) for other in dataset.nearby(token, past, future)]
                given[name] = hashlib.sha256(repr((given.get(name), moments)).encode()).hexdigest()[:12]
        return FrameRef(index, token, dataset.views(token), identity, given)

    def frame(self, ref: FrameRef) -> Frame:
        """Read a frame with its neighbours and extras, its cameras set to the generated size."""
        frame = self.datasets[ref.root].frame_with_neighbours(ref.token, *self.neighbours)
        return self.extras.fill(frame.resized(self.size[1], self.size[0]))


def scenes_named(sources: Sequence[SceneSource], names: Sequence[str]) -> set[str]:
    """Return the existing scenes that names stand for: scenes themselves, or published splits (``val``).

    Raises InputError for a name that is in none of the datasets.
    """
    known = [scene for source in sources for scene in source.scenes]
    found: set[str] = set()
    for name in names:
        scenes = [name] if name in known else [scene for source in sources for scene in source.scenes_of_split(name)]
        if not scenes:
            raise InputError(f"val_scenes names {name!r}, which is in none of the datasets{nearest(name, known)}")
        found.update(scenes)
    return found


def pixels_of(frame: Frame) -> np.ndarray:
    """Read a frame's pictures as (V, 3, H, W) uint8."""
    return np.stack([image_pixels(camera) for camera in frame.cameras])


def image_pixels(camera: Camera) -> np.ndarray:
    """Read one camera's picture as (3, H, W) uint8."""
    return np.asarray(load_image(camera), dtype=np.uint8).transpose(2, 0, 1)


@dataclass(eq=False)
class FrameDataset(TorchDataset[tuple[FrameRef, data.Prepared, dict[str, np.ndarray]]]):
    """Frames with their arrays, from the caches where they are filled; works in a data worker, without weights."""

    sources: Sources
    refs: list[FrameRef]
    plugins: Mapping[str, Plugin]
    prepared: Mapping[str, ArrayCache] = field(default_factory=dict)
    moments: ArrayCache | None = None
    cameras: bool = False
    """Whether a batch has its frames' rigs."""

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, index: int) -> tuple[FrameRef, data.Prepared, dict[str, np.ndarray]]:
        ref = self.refs[index]
        arrays: data.Prepared = {}
        for name, cache in self.prepared.items():
            found = cache.read(ref.key(name))
            if found is not None:
                arrays[name] = found
        picture = self.moments.read(ref.key()) if self.moments is not None else None
        missing = {name: plugin for name, plugin in self.plugins.items() if name not in arrays}
        if missing or picture is None:
            frame = self.sources.frame(ref)
            arrays |= data.prepare(frame, missing, training=True)
            picture = picture or {"pixels": pixels_of(frame)}
        return ref, {name: arrays[name] for name in self.plugins}, picture

    def collate(self, items: list[tuple[FrameRef, data.Prepared, dict[str, np.ndarray]]]) -> TrainBatch:
        """Join frames of equal view count."""
        refs, prepared, pictures = zip(*items, strict=True)
        conditions = data.collate(prepared, self.plugins, refs[0].views, [ref.token for ref in refs])
        kind = "pixels" if self.moments is None else "moments"
        joined = torch.from_numpy(np.concatenate([picture[kind] for picture in pictures]))
        cameras = tuple(self.sources.frame(ref).cameras for ref in refs) if self.cameras else None
        return TrainBatch(conditions, **{kind: joined}, cameras=cameras)

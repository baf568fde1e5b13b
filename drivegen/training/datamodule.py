"""The LightningDataModule: nuScenes-format datasets as batches of latents (or images) and every plugin's arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.plugin import Plugin
from drivegen.scene import Camera, Frame
from drivegen.support.errors import InputError, nearest
from drivegen.training.cache import ArrayCache
from drivegen.training.fill import Caches, fill
from drivegen.training.order import Loader, Order


@dataclass(frozen=True)
class FrameRef:
    """A frame of a dataset: which root, its sample token, how many cameras, and a digest of its images and tables."""

    root: int
    token: str
    views: int
    identity: str

    @property
    def key(self) -> str:
        """File name in a cache."""
        safe = self.token if self.token.isalnum() else hashlib.sha256(self.token.encode()).hexdigest()[:32]
        return f"{safe}-{self.identity}"


@dataclass(frozen=True, eq=False)
class TrainBatch:
    """A batch of conditions with its pictures.

    pixels (N, 3, H, W) uint8, or moments (N, 2C, h, w): the VAE posterior's mean and standard deviation, unscaled.
    """

    conditions: data.Batch
    pixels: Tensor | None = None
    moments: Tensor | None = None

    def to(self, device: torch.device | str) -> TrainBatch:
        """Move every tensor to a device."""
        move: Callable[[Tensor | None], Tensor | None] = lambda x: None if x is None else x.to(device, non_blocking=True)  # noqa: E731
        return TrainBatch(self.conditions.to(device), move(self.pixels), move(self.moments))


class Sources:
    """Opened datasets and the frames in them, split by scene into those that are trained on and those that are not."""

    def __init__(
        self, roots: Sequence[str | Path], size: tuple[int, int], version: str | None = None,
        val_scenes: float | Sequence[str] = 0.0, max_frames: int | None = None,
    ) -> None:  # fmt: skip
        from drivegen.datasets import nuscenes

        self.size = size
        self.datasets = [nuscenes.open(root, version) for root in roots]
        share = float(val_scenes) if isinstance(val_scenes, (int, float)) else 0.0
        if not 0 <= share < 1:
            raise InputError(f"val_scenes = {share:g} is out of range; allowed: 0 <= share < 1, or a list of names")
        named = set() if isinstance(val_scenes, (int, float)) else spelt_out(val_scenes)
        self.train: list[FrameRef] = []
        self.val: list[FrameRef] = []
        known = [scene for dataset in self.datasets for scene in dataset.scenes]
        for name in named:
            if name not in known:
                raise InputError(f"val_scenes names {name!r}, which is in none of the datasets{nearest(name, known)}")
        for index, dataset in enumerate(self.datasets):
            files = [*(dataset.root / dataset.version).glob("*.json"), *dataset.root.glob("maps/expansion/*.json")]
            tables = _stat(sorted(files))
            scenes = list(dataset.scenes)
            last = round(len(scenes) * share)
            if share > 0 and len(scenes) > 1:
                last = max(1, last)
            held = named | set(scenes[len(scenes) - last :])
            for scene in scenes:
                refs = [_reference(index, dataset, token, tables) for token in dataset.samples(scene)]
                (self.val if scene in held else self.train).extend(refs)
        self.train = self.train[:max_frames]
        if not self.train:
            raise InputError(f"no frame is left to train on in {', '.join(map(str, roots))}; val_scenes takes them all")

    def frame(self, ref: FrameRef) -> Frame:
        """Read a frame, its cameras set to the generated size."""
        return self.datasets[ref.root].frame(ref.token).resized(self.size[1], self.size[0])


def spelt_out(names: Iterable[str]) -> set[str]:
    """Replace nuScenes's own splits (``val``, ``mini_val`` …) among scene names by their scenes."""
    from nuscenes.utils.splits import create_splits_scenes

    splits = create_splits_scenes()
    return {scene for name in names for scene in splits.get(name, (name,))}


def _reference(index: int, dataset: Any, token: str, tables: str) -> FrameRef:
    devkit = dataset.devkit
    rows = [devkit.get("sample_data", t) for t in devkit.get("sample", token)["data"].values()]
    cameras = [row for row in rows if row["sensor_modality"] == "camera"]
    images = _stat([dataset.root / row["filename"] for row in cameras])
    return FrameRef(index, token, len(cameras), hashlib.sha256(f"{tables} {images}".encode()).hexdigest()[:12])


def _stat(paths: Sequence[Path]) -> str:
    """Stand for files' contents by their sizes and times; a missing one is found when it is read."""
    stats = [(path.name, (s := path.stat()).st_size, s.st_mtime_ns) if path.is_file() else (path.name, 0, 0) for path in paths]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def pixels_of(frame: Frame) -> np.ndarray:
    """Read a frame's pictures as (V, 3, H, W) uint8."""
    return np.stack([image_pixels(camera) for camera in frame.cameras])


def image_pixels(camera: Camera) -> np.ndarray:
    """Read one camera's picture as (3, H, W) uint8."""
    from drivegen.scene.pictures import load_image

    return np.asarray(load_image(camera), dtype=np.uint8).transpose(2, 0, 1)


@dataclass(eq=False)
class FrameDataset(TorchDataset[tuple[FrameRef, data.Prepared, dict[str, np.ndarray]]]):
    """Frames with their arrays, from the caches where there are some; works in a data worker, without weights."""

    sources: Sources
    refs: list[FrameRef]
    plugins: Mapping[str, Plugin]
    prepared: Mapping[str, ArrayCache] = field(default_factory=dict)
    moments: ArrayCache | None = None

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, index: int) -> tuple[FrameRef, data.Prepared, dict[str, np.ndarray]]:
        ref = self.refs[index]
        arrays: data.Prepared = {}
        for name, cache in self.prepared.items():
            found = cache.read(ref.key)
            if found is not None:
                arrays[name] = found
        picture = self.moments.read(ref.key) if self.moments is not None else None
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
        return TrainBatch(conditions, **{kind: joined})


class DriveData(pl.LightningDataModule):
    """Training batches for a host, from folders in the nuScenes schema.

    size (height, width) in pixels; images a step; val_scenes (names, or a share of each root's last scenes) are not trained on;
    cache a folder for latents and prepared arrays; batches the number of batches of the run, None = one pass an epoch. Raises
    InputError for anything wrong with the data.
    """

    def __init__(
        self, roots: Sequence[str | Path], host: Host, *, size: tuple[int, int], images: int = 12, version: str | None = None,
        val_scenes: float | Sequence[str] = 0.0, max_frames: int | None = None, cache: str | Path | None = None,
        workers: int = 0, seed: int = 0, batches: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.roots, self.host, self.size, self.images, self.version = list(roots), host, size, images, version
        self.val_scenes, self.max_frames = val_scenes, max_frames
        self.cache = None if cache is None else Path(cache)
        self.workers, self.seed, self.batches = workers, seed, batches
        self.sources: Sources | None = None
        self._dataset: FrameDataset | None = None

    def open(self) -> Sources:
        """Open the datasets; does nothing the second time."""
        if self.sources is not None:
            return self.sources
        factor = self.host.backbone.vae_factor
        if any(n % factor for n in self.size):
            raise InputError(f"size {list(self.size)} must be multiples of {factor} pixels, the VAE's factor")
        self.sources = Sources(self.roots, self.size, self.version, self.val_scenes, self.max_frames)
        return self.sources

    def setup(self, stage: str | None = None) -> None:
        """Open the datasets, try one frame, and fill the caches; does nothing the second time."""
        if self._dataset is not None:
            return
        sources = self.open()
        light = {name: self.host.plugin(name).weightless() for name in self.host.plugins}
        dataset = FrameDataset(sources, sources.train, light)
        caches = None if self.cache is None else Caches.of(self.cache, self.host, self.size)
        if caches is not None:
            dataset.prepared, dataset.moments = caches.prepared, caches.moments
        self._try(dataset)
        if caches is not None:
            fill(caches, dataset, self.host, self.workers)
        self._dataset = dataset

    @torch.no_grad()
    def _try(self, dataset: FrameDataset) -> None:
        """Bring one frame through the network, so that what a plugin refuses is refused before hours of caching."""
        ref, prepared, _ = dataset[0]
        host, parameter = self.host, next(self.host.backbone.unet.parameters())
        batch = data.collate([prepared], dataset.plugins, ref.views, [ref.token]).to(parameter.device)
        height, width = (n // host.backbone.vae_factor for n in self.size)
        x = parameter.new_zeros(ref.views, host.backbone.unet.config.in_channels, height, width)
        with torch.random.fork_rng(devices=[]):
            conditions = host.encode(batch.arrays, batch.grid)
            prediction = host(x, torch.zeros(ref.views, dtype=torch.long, device=x.device), conditions)
        if not bool(torch.isfinite(prediction).all()):
            tokens = {name: signal.tokens for name, signal in conditions.signals.items()}
            guilty = [name for name, t in tokens.items() if t is not None and not bool(torch.isfinite(t).all())]
            what = f"the tokens of {', '.join(guilty)} are" if guilty else "the prediction is"
            raise InputError(f"{what} not finite for sample {ref.token!r}, before any training; look at options and weights")

    def train_dataloader(self) -> Loader:
        """Return the loader of the training frames."""
        assert self._dataset is not None, "setup() comes first"
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        order = Order([ref.views for ref in self._dataset.refs], self.images, self.seed, rank, world)
        return Loader(self._dataset, order, self._dataset.collate, self.workers, self.batches)

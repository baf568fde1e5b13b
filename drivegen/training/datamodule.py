"""The LightningDataModule: datasets as batches of latents (or images) and every plugin's arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.support.errors import InputError
from drivegen.training.extras import Enrich, Extras
from drivegen.training.fill import Caches, fill
from drivegen.training.frames import FrameDataset, FrameRef, Sources
from drivegen.training.loaders import SplitData
from drivegen.training.order import Balanced, Order
from drivegen.training.prompts import Prompt


class DriveData(SplitData):
    """Training batches for a host, from dataset folders.

    Raises InputError for anything wrong with the data.

    Args:
        roots: dataset folders.
        host: what its plugins ask of a frame is what a batch holds.
        size: (height, width) in pixels.
        images: images per step.
        version: of the datasets, where a root has several.
        val_scenes: names, or a share of each root's last scenes; not trained on, and what `val_dataloader` gives.
        max_frames: at most this many frames are trained on.
        cache: a folder for latents and prepared arrays.
        workers: processes that read frames; 0 = this one.
        seed: of the order.
        batches: number of batches of the run; None = one pass per epoch.
        val_frames: how many held-out frames are validated on, spread over their scenes; None = all.
        cameras: whether a batch has its frames' cameras, which noise "sphere" needs.
        extras: by plugin name, a folder of files that it is given (`datasets.extras.ExtrasFolder`).
        enrich: takes each frame and returns it with more in it; runs in the workers.
        skip_missing: leave out frames of which a file is missing, instead of refusing to begin.
        prior: dataset folder of what the model knew before, of which every batch has as many frames as of the roots.
        prompts: for each of the roots, what makes its frames' descriptions; nothing leaves them as they are.
        apart: whether datasets are told apart: batches have as many frames of each, and say whose they are.
        buckets: further (height, width); each frame is whole in the one nearest to the shape of its cameras' pictures, and a
            batch is of one.
    """

    def __init__(
        self, roots: Sequence[str | Path], host: Host, *, size: tuple[int, int], images: int = 12, version: str | None = None,
        val_scenes: float | Sequence[str] = 0.0, max_frames: int | None = None, cache: str | Path | None = None,
        workers: int = 0, seed: int = 0, batches: int | None = None, val_frames: int | None = None, cameras: bool = False,
        extras: Mapping[str, str | Path] | None = None, enrich: Enrich | None = None, skip_missing: bool = False,
        prior: str | Path | None = None, prompts: Sequence[Prompt] = (), apart: bool = False,
        buckets: Sequence[tuple[int, int]] = (),
    ) -> None:  # fmt: skip
        super().__init__(images=images, seed=seed, workers=workers, batches=batches, val_frames=val_frames)
        self.extras, self.enrich, self.skip_missing = dict(extras or {}), enrich, skip_missing
        self.roots, self.host, self.size, self.version = list(roots), host, size, version
        self.val_scenes, self.max_frames, self.cameras, self.prior = val_scenes, max_frames, cameras, prior
        self.prompts, self.apart = tuple(prompts), apart
        self.buckets = tuple((int(height), int(width)) for height, width in buckets)
        self.cache = None if cache is None else Path(cache)
        self.sources: Sources | None = None
        self._dataset: FrameDataset | None = None

    def open(self) -> Sources:
        """Open the datasets, unless they are open."""
        if self.sources is not None:
            return self.sources
        factor = self.host.backbone.vae_factor
        for size in (self.size, *self.buckets):
            if any(n < 1 or n % factor for n in size):
                what = "size" if size == self.size else "buckets: size"
                raise InputError(f"{what} {list(size)} must be multiples of {factor} pixels, the VAE's factor")
        plugins = {name: self.host.plugin(name) for name in self.host.plugins}
        extras = Extras(self.extras, self.enrich, plugins)
        self.sources = Sources(
            self.roots,
            self.size,
            self.version,
            self.val_scenes,
            self.max_frames,
            extras,
            plugins,
            self.skip_missing,
            self.prior,
            self.prompts,
            self.buckets,
        )
        return self.sources

    def setup(self, stage: str | None = None) -> None:
        """Open the datasets, try one frame, and fill the caches (for training only); does nothing the second time."""
        sources = self.open()
        if self._dataset is not None or stage == "validate":
            return
        dataset = self.items_of(sources.train)
        caches = None if self.cache is None else Caches.of(self.cache, self.host, self.size, self.enrich)
        if caches is not None:
            dataset.prepared, dataset.moments = caches.prepared, caches.moments
        for index in {ref.size: i for i, ref in reversed(list(enumerate(dataset.refs)))}.values():
            self._try(dataset, index)
        if caches is not None:
            fill(caches, dataset, self.host, self.workers)
        self._dataset = dataset

    @torch.no_grad()
    def _try(self, dataset: FrameDataset, index: int) -> None:
        """Bring one frame of a bucket through the network, so that what a plugin refuses is refused before hours of caching."""
        ref, prepared, _ = dataset[index]
        host, parameter = self.host, next(self.host.backbone.unet.parameters())
        batch = data.collate([prepared], dataset.plugins, ref.views, [ref.token]).to(parameter.device)
        height, width = (n // host.backbone.vae_factor for n in dataset.sources.size_of(ref))
        x = parameter.new_zeros(ref.views, host.backbone.unet.config.in_channels, height, width)
        with torch.random.fork_rng(devices=[]):
            conditions = host.encode(batch.arrays, batch.grid)
            prediction = host(x, torch.zeros(ref.views, dtype=torch.long, device=x.device), conditions)
        if not bool(torch.isfinite(prediction).all()):
            tokens = {name: signal.tokens for name, signal in conditions.signals.items()}
            guilty = [name for name, t in tokens.items() if t is not None and not bool(torch.isfinite(t).all())]
            what = f"the tokens of {', '.join(guilty)} are" if guilty else "the prediction is"
            raise InputError(f"{what} not finite for sample {ref.token!r}, before any training; look at options and weights")

    def items_of(self, refs: list[FrameRef]) -> FrameDataset:
        """Return a dataset of some frames, for the plugins' weightless copies."""
        light = {name: self.host.plugin(name).weightless() for name in self.host.plugins}
        return FrameDataset(self.open(), refs, light, cameras=self.cameras, apart=self.apart)

    def training_items(self) -> tuple[FrameDataset, Sequence[int]]:
        """Return the frames that are trained on, and the number of views of each."""
        assert self._dataset is not None, "setup() comes first"
        return self._dataset, [ref.views for ref in self._dataset.refs]

    def order(self, views: Sequence[int], rank: int, world: int) -> Order:
        """Return the order of the frames; in pairs with those of what the model knew before, where there are such.

        Likewise those of datasets that are told apart.

        Args:
            views: number of views of each frame.
            rank: which process this is.
            world: number of processes.
        """
        assert self._dataset is not None, "setup() comes first"
        refs, sources = self._dataset.refs, self._dataset.sources
        prior, sizes = [ref.prior for ref in refs], [sources.size_of(ref) for ref in refs]
        if any(prior):
            return Balanced(views, prior, self.images, self.seed, rank, world, sizes)
        if self.apart:
            return Balanced(views, [ref.root for ref in refs], self.images, self.seed, rank, world, sizes)
        return Order(views, self.images, self.seed, rank, world, sizes)

    def described(self) -> list[str]:
        """Say which buckets there are and how many frames are in each, of those that are trained on and those held out."""
        sources = self.open()
        if not self.buckets:
            return []
        train, held = (Counter(sources.size_of(ref) for ref in refs) for refs in (sources.train, sources.val))
        used = sorted(train | held, key=lambda size: size[0] / size[1])
        lines = [f"aspect buckets: {len(used)} of {1 + len(self.buckets)} sizes have frames"]
        for size in used:
            views = sum(ref.views for ref in sources.train if sources.size_of(ref) == size)
            lines.append(f"  {size[0]}x{size[1]}: {train[size]} frames of {views} images, {held[size]} held out")
        return lines

    @property
    def largest(self) -> tuple[int, int]:
        """The (height, width) of the bucket with the most pixels that has frames."""
        sources = self.open()
        return max((sources.size_of(ref) for ref in sources.train), key=lambda size: size[0] * size[1])

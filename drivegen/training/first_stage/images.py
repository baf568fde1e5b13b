"""Single camera images as batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from drivegen.scene import Camera
from drivegen.support.progress import track
from drivegen.training.first_stage.redrawn import Redrawn
from drivegen.training.frames import FrameRef, Sources, image_pixels
from drivegen.training.loaders import SplitData


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """pixels (N, 3, H, W) uint8, and which image each is."""

    pixels: Tensor
    samples: tuple[str, ...]
    redrawn: Tensor | None = None
    """(N, C, h, w) latents of the images that a model has drawn anew, unscaled; None where they are not asked for."""

    def to(self, device: torch.device | str) -> ImageBatch:
        """Move the tensors to a device."""
        redrawn = None if self.redrawn is None else self.redrawn.to(device, non_blocking=True)
        return ImageBatch(self.pixels.to(device, non_blocking=True), self.samples, redrawn)


Item = tuple[str, np.ndarray, np.ndarray | None]
"""An image's file, its pixels, and its latents as a model has drawn them anew."""


class Images(TorchDataset[Item]):
    """Camera images one by one.

    Args:
        cameras: whose images.
        redrawn: gives the latents (C, h, w) of the image of a number; None where they are not asked for.
    """

    def __init__(self, cameras: Sequence[Camera], redrawn: Callable[[int], np.ndarray] | None = None) -> None:
        self.cameras, self.redrawn = list(cameras), redrawn

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: int) -> Item:
        camera = self.cameras[index]
        return str(camera.image_path), image_pixels(camera), None if self.redrawn is None else self.redrawn(index)

    def collate(self, items: list[Item]) -> ImageBatch:
        """Stack images."""
        names, pixels, latents = zip(*items, strict=True)
        redrawn = None if self.redrawn is None else torch.from_numpy(np.stack(latents))
        return ImageBatch(torch.from_numpy(np.stack(pixels)), tuple(names), redrawn)


class ImageData(SplitData):
    """Single camera images of datasets in the nuScenes schema.

    Args:
        roots: dataset folders.
        size: (height, width) in pixels.
        images: images per step.
        version: of the datasets, where a root has several; None for the only one.
        val_scenes: names, or a share of each root's last scenes; not trained on.
        max_frames: at most this many frames are trained on; None = all.
        workers: processes that read images; 0 = this one.
        seed: of the order.
        batches: number of batches of the run; None = one pass per epoch.
        val_frames: how many held-out frames are validated on; None = all.
        skip_missing: leave out frames of which a file is missing; if False they are refused.
        redrawn: draws the latents of all trained frames anew before the training; None = none.
    """

    def __init__(
        self, roots: Sequence[str | Path], *, size: tuple[int, int], images: int = 12, version: str | None = None,
        val_scenes: float | Sequence[str] = 0.0, max_frames: int | None = None, workers: int = 0, seed: int = 0,
        batches: int | None = None, val_frames: int | None = None, skip_missing: bool = False, redrawn: Redrawn | None = None,
    ) -> None:  # fmt: skip
        super().__init__(images=images, seed=seed, workers=workers, batches=batches, val_frames=val_frames)
        self.skip_missing = skip_missing
        self.roots, self.size, self.version, self.val_scenes = list(roots), size, version, val_scenes
        self.max_frames, self.redrawn = max_frames, redrawn
        self.sources: Sources | None = None
        self.dataset: Images | None = None

    def open(self) -> Sources:
        """Open the datasets, unless they are open."""
        if self.sources is None:
            self.sources = Sources(
                self.roots, self.size, self.version, self.val_scenes, self.max_frames, skip_missing=self.skip_missing
            )
        return self.sources

    def setup(self, stage: str | None = None) -> None:
        """Open the datasets and list the cameras; does nothing the second time."""
        if self.dataset is not None or stage == "validate":
            return
        sources = self.open()
        frames = track(sources.train, "reading", unit="frames")
        cameras = [(ref, view, camera) for ref in frames for view, camera in enumerate(sources.frame(ref).cameras)]
        read = None
        if self.redrawn is not None:
            self.redrawn.fill(sources)
            read = partial(_latents, self.redrawn, [(ref, view) for ref, view, _ in cameras])
        self.dataset = Images([camera for _, _, camera in cameras], read)

    def items_of(self, refs: list[FrameRef]) -> Images:
        """Return the camera images of some frames."""
        return Images([camera for ref in refs for camera in self.open().frame(ref).cameras])

    def training_items(self) -> tuple[Images, Sequence[int]]:
        """Return the images that are trained on, each a view by itself."""
        assert self.dataset is not None, "setup() comes first"
        return self.dataset, [1] * len(self.dataset)


def _latents(redrawn: Redrawn, places: Sequence[tuple[FrameRef, int]], index: int) -> np.ndarray:
    ref, view = places[index]
    return redrawn.read(ref)[view]

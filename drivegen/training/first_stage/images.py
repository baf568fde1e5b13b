"""Single camera images as batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from drivegen.scene import Camera
from drivegen.support.progress import track
from drivegen.training.frames import FrameRef, Sources, image_pixels
from drivegen.training.loaders import SplitData


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """pixels (N, 3, H, W) uint8, and which image each is."""

    pixels: Tensor
    samples: tuple[str, ...]

    def to(self, device: torch.device | str) -> ImageBatch:
        """Move the pixels to a device."""
        return ImageBatch(self.pixels.to(device, non_blocking=True), self.samples)


class Images(TorchDataset[tuple[str, np.ndarray]]):
    """Camera images one by one."""

    def __init__(self, cameras: Sequence[Camera]) -> None:
        self.cameras = list(cameras)

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: int) -> tuple[str, np.ndarray]:
        camera = self.cameras[index]
        return str(camera.image_path), image_pixels(camera)

    def collate(self, items: list[tuple[str, np.ndarray]]) -> ImageBatch:
        """Stack images."""
        names, arrays = zip(*items, strict=True)
        return ImageBatch(torch.from_numpy(np.stack(arrays)), tuple(names))


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
    """

    def __init__(
        self, roots: Sequence[str | Path], *, size: tuple[int, int], images: int = 12, version: str | None = None,
        val_scenes: float | Sequence[str] = 0.0, max_frames: int | None = None, workers: int = 0, seed: int = 0,
        batches: int | None = None, val_frames: int | None = None, skip_missing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(images=images, seed=seed, workers=workers, batches=batches, val_frames=val_frames)
        self.skip_missing = skip_missing
        self.roots, self.size, self.version, self.val_scenes = list(roots), size, version, val_scenes
        self.max_frames = max_frames
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
        self.dataset = Images([camera for ref in frames for camera in sources.frame(ref).cameras])

    def items_of(self, refs: list[FrameRef]) -> Images:
        """Return the camera images of some frames."""
        return Images([camera for ref in refs for camera in self.open().frame(ref).cameras])

    def training_items(self) -> tuple[Images, Sequence[int]]:
        """Return the images that are trained on, each a view by itself."""
        assert self.dataset is not None, "setup() comes first"
        return self.dataset, [1] * len(self.dataset)

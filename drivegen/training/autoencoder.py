"""The first stage: an AutoencoderKL trained on single images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from drivegen.scene import Camera
from drivegen.support.progress import track
from drivegen.training.base import TrainedModule
from drivegen.training.config import AutoencoderConfig, TrainConfig
from drivegen.training.datamodule import Sources, image_pixels
from drivegen.training.fill import to_unit
from drivegen.training.order import Loader, Order


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


class ImageData(pl.LightningDataModule):
    """Single camera images of datasets in the nuScenes schema; arguments as `drivegen.training.datamodule.DriveData`."""

    def __init__(
        self, roots: Sequence[str | Path], *, size: tuple[int, int], images: int = 12, version: str | None = None,
        val_scenes: float | Sequence[str] = 0.0, max_frames: int | None = None, workers: int = 0, seed: int = 0,
        batches: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.roots, self.size, self.images, self.version, self.val_scenes = list(roots), size, images, version, val_scenes
        self.max_frames, self.workers, self.seed, self.batches = max_frames, workers, seed, batches
        self.sources: Sources | None = None
        self.dataset: Images | None = None

    def open(self) -> Sources:
        """Open the datasets; does nothing the second time."""
        if self.sources is None:
            self.sources = Sources(self.roots, self.size, self.version, self.val_scenes, self.max_frames)
        return self.sources

    def setup(self, stage: str | None = None) -> None:
        """Open the datasets and list the cameras; does nothing the second time."""
        if self.dataset is not None:
            return
        sources = self.open()
        frames = track(sources.train, "reading", unit="frames")
        self.dataset = Images([camera for ref in frames for camera in sources.frame(ref).cameras])

    def train_dataloader(self) -> Loader:
        """Return the loader of the training images."""
        assert self.dataset is not None, "setup() comes first"
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        order = Order([1] * len(self.dataset), self.images, self.seed, rank, world)
        return Loader(self.dataset, order, self.dataset.collate, self.workers, self.batches)


class AutoencoderModule(TrainedModule):
    """Training of an AutoencoderKL: L1 on pixels and on their gradients at four sizes, and a small KL."""

    def __init__(self, vae: Any, settings: TrainConfig, loss: AutoencoderConfig) -> None:
        super().__init__(settings)
        self.vae, self.loss = vae.requires_grad_(True).train(), loss
        if settings.gradient_checkpointing:
            vae.enable_gradient_checkpointing()

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        pixels = to_unit(random_crops(batch.pixels, self.loss.crop) if self.loss.crop else batch.pixels)
        posterior = self.vae.encode(pixels).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape).to(mean)
        made = self.vae.decode(latents).sample.float()
        l1 = (made - pixels).abs().mean()
        edges = edge_distance(made, pixels)
        colour = colour_distance(made, pixels)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        parts = {"l1": l1, "edges": edges, "colour": colour, "kl": kl, "latent_std": mean.std()}
        self.log_dict({name: value.detach() for name, value in parts.items()})
        total = self.loss.l1 * l1 + self.loss.edges * edges + self.loss.colour * colour + self.loss.kl * kl
        return self.checked(total, batch.samples)


def random_crops(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut one random window of `size` (height, width) out of each image; a window as large as the image is the image."""
    height, width = (min(a, b) for a, b in zip(size, pixels.shape[-2:], strict=True))
    tops = torch.randint(pixels.shape[-2] - height + 1, (len(pixels),)).tolist()
    lefts = torch.randint(pixels.shape[-1] - width + 1, (len(pixels),)).tolist()
    return torch.stack([p[:, y : y + height, x : x + width] for p, y, x in zip(pixels, tops, lefts, strict=True)])


def edge_distance(a: Tensor, b: Tensor, sizes: int = 4) -> Tensor:
    """Return the mean L1 distance of the horizontal and vertical differences of two images, at full, half, quarter … size.

    A blurred edge costs little in plain L1 and much here.
    """
    total = a.new_zeros(())
    difference = a - b
    for level in range(sizes):
        if level:
            difference = F.avg_pool2d(difference, 2)
        if min(difference.shape[-2:]) < 2:
            break
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return total / sizes


def colour_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean L1 distance of red − green and of blue − yellow, at a quarter of the size.

    Plain L1 is nearly all brightness: without this term a short training ends in grey pictures.
    """
    red, green, blue = F.avg_pool2d(a - b, 4).unbind(dim=1)
    return (red - green).abs().mean() + (blue - 0.5 * (red + green)).abs().mean()


@torch.no_grad()
def standardise(vae: Any, dataset: Images, count: int = 512) -> None:
    """Bring every latent channel to mean 0 and standard deviation 1, measured on `count` images spread over a dataset.

    The change is folded into the 1×1 convolutions around the latents, so reconstructions stay what they are and scaling_factor
    is 1. One factor for all channels would leave the faint ones under the noise for most of the schedule. A network without
    those convolutions gets the one factor.
    """
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    device = next(vae.parameters()).device
    latents = []
    for part in np.array_split(chosen, max(1, len(chosen) // 8)):
        pixels = torch.stack([torch.from_numpy(np.ascontiguousarray(dataset[int(i)][1])) for i in part]).to(device)
        latents.append(vae.encode(to_unit(pixels)).latent_dist.mean.float())
    found = torch.cat(latents)
    before, after = vae.quant_conv, vae.post_quant_conv
    if before is None or after is None:
        vae.register_to_config(scaling_factor=1.0 / float(found.std()))
        return
    mean, std = found.mean((0, 2, 3)), found.std((0, 2, 3))
    channels = len(mean)
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)

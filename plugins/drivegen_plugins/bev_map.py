"""Bird's-eye map: a ControlNet branch on the rasterised vector map (MagicDrive, §4.3)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from drivegen import raster
from drivegen.plugin import Arrays, Context, Plugin, Residuals, Signal, per_row, select_or_null
from drivegen.plugin.control_branch import embedding_channels, run_branch
from drivegen.scene import BEV_CLASSES, Camera, Frame
from drivegen.support.errors import InputError, at_least

_CELL = 4
"""Pixels of the image, each way, for which the ground is found once by the embedder "views"."""

_OUTSIDE = 2.0
"""A place off the raster, whose side is from -1 to 1."""


class BEVEmbedding(nn.Module):
    """Convolutions from a raster (B, c, x, y) to the branch's input (B, c0, h, w).

    Args:
        inputs: c.
        outputs: c0.
        channels: of the stages.
        kind: "default" has MagicDrive's strides, which fit its own sizes (200×200 → 28×50); "adaptive" is its Plus embedder:
            padding 1 throughout and a pool to the latent size, so that any size fits.
    """

    def __init__(self, inputs: int, outputs: int, channels: tuple[int, ...], kind: str) -> None:
        super().__init__()
        plus = kind == "adaptive"
        pad: Any = 1 if plus else (2, 1)
        self.kind = kind
        self.conv_in = nn.Conv2d(inputs, channels[0], 3, padding=1)
        blocks: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(channels[:-1])):
            blocks += [nn.Conv2d(a, a, 3, padding=1), nn.Conv2d(a, b, 3, padding=pad, stride=1 if plus and i == 0 else 2)]
        a, b = channels[-2:]
        blocks += [nn.Conv2d(a, a, 3, padding=pad), nn.Conv2d(a, b, 3, padding=pad, stride=(2, 1))]
        self.blocks = nn.ModuleList(blocks)
        # Not zero: the branch ends in zero convolutions, and a second zero in a row would only delay the first gradient.
        self.conv_out = nn.Conv2d(channels[-1], outputs, 3, padding=1)

    def forward(self, raster: Tensor, size: tuple[int, int]) -> Tensor:
        """Embed (B, c, x, y) for latents of size (h, w)."""
        h = nn.functional.silu(self.conv_in(raster))
        for block in self.blocks:
            h = nn.functional.silu(block(h))
        if self.kind == "adaptive":
            h = nn.functional.silu(nn.functional.adaptive_avg_pool2d(h, size))
        out: Tensor = self.conv_out(h)
        if tuple(out.shape[-2:]) != size:
            raise InputError(f"the map embedder gives {tuple(out.shape[-2:])} for latents of {size}; use embedder 'adaptive'")
        return out


class ViewEmbedding(nn.Module):
    """Convolutions on a raster (B, c, x, y), read at the ground that each view sees, then in the view: (B·V, c0, h, w).

    Beside what is read stands the nearness of the ground, so that the line of the horizon and the scale are known. Detectors
    gather a picture's features on the ground in this way (Roddick 2018); here it goes from the ground to the picture.

    Args:
        inputs: c.
        outputs: c0.
        channels: of the stages: the first two on the map, the others in the view.
    """

    def __init__(self, inputs: int, outputs: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        a, b = channels[:2]
        self.conv_in = nn.Conv2d(inputs, a, 3, padding=1)
        self.above = nn.ModuleList([nn.Conv2d(a, a, 3, padding=1), nn.Conv2d(a, b, 3, padding=1)])
        widths = (b + 1, *(channels[2:] or (b,)))
        self.blocks = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(widths))
        self.conv_out = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, raster: Tensor, ground: Tensor, size: tuple[int, int]) -> Tensor:
        """Embed for latents of size (h, w).

        Args:
            raster: (B, c, x, y).
            ground: (B, V, 3, rows, columns) as `BEVMap.prepare` gives it.
            size: (h, w).
        """
        silu, views = nn.functional.silu, ground.shape[1]
        h = silu(self.conv_in(raster))
        for block in self.above:
            h = silu(block(h))
        # One tall grid per scene, for grid_sample takes one per picture.
        at = ground[:, :, :2].permute(0, 1, 3, 4, 2).flatten(1, 2)
        read = nn.functional.grid_sample(h.float(), at, align_corners=False).to(h.dtype)
        read = read.unflatten(2, (views, -1)).transpose(1, 2).flatten(0, 1)
        h = torch.cat([read, ground[:, :, 2:].flatten(0, 1).to(read.dtype)], dim=1)
        for i, block in enumerate(self.blocks):
            h = silu(block(h))
            if i == 0:
                h = nn.functional.adaptive_avg_pool2d(h, size)
        out: Tensor = self.conv_out(h)
        return out


class BEVMap(Plugin):
    """A ControlNet branch on the bird's-eye raster (c, x, y) of ±extent_m/2; null is a zero raster.

    Args:
        classes: the c classes, layers of the map.
        pixels: (x, y) size of the raster.
        extent_m: side of the square that it shows.
        embedder: "views" reads the map where each view sees the ground, so that the branch need not learn the projection;
            "adaptive" lays the whole map over each view and fits any size; "default" does so with MagicDrive's strides.
        channels: of the embedder's stages.
        width: the branch's share of the UNet's channels; 1 = a copy of its encoder.
        attends_to: the plugins whose tokens the branch attends to; None = all.
    """

    accepts = ()

    def __init__(
        self, classes: tuple[str, ...] = BEV_CLASSES, pixels: tuple[int, int] = (200, 200), extent_m: float = 100.0,
        embedder: Literal["adaptive", "default", "views"] = "adaptive", channels: tuple[int, ...] = (16, 32, 96, 256),
        width: float = 1.0, attends_to: tuple[str, ...] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if embedder not in ("adaptive", "default", "views"):
            raise InputError(f"bev_map: embedder {embedder!r} must be 'adaptive', 'default' or 'views'")
        if len(channels) < 2:
            raise InputError(f"bev_map: channels = {list(channels)} must have two numbers or more")
        if not extent_m > 0:
            raise InputError(f"bev_map: extent_m = {extent_m:g} is out of range; allowed: > 0")
        at_least(1, channels=tuple(channels), pixels=tuple(pixels))
        self.classes, self.pixels, self.extent_m = tuple(classes), (pixels[0], pixels[1]), extent_m
        self.embedder_kind, self.channels, self.width = embedder, tuple(channels), width
        self.attends_to = None if attends_to is None else tuple(attends_to)

    def attach(self, backbone: Any) -> None:
        self.branch = backbone.family.branch(self.width)
        sizes = len(self.classes), embedding_channels(self.branch), self.channels
        self.embedder: nn.Module
        if self.embedder_kind == "views":
            self.embedder = ViewEmbedding(*sizes)
        else:
            self.embedder = BEVEmbedding(*sizes, self.embedder_kind)
        self.attends(self.branch)

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        arrays = {"map": raster.bev(frame, self.classes, self.pixels, self.extent_m)}
        if self.embedder_kind == "views":
            arrays["ground"] = np.stack([self._ground(frame, camera) for camera in frame.cameras])
        return arrays

    def _ground(self, frame: Frame, camera: Camera) -> np.ndarray:
        """Return (3, rows, columns) float16: y and x on the raster from -1 to 1, as grid_sample takes them, and nearness."""
        width, height = camera.image_size
        points, depth_m = raster.ground_points(frame, camera, (-(-height // _CELL), -(-width // _CELL)))
        on_map = np.clip(points[..., ::-1] * (2 / self.extent_m), -_OUTSIDE, _OUTSIDE)
        return np.stack([on_map[..., 0], on_map[..., 1], 10.0 / (10.0 + depth_m)]).astype(np.float16)

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        dtype = next(self.embedder.parameters()).dtype
        bird = arrays["map"].to(dtype)
        data = {"map": select_or_null(keep, bird, bird.new_zeros(()))}
        if self.embedder_kind == "views":
            ground = arrays["ground"].float()  # in bf16 a place 50 m away would be off by up to a tenth of a metre
            nowhere = ground.new_tensor([_OUTSIDE, _OUTSIDE, 0.0]).view(1, 1, 3, 1, 1)
            data["ground"] = select_or_null(keep, ground, nowhere)
        return Signal(data=data)

    def residuals(self, x: Tensor, t: Tensor, context: Context, signal: Signal) -> Residuals:
        size, data = (x.shape[-2], x.shape[-1]), signal.data
        # The latent size is known at the first step only; the embedding is the same at all of them.
        if size not in data:
            ground = (data["ground"],) if "ground" in data else ()
            data[size] = per_row(self.embedder(data["map"], *ground, size), context.grid)
        return run_branch(self.branch, x, t, data[size], context, self.attends_to)

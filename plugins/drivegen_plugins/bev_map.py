"""Bird's-eye map: a ControlNet branch on the rasterised vector map (MagicDrive, §4.3)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from drivegen import raster
from drivegen.plugin import Arrays, Context, Plugin, Residuals, Signal, per_row, select_or_null
from drivegen.plugin.control_branch import embedding_channels, run_branch
from drivegen.scene import BEV_CLASSES, Frame
from drivegen.support.errors import InputError, at_least


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


class BEVMap(Plugin):
    """A ControlNet branch on the bird's-eye raster (c, x, y) of ±extent_m/2; null is a zero raster.

    Args:
        classes: the c classes, layers of the map.
        pixels: (x, y) size of the raster.
        extent_m: side of the square that it shows.
        embedder: "adaptive" fits any size, "default" has MagicDrive's strides.
        channels: of the embedder's stages.
        width: the branch's share of the UNet's channels; 1 = a copy of its encoder.
        attends_to: the plugins whose tokens the branch attends to; None = all.
    """

    accepts = ()

    def __init__(
        self, classes: tuple[str, ...] = BEV_CLASSES, pixels: tuple[int, int] = (200, 200), extent_m: float = 100.0,
        embedder: Literal["adaptive", "default"] = "adaptive", channels: tuple[int, ...] = (16, 32, 96, 256),
        width: float = 1.0, attends_to: tuple[str, ...] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if embedder not in ("adaptive", "default"):
            raise InputError(f"bev_map: embedder {embedder!r} must be 'adaptive' or 'default'")
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
        self.embedder = BEVEmbedding(len(self.classes), embedding_channels(self.branch), self.channels, self.embedder_kind)
        self.attends(self.branch)

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        return {"map": raster.bev(frame, self.classes, self.pixels, self.extent_m)}

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        dtype = self.embedder.conv_in.weight.dtype
        bird = arrays["map"].to(dtype)
        return Signal(data={"map": select_or_null(keep, bird, bird.new_zeros(()))})

    def residuals(self, x: Tensor, t: Tensor, context: Context, signal: Signal) -> Residuals:
        size = (x.shape[-2], x.shape[-1])
        # The latent size is known at the first step only; the embedding is the same at all of them.
        if size not in signal.data:
            signal.data[size] = per_row(self.embedder(signal.data["map"], size), context.grid)
        return run_branch(self.branch, x, t, signal.data[size], context, self.attends_to)

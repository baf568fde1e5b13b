"""The shapes of terms that plugins add to a UNet's skips, middle block and down blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drivegen.backbones.unet_branch import skip_channels

Shape = tuple[int | None, int | None, int | None]
"""Channels, height, width; None = not known."""


@dataclass(frozen=True)
class SkipShapes:
    """Shapes (channels, height, width) of a UNet's places for one latent size.

    down holds the skips', the input's first; mid the middle's; intrablock those inside of the down blocks (T2I-Adapter's).
    """

    down: tuple[Shape, ...]
    mid: Shape
    intrablock: tuple[Shape, ...]

    def for_intrablock(self) -> tuple[int, tuple[Shape, ...]]:
        """Return the minimal number of terms inside the down blocks, and their shapes: diffusers accepts one more, at the
        middle.
        """
        return len(self.intrablock), (*self.intrablock, self.mid)


def skip_shapes(unet: Any, size: tuple[int, int]) -> SkipShapes:
    """Derive the shapes from a UNet's modules, for latents of a size (h, w); sizes of unknown down-samplers are None."""
    now: tuple[int | None, int | None] = size
    down, inside = [now], []
    for block in unet.down_blocks:
        down += [now] * len(block.resnets)
        before = now
        for sampler in block.downsamplers or ():
            now = (_halved(now[0], sampler), _halved(now[1], sampler))
            down.append(now)
        # diffusers adds to a block with cross-attention before its down-sampler, and to any other after it.
        inside.append((int(block.resnets[-1].out_channels), *(before if getattr(block, "has_cross_attention", False) else now)))
    skips = tuple((c, h, w) for c, (h, w) in zip(skip_channels(unet), down, strict=True))
    return SkipShapes(skips, (skips[-1][0], *now), tuple(inside))


def _halved(length: int | None, sampler: Any) -> int | None:
    """Length after a down-sampler of diffusers: a convolution of stride 2, or a mean of two."""
    if length is None or type(sampler).__name__ != "Downsample2D":
        return None
    return (length + 1) // 2 if sampler.use_conv and sampler.padding else length // 2

"""Layout: a ControlNet branch on the scene projected into each view, so that the network need not learn the projection."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drivegen import raster
from drivegen.plugin import Arrays, Context, Plugin, Residuals, Signal
from drivegen.plugin.control_branch import embedding_channels, halvings, run_branch
from drivegen.scene import BEV_CLASSES, DETECTION_CLASSES, Frame
from drivegen.support.errors import InputError, at_least

_SIDES = 5
CHANNELS = len(BEV_CLASSES) + len(DETECTION_CLASSES) + 1 + 2 + _SIDES + 3
"""Map classes, box classes and "other", heading (sin, cos), side and visibility of the box, nearness, where it is known."""


class Layout(Plugin):
    """Map classes on the ground, and boxes by class, heading, side and depth, nearest in front; null is a zero raster.

    Args:
        width: the branch's share of the UNet's channels; 1 = a copy of its encoder.
        channels: of its embedder's stages; the last feeds the branch (as many as fit the VAE's factor are used, the rest repeat
            the last).
        attends_to: the plugins whose tokens the branch attends to; None = all.
    """

    accepts = ()

    def __init__(
        self, width: float = 1.0, channels: tuple[int, ...] = (16, 32, 96, 256), attends_to: tuple[str, ...] | None = None
    ) -> None:
        super().__init__()
        if not channels:
            raise InputError("layout: channels is empty; give at least one number")
        at_least(1, channels=tuple(channels))
        self.width, self.channels = width, tuple(channels)
        self.attends_to = None if attends_to is None else tuple(attends_to)

    def attach(self, backbone: Any) -> None:
        from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

        stages = halvings(backbone.vae_factor) + 1
        channels = (self.channels + (self.channels[-1],) * stages)[:stages]
        self.branch = backbone.family.branch(self.width)
        embedder: Any = ControlNetConditioningEmbedding(embedding_channels(self.branch), CHANNELS, channels)
        # The branch ends in zero convolutions: a second zero in a row would only delay the first gradient.
        embedder.conv_out.reset_parameters()
        self.embedder: nn.Module = embedder
        self.attends(self.branch)

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        views = [raster.layout(frame, camera) for camera in frame.cameras]
        return {
            "map_bits": np.stack([view.map_bits for view in views]),
            "box_class": np.stack([view.box_class for view in views]),
            "heading": np.stack([view.heading for view in views]),
            "side": np.stack([view.side for view in views]),
            "visibility": np.stack([view.visibility for view in views]),
            "depth_m": np.stack([view.depth_m for view in views]),
        }

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        device = keep.device.type
        dtype = next(self.embedder.parameters()).dtype
        # Autocast would make a second copy of the widest array of a training step.
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype
        kept = keep.nonzero().flatten()
        shown = expand({name: value[kept] for name, value in arrays.items()}, dtype)
        picture = shown
        if len(kept) < len(keep):
            picture = shown.new_zeros(len(keep), *shown.shape[1:])
            picture[kept] = shown
        return Signal(data=self.embedder(picture.flatten(0, 1)))

    def residuals(self, x: Tensor, t: Tensor, context: Context, signal: Signal) -> Residuals:
        return run_branch(self.branch, x, t, signal.data, context, self.attends_to)


def expand(arrays: Arrays, dtype: torch.dtype = torch.float32) -> Tensor:
    """Convert the compact raster to (B, V, CHANNELS, H, W): one channel per property, each within [−1, 1].

    Args:
        arrays: what `Layout.prepare` gives, batched.
        dtype: of the result; each value is rounded to it once.
    """
    bits, box, side, depth = (arrays[name] for name in ("map_bits", "box_class", "side", "depth_m"))
    depth = depth.float()
    near = torch.where(depth > 0, 10.0 / (10.0 + depth), 0.0)  # from 1 at the lens: near and far boxes are equally distinct
    channels = [(bits >> k) & 1 for k in range(len(BEV_CLASSES))]
    channels += [box == label for label in (*range(1, len(DETECTION_CLASSES) + 1), 255)]
    channels += [arrays["heading"][:, :, 0], arrays["heading"][:, :, 1]]
    channels += [side == k for k in range(1, _SIDES + 1)]
    channels += [arrays["visibility"].float() / 4, near, depth > 0]
    # Each is written where it belongs, which takes half the time of converting and joining them.
    picture = torch.empty(*bits.shape[:2], len(channels), *bits.shape[2:], dtype=dtype, device=bits.device)
    for k, channel in enumerate(channels):
        picture[:, :, k] = channel
    return picture

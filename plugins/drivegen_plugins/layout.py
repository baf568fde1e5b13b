"""Layout: a ControlNet branch on the scene projected into each view, so that the network need not learn the projection."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drivegen import raster
from drivegen.plugin import Arrays, Context, Plugin, Residuals, Signal, select_or_null
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
        dtype = next(self.embedder.parameters()).dtype
        picture = expand(arrays).to(dtype)
        picture = select_or_null(keep, picture, picture.new_zeros(()))
        return Signal(data=self.embedder(picture.flatten(0, 1)))

    def residuals(self, x: Tensor, t: Tensor, context: Context, signal: Signal) -> Residuals:
        return run_branch(self.branch, x, t, signal.data, context, self.attends_to)


def expand(arrays: Arrays) -> Tensor:
    """Convert the compact raster to (B, V, CHANNELS, H, W): one channel per property, each within [−1, 1]."""
    bits = arrays["map_bits"].long()[:, :, None]
    ground = (bits >> torch.arange(len(BEV_CLASSES), device=bits.device).view(1, 1, -1, 1, 1)) & 1
    labels = torch.arange(1, len(DETECTION_CLASSES) + 1, device=bits.device).tolist()
    box = arrays["box_class"][:, :, None]
    classes = torch.cat([box == label for label in labels] + [box == 255], dim=2)
    side = torch.cat([arrays["side"][:, :, None] == k for k in range(1, _SIDES + 1)], dim=2)
    depth = arrays["depth_m"].float()[:, :, None]
    seen = arrays["visibility"][:, :, None].float() / 4
    # Nearness falls from 1 at the lens by half every 10 m, so that near and far boxes are equally distinct.
    near = torch.where(depth > 0, 10.0 / (10.0 + depth), 0.0)
    parts = [ground, classes, arrays["heading"], side, seen, near, depth > 0]
    return torch.cat([part.float() for part in parts], dim=2)

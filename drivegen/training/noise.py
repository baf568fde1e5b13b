"""The noise of training: drawn on the CPU, so that a seed gives the same noise on every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from drivegen.plugin import Grid
from drivegen.sampling.noise import camera_generators
from drivegen.sampling.settings import Noise
from drivegen.sampling.sphere import sphere_noise
from drivegen.scene import Camera
from drivegen.support.errors import InputError

Rigs = Sequence[Sequence[Camera]]
"""The cameras of each frame, in the order of its views."""


def training_noise(
    kind: Noise, grid: Grid, shape: tuple[int, int, int], cameras: Rigs | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Draw standard normal noise (N, C, h, w) in fp32, as sampling draws its initial noise.

    Args:
        kind: "independent", "shared" (one noise for all views of a frame) or "sphere" (`sphere_noise`, anew for each frame).
        grid: scenes, frames and views.
        shape: (C, h, w) of one view's latents.
        cameras: the rig of each of the B·T frames, for "sphere" alone; None for the others.
        generator: draws the noise; None = torch's own.
    """
    frames = grid.scenes * grid.frames
    if kind != "sphere":
        count = frames if kind == "shared" else grid.rows
        return torch.randn(count, *shape, generator=generator).repeat_interleave(grid.rows // count, dim=0)
    if cameras is None:
        raise InputError("noise 'sphere' needs the cameras of every frame: give the data cameras=True")
    drawn = []
    for rig, seed in zip(cameras, torch.randint(2**62, (frames,), generator=generator).tolist(), strict=True):
        generators = camera_generators(seed, [camera.channel for camera in rig])
        drawn.append(sphere_noise(seed, rig, shape, generators))
    return torch.cat(drawn)

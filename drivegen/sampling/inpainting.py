"""Part of the picture is known: its latents are kept at every step, whatever the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.plugin import Denoiser
from drivegen.support.errors import InputError


@dataclass(frozen=True, eq=False)
class Known:
    """Latents that are known outside of a region.

    Args:
        clean: (N, C, h, w) of the known pictures.
        noise: (N, C, h, w), which the sampler starts from too.
        drawn: (N, 1, h, w) bool, True where latents are drawn anew.
    """

    clean: Tensor
    noise: Tensor
    drawn: Tensor

    def __post_init__(self) -> None:
        expected = (len(self.clean), 1, *self.clean.shape[2:])
        if self.clean.ndim != 4 or self.noise.shape != self.clean.shape or self.drawn.shape != expected:
            shapes = f"{tuple(self.clean.shape)}, noise {tuple(self.noise.shape)} and region {tuple(self.drawn.shape)}"
            raise InputError(f"known latents of shape {shapes} do not fit together")

    def kept(self, denoise: Denoiser, schedule: NoiseSchedule, begun: bool = False) -> Denoiser:
        """Show a denoiser the known latents at each timestep's noise, in place of what the sampler has there.

        Samplers treat each number of x by itself, so this is what diffusers' inpainting does after each step, for a sampler of
        several evaluations per step too (blended diffusion: Avrahami et al. 2023, Blended Latent Diffusion, algorithm 1). What
        the sampler starts from is noise in all places, as in diffusers, and is not replaced.

        Args:
            denoise: ``denoise(x, t)`` with all its guidance.
            schedule: of the x that the sampler gives (`Sampler.schedule`).
            begun: whether the sampler is under way when it first asks, as it is where a second model takes over.
        """

        def keeping(x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
            nonlocal begun
            if begun:
                a, s = schedule.rates(t, x)
                x = torch.where(self.drawn, x, a * self.clean.to(x) + s * self.noise.to(x))
            begun = True
            return denoise(x, t, known)

        return keeping

    def put_back(self, x: Tensor) -> Tensor:
        """Return clean latents x (N, C, h, w) with the known ones in their place."""
        return torch.where(self.drawn, x, self.clean.to(x))


def cells(mask: Tensor, height: int, width: int) -> Tensor:
    """Return which latent cells (N, 1, h, w) a mask (N, 1, H, W) of 0 to 1 has white: bool, of the pixel that diffusers reads.

    Args:
        mask: 1 = drawn anew; what is 0.5 or more counts as 1.
        height: of the latents.
        width: of the latents.
    """
    return interpolate((mask >= 0.5).float(), (height, width)) > 0

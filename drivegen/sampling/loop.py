"""Sampling is a function of a denoiser."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from drivegen.plugin import Denoiser

StepCallback = Callable[[int, Tensor, Tensor], Tensor | None]
"""``callback(step, t, x)`` after each step; a tensor that it returns replaces x."""


def sample(
    denoise: Denoiser,
    scheduler: Any,
    x: Tensor,
    timesteps: Tensor | None = None,
    generators: Sequence[torch.Generator] | None = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Run a diffusers scheduler from noisy latents x (N, C, h, w) to clean ones.

    timesteps are the scheduler's own, or its last ones (image to image); generators, one a row, feed stochastic samplers.
    """
    options = {"generator": list(generators)} if generators is not None and _takes_generator(scheduler) else {}
    for i, t in enumerate(scheduler.timesteps if timesteps is None else timesteps):
        prediction = denoise(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(prediction, t, x, return_dict=False, **options)[0]
        if callback is not None:
            changed = callback(i, t, x)
            x = x if changed is None else changed
    return x


def start_at(scheduler: Any, strength: float) -> Tensor:
    """Return the timesteps left when only the last `strength` (0 to 1) of the schedule is run, and tell the scheduler."""
    # Some samplers list a timestep several times (PNDM, Heun), so steps are counted on the list itself, as diffusers does.
    total = len(scheduler.timesteps)
    order = getattr(scheduler, "order", 1)
    first = total - min(round(total * strength), total)
    first -= first % order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    left: Tensor = scheduler.timesteps[first:]
    return left


class CleanLatents:
    """``to_x0(x, t, prediction)`` for x = α·x0 + σ·ε of unit variance, after a scheduler's prediction type.

    epsilon: Ho et al. (2020), eq. 15; v-prediction: Salimans and Ho (2022), appendix D. Fractional timesteps interpolate ᾱ.
    """

    def __init__(self, scheduler: Any) -> None:
        self.kind: str = scheduler.config.prediction_type
        self._alphas: Tensor = scheduler.alphas_cumprod.double().cpu()

    def __call__(self, x: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """Give the clean latents (N, C, h, w) that a prediction implies."""
        if self.kind == "sample":
            return prediction
        a, s = self.rates(t, x)
        return a * x - s * prediction if self.kind == "v_prediction" else (x - s * prediction) / a

    def rates(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Give α and σ of timesteps (N,) or (), shaped to multiply latents `like`."""
        at = t.detach().double().cpu().clamp(0, len(self._alphas) - 1)
        low = at.floor().long()
        alpha = torch.lerp(self._alphas[low], self._alphas[at.ceil().long()], at - low)
        a, s = alpha.sqrt().to(like), (1 - alpha).sqrt().to(like)
        return (a.view(-1, 1, 1, 1), s.view(-1, 1, 1, 1)) if a.ndim else (a, s)

    def shift_x0(self, t: Tensor, prediction: Tensor, delta: Tensor) -> Tensor:
        """Give the prediction whose clean latents lie `delta` (N, C, h, w) further."""
        if self.kind == "sample":
            return prediction + delta
        a, s = self.rates(t, prediction)
        return prediction - delta / s if self.kind == "v_prediction" else prediction - delta * a / s


def clean_latents(scheduler: Any) -> CleanLatents:
    """Return the scheduler's ``to_x0(x, t, prediction)``."""
    return CleanLatents(scheduler)


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters

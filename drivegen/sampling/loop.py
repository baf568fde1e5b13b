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


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters

"""The loop over a scheduler of diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drivegen.plugin import Denoiser
from drivegen.plugin.sampler import StepCallback


def sample(
    denoise: Denoiser,
    scheduler: Any,
    x: Tensor,
    timesteps: Tensor | None = None,
    generators: Sequence[torch.Generator] | None = None,
    callback: StepCallback | None = None,
    **in_steps: Any,
) -> Tensor:
    """Run a diffusers scheduler from noisy latents x (N, C, h, w) to clean ones.

    Args:
        denoise: ``denoise(x, t)``, the network's prediction.
        scheduler: its timesteps are set.
        x: latents at the scheduler's own scale.
        timesteps: the scheduler's own when None, or its last ones (image to image).
        generators: one per row, for stochastic samplers.
        callback: called after each step.
        in_steps: further arguments of the scheduler's ``step``.
    """
    options = {"generator": list(generators)} if generators is not None and _takes_generator(scheduler) else {}
    for i, t in enumerate(scheduler.timesteps if timesteps is None else timesteps):
        prediction = denoise(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(prediction, t, x, return_dict=False, **options, **in_steps)[0]
        if callback is not None:
            changed = callback(i, t, x)
            x = x if changed is None else changed
    return x


def start_at(scheduler: Any, strength: float) -> Tensor:
    """Return the timesteps left when only the last `strength` (0 to 1) of the schedule is run, and prepare the scheduler."""
    # Some samplers list a timestep several times (PNDM, Heun), so steps are counted on the list itself, as diffusers does.
    total = len(scheduler.timesteps)
    order = getattr(scheduler, "order", 1)
    first = total - min(round(total * strength), total)
    first -= first % order if first < total else 0  # none left is none, wherever a step of several evaluations begins
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    left: Tensor = scheduler.timesteps[first:]
    return left


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters

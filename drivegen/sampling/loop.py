"""Sampling is a function of a denoiser."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from drivegen.plugin import Denoiser
from drivegen.sampling.samplers import SAMPLERS
from drivegen.support.errors import InputError

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


def use_timesteps(scheduler: Any, sampler: str, timesteps: Sequence[int], device: Any = None) -> None:
    """Give a scheduler its timesteps, as diffusers' pipelines do with ``timesteps=``; raises InputError where it takes none.

    Args:
        scheduler: one of diffusers', as `build_scheduler` makes it.
        sampler: its name here, for errors.
        timesteps: whole numbers below the model's training timesteps, falling.
        device: where they are kept.
    """
    total = int(scheduler.config.num_train_timesteps)
    if timesteps[0] >= total:
        raise InputError(f"timestep {timesteps[0]} must be from 0 to {total - 1}, the model's last")
    if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
        able = ", ".join(name for name in SAMPLERS if takes_timesteps(name))
        raise InputError(f"the sampler {sampler!r} takes no timesteps; use one of {able}")
    try:
        scheduler.set_timesteps(timesteps=list(timesteps), device=device)
    except ValueError as error:
        raise InputError(f"the sampler {sampler!r} does not take these timesteps: {error}") from error


def takes_timesteps(sampler: str) -> bool:
    """Tell whether a sampler takes timesteps of the caller's."""
    import diffusers

    entry = SAMPLERS[sampler]
    able = "timesteps" in inspect.signature(getattr(diffusers, entry.class_name).set_timesteps).parameters
    return able and not entry.options.get("use_karras_sigmas")


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters

"""The contract of samplers: latents from a denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.diffusion.training_facts import PREDICTIONS, training_facts
from drivegen.plugin.signals import Denoiser

StepCallback = Callable[[int, Tensor, Tensor], Tensor | None]
"""``callback(step, t, x)`` after each step; a tensor that it returns replaces x."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """The settings of one run of a sampler.

    Args:
        trained: the model's scheduler of diffusers, which states how it was trained; `facts` and `schedule` say the same.
        steps: how many steps the caller wants; timesteps, where they are given, are as many.
        name: what the caller calls the sampler, for errors.
        timesteps: the caller's own, whole numbers that fall.
        generators: CPU generators, one per row of x, for samplers that draw noise; None is torch's own.
        clean: latents (N, C, h, w) of pictures to start from; None starts from noise.
        strength: with clean, the last share of the steps that is run, from 0 (none: clean is returned) to 1.
        callback: called after each step.
        device: where timesteps lie.
    """

    trained: Any
    steps: int
    name: str = ""
    timesteps: Sequence[int] | None = None
    generators: Sequence[torch.Generator] | None = None
    clean: Tensor | None = None
    strength: float = 1.0
    callback: StepCallback | None = None
    device: Any = None

    @cached_property
    def facts(self) -> dict[str, Any]:
        """How the model was trained, as arguments of diffusers' schedulers (`training_facts`)."""
        return training_facts(self.trained)

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule that the model was trained by, and what it predicts."""
        return NoiseSchedule.trained(self.trained)

    def draw(self, like: Tensor) -> Tensor:
        """Draw standard normal noise of the shape of x (N, C, h, w), each row by its own generator."""
        if self.generators is None:
            return torch.randn_like(like)
        rows = zip(self.generators, like, strict=True)
        return torch.stack([torch.randn(row.shape, generator=g, dtype=torch.float32) for g, row in rows]).to(like)

    def stepped(self, step: int, t: Tensor, x: Tensor) -> Tensor:
        """Call the callback after a step; returns x, or what replaces it.

        Args:
            step: number of the step, from 0.
            t: its timestep ().
            x: the latents (N, C, h, w).
        """
        changed = None if self.callback is None else self.callback(step, t, x)
        return x if changed is None else changed

    def left(self, timesteps: Tensor) -> Tensor:
        """Return the timesteps to run: all, or for pictures the last share `strength` of them."""
        if self.clean is None:
            return timesteps
        return timesteps[len(timesteps) - min(round(len(timesteps) * self.strength), len(timesteps)) :]


class Sampler(ABC):
    """A way from noise to latents: a function of a denoiser, found by entry point (``drivegen.samplers``).

    Its options are the arguments of its constructor, each with a default; they are saved with a model by name, and checked by
    the types of the annotations. An instance holds its options and nothing of a run. Conventions:

    - ``denoise(x, t)`` takes x = α·x0 + σ·ε of the model's own `schedule` at a timestep t (), which need not be whole;
    - a row of latents depends on no other row, and draws its noise by its own generator (`Run.draw`);
    - `timesteps` is asked before any network computes, and refuses there what cannot be run, by an InputError.
    """

    zero_snr: ClassVar[bool] = True
    """Whether it can start from pure noise: α = 0 at the last timestep (zero terminal signal-to-noise ratio)."""
    predictions: ClassVar[tuple[str, ...]] = PREDICTIONS
    """What the network may predict."""
    distilled: ClassVar[bool] = False
    """Whether it needs a network that was distilled to predict the clean latents (consistency models)."""

    @classmethod
    def takes_timesteps(cls) -> bool:
        """Tell whether the caller may give the timesteps."""
        return False

    @abstractmethod
    def timesteps(self, run: Run) -> Tensor:
        """Return the timestep of each step that will be run, in order; raises InputError where the run is not possible."""

    @abstractmethod
    def __call__(self, denoise: Denoiser, x: Tensor, run: Run) -> Tensor:
        """Sample: returns clean latents (N, C, h, w).

        Args:
            denoise: ``denoise(x, t)``, the network's prediction, guided already.
            x: standard normal noise (N, C, h, w); it is not written to.
            run: everything else.
        """

    def schedule(self, run: Run) -> NoiseSchedule:
        """Return the schedule of what `denoise` is given, which guidance uses; the model's own by default."""
        return run.schedule

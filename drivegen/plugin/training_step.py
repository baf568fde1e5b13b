"""The state of a training step, passed to a plugin's `weight`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class ToX0(Protocol):
    """``to_x0(x, t, prediction)`` → clean latents (N, C, h, w), for x = α·x0 + σ·ε at timesteps t (N,) or ()."""

    def __call__(self, x: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """Return the clean latents of a prediction."""
        ...

    def rates(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return α and σ, shaped to multiply latents `like`."""
        ...

    def shift_x0(self, t: Tensor, prediction: Tensor, delta: Tensor) -> Tensor:
        """Return the prediction whose clean latents are shifted by delta, whatever the model predicts.

        Args:
            t: timesteps (N,) or ().
            prediction: (N, C, h, w).
            delta: (N, C, h, w), added to the clean latents.
        """
        ...


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """One step's N rows of latents (N, C, h, w), in fp32 and without gradients: weights are constants of the loss.

    Args:
        t: timesteps (N,).
        clean: the pictures' latents x0.
        noise: the noise ε that was added.
        noisy: α·x0 + σ·ε, which the network was given.
        prediction: what the network made of it.
        target: what it should have: noise, v or clean latents, as the model predicts.
        schedule: gives α and σ of timesteps (`rates`) and the clean latents of a prediction.
    """

    t: Tensor
    clean: Tensor
    noise: Tensor
    noisy: Tensor
    prediction: Tensor
    target: Tensor
    schedule: ToX0

    @property
    def x0(self) -> Tensor:
        """The clean latents that the prediction implies (N, C, h, w)."""
        return self.schedule(self.noisy, self.t, self.prediction)

    @property
    def noise_error(self) -> Tensor:
        """``ε̂ − ε`` (N, C, h, w), where ε̂ is the noise that the prediction implies: −α/σ of the error in x0."""
        alpha, sigma = self.schedule.rates(self.t, self.clean)
        return (self.clean - self.x0) * alpha / sigma

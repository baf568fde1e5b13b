"""The noise schedule x = α·x0 + σ·ε: rates, targets and clean latents, for training and sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drivegen.diffusion.training_facts import PREDICTIONS, training_facts
from drivegen.support.errors import InputError


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """ᾱ of every training timestep (steps,) in fp32, α = √ᾱ and σ = √(1 − ᾱ), and the prediction type.

    Calling it is ``to_x0(x, t, prediction)``.
    """

    alphas_cumprod: Tensor
    prediction_type: str

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTIONS:
            raise InputError(f"the scheduler's prediction_type {self.prediction_type!r} is not one of {', '.join(PREDICTIONS)}")

    @classmethod
    def of(cls, scheduler: Any) -> NoiseSchedule:
        """Take the schedule that one of diffusers' schedulers samples with."""
        return cls(scheduler.alphas_cumprod.float(), str(scheduler.config.prediction_type))

    @classmethod
    def trained(cls, scheduler: Any) -> NoiseSchedule:
        """Take the schedule that a model was trained with, read from any of diffusers' schedulers.

        At zero terminal SNR the two differ: some samplers raise the last ᾱ above zero. Raises InputError where the training
        facts are of another kind (`training_facts`).
        """
        from diffusers import DDPMScheduler

        return cls.of(DDPMScheduler(**training_facts(scheduler)))

    @property
    def steps(self) -> int:
        """Number of training timesteps."""
        return len(self.alphas_cumprod)

    @property
    def terminal_snr(self) -> float:
        """Signal-to-noise ratio of the last timestep."""
        last = float(self.alphas_cumprod[-1])
        return last / (1 - last)

    def rates(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return α and σ of timesteps (N,) or (), shaped to multiply latents `like`; for fractional ones ᾱ is interpolated."""
        alphas = self.alphas_cumprod.double().cpu()
        at = t.detach().double().cpu().clamp(0, len(alphas) - 1)
        low = at.floor().long()
        alpha = torch.lerp(alphas[low], alphas[at.ceil().long()], at - low)
        a, s = alpha.sqrt().to(like), (1 - alpha).sqrt().to(like)
        return (a.view(-1, 1, 1, 1), s.view(-1, 1, 1, 1)) if a.ndim else (a, s)

    # -- training ----------------------------------------------------------------------------------------------------

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mix clean latents and noise: α·x0 + σ·ε.

        Args:
            clean: (N, C, h, w), x0.
            noise: (N, C, h, w), ε.
            t: timesteps (N,).
        """
        a, s = self._columns(t)
        return a * clean + s * noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the network should predict, (N, C, h, w).

        Args:
            clean: (N, C, h, w), x0.
            noise: (N, C, h, w), ε.
            t: timesteps (N,).
        """
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return clean
        a, s = self._columns(t)
        return a * noise - s * clean

    def _columns(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a = self.alphas_cumprod.to(t.device)[t][:, None, None, None]
        return a.sqrt(), (1 - a).sqrt()

    # -- sampling ----------------------------------------------------------------------------------------------------

    def __call__(self, x: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """Return the clean latents (N, C, h, w) of a prediction.

        epsilon: Ho et al. (2020), eq. 15; v-prediction: Salimans and Ho (2022), appendix D.
        """
        if self.prediction_type == "sample":
            return prediction
        a, s = self.rates(t, x)
        return a * x - s * prediction if self.prediction_type == "v_prediction" else (x - s * prediction) / a

    def epsilon(self, x: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """Give the noise (N, C, h, w) that a prediction implies.

        Args:
            x: noisy latents (N, C, h, w).
            t: timesteps (N,) or ().
            prediction: (N, C, h, w).
        """
        if self.prediction_type == "epsilon":
            return prediction
        a, s = self.rates(t, x)
        return s * x + a * prediction if self.prediction_type == "v_prediction" else (x - a * prediction) / s

    def prediction(self, x: Tensor, t: Tensor, clean: Tensor) -> Tensor:
        """Return what the model predicts (N, C, h, w) where the clean latents are given: the inverse of calling the schedule.

        Args:
            x: noisy latents (N, C, h, w), of σ > 0.
            t: timesteps (N,) or ().
            clean: x0 (N, C, h, w).
        """
        if self.prediction_type == "sample":
            return clean
        a, s = self.rates(t, x)
        return (x - a * clean) / s if self.prediction_type == "epsilon" else (a * x - clean) / s

    def velocity(self, x: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """Return v = α·ε − σ·x0 (N, C, h, w) of a prediction.

        Args:
            x: noisy latents (N, C, h, w).
            t: timesteps (N,) or ().
            prediction: what the network predicted (N, C, h, w).
        """
        if self.prediction_type == "v_prediction":
            return prediction
        a, s = self.rates(t, x)
        return (prediction - s * x) / a if self.prediction_type == "epsilon" else (a * x - prediction) / s

    def shift_x0(self, t: Tensor, prediction: Tensor, delta: Tensor) -> Tensor:
        """Return the prediction whose clean latents are shifted by delta.

        Args:
            t: timesteps (N,) or ().
            prediction: (N, C, h, w).
            delta: (N, C, h, w), added to the clean latents.
        """
        if self.prediction_type == "sample":
            return prediction + delta
        a, s = self.rates(t, prediction)
        return prediction - delta / s if self.prediction_type == "v_prediction" else prediction - delta * a / s

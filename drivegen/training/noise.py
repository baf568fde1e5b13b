"""The training side of a noise schedule: noisy latents, what is predicted, and loss weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drivegen.support.errors import InputError


@dataclass(frozen=True, eq=False)
class Schedule:
    """alphas_cumprod (steps,) in fp32 and what the network predicts: epsilon, v_prediction or sample."""

    alphas_cumprod: Tensor
    prediction_type: str

    @property
    def steps(self) -> int:
        """Number of training timesteps."""
        return len(self.alphas_cumprod)

    @property
    def terminal_snr(self) -> float:
        """Signal-to-noise ratio of the last timestep."""
        last = float(self.alphas_cumprod[-1])
        return last / (1 - last)

    def alpha(self, t: Tensor) -> Tensor:
        """Return the cumulative alphas (N,) of timesteps."""
        return self.alphas_cumprod.to(t.device)[t]


def training_schedule(scheduler: Any) -> Schedule:
    """Take the noise schedule of one of diffusers' schedulers, whichever sampler it is."""
    from diffusers import DDPMScheduler

    ours = DDPMScheduler.from_config(scheduler.config)
    kind = str(ours.config.prediction_type)
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise InputError(f"the scheduler's prediction_type {kind!r} is not epsilon, v_prediction or sample")
    return Schedule(ours.alphas_cumprod.float(), kind)


def _column(x: Tensor) -> Tensor:
    return x[:, None, None, None]


def add_noise(schedule: Schedule, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Mix clean latents and noise: sqrt(a) x + sqrt(1 - a) e."""
    a = schedule.alpha(t)
    return _column(a.sqrt()) * clean + _column((1 - a).sqrt()) * noise


def target_of(schedule: Schedule, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return what the network should predict; v = sqrt(a) e - sqrt(1 - a) x (Salimans and Ho 2022, eq. 12)."""
    if schedule.prediction_type == "epsilon":
        return noise
    if schedule.prediction_type == "sample":
        return clean
    a = schedule.alpha(t)
    return _column(a.sqrt()) * noise - _column((1 - a).sqrt()) * clean


def loss_weights(schedule: Schedule, t: Tensor, gamma: float) -> Tensor:
    """Return min-SNR weights (N,) for the squared error of the prediction (Hang et al. 2023, section 3.4).

    min(snr, gamma) of the error in x0; an error in epsilon is snr times, in v snr + 1 times as large.
    """
    a = schedule.alpha(t)
    snr = a / (1 - a)
    capped = snr.clamp(max=gamma)
    if schedule.prediction_type == "sample":
        return capped
    return torch.where(snr > 0, capped / snr, 1.0) if schedule.prediction_type == "epsilon" else capped / (snr + 1)

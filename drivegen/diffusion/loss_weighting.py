"""Weights of the loss by noise level, for each kind of prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule


def min_snr_weights(schedule: NoiseSchedule, t: Tensor, gamma: float) -> Tensor:
    """Return min-SNR weights (N,) for the squared error of the prediction (Hang et al. 2023, section 3.4).

    Args:
        schedule: the noise schedule. An error in x0 has the weight min(snr, gamma); the same error is snr times as large in
            epsilon, and snr + 1 times in v.
        t: timesteps (N,).
        gamma: signal-to-noise ratio above which the weight is constant; 5 in the paper.
    """
    a = schedule.alphas_cumprod.to(t.device)[t]
    snr = a / (1 - a)
    capped = snr.clamp(max=gamma)
    if schedule.prediction_type == "sample":
        return capped
    return torch.where(snr > 0, capped / snr, 1.0) if schedule.prediction_type == "epsilon" else capped / (snr + 1)

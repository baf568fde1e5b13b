"""How much an error counts at each noise level, whatever the network predicts."""

from __future__ import annotations

import torch
from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule


def min_snr_weights(schedule: NoiseSchedule, t: Tensor, gamma: float) -> Tensor:
    """Give min-SNR weights (N,) for the squared error of the prediction (Hang et al. 2023, section 3.4).

    Args:
        schedule: the noise schedule; an error in x0 counts min(snr, gamma), one in epsilon is snr times, in v snr + 1 times as
            large.
        t: timesteps (N,).
        gamma: where the weight stops growing with the signal-to-noise ratio; 5 in the paper.
    """
    a = schedule.alphas_cumprod.to(t.device)[t]
    snr = a / (1 - a)
    capped = snr.clamp(max=gamma)
    if schedule.prediction_type == "sample":
        return capped
    return torch.where(snr > 0, capped / snr, 1.0) if schedule.prediction_type == "epsilon" else capped / (snr + 1)

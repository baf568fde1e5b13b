"""Fourier features of coordinates."""

from __future__ import annotations

import torch
from torch import Tensor


def fourier_features(x: Tensor, frequencies: int = 4) -> Tensor:
    """Map (..., d) to (..., d·(1 + 2·frequencies)): x, then sin and cos of x, 2x, 4x, 8x …, without π or normalisation.

    The embedding of NeRF (Mildenhall 2020, eq. 4) as MagicDrive uses it.
    """
    waves = [wave(x * 2.0**k) for k in range(frequencies) for wave in (torch.sin, torch.cos)]
    return torch.cat([x, *waves], dim=-1)

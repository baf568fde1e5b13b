"""How much energy lies in which band of spatial frequency: blur lacks the high bands, grain has too much of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivegen.evaluate.metrics.scores import ratio
from drivegen.scene.geometry import Array
from drivegen.support.errors import InputError

EDGES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Between bands, in cycles per sample: octaves, and in the last band what only diagonal waves reach."""

BANDS = len(EDGES) + 1


def band_energy(fields: NDArray[Any]) -> Array:
    """Sum the energy of fields (..., h, w) in BANDS bands of spatial frequency, low to high: (BANDS,).

    Energy is the squared magnitude of the unitary Fourier transform, so that all bands together have the sum of squares about
    each field's mean (Parseval). A frequency's radius decides its band; the mean itself, frequency 0, is in none.

    Raises InputError for fields without two axes.
    """
    if fields.ndim < 2:
        raise InputError(f"fields of shape {fields.shape} have no spatial frequencies; (..., h, w) is needed")
    height, width = fields.shape[-2:]
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    power = (np.abs(np.fft.fft2(fields.astype(np.float64), norm="ortho")) ** 2).reshape(-1, height, width).sum(0)
    power[0, 0] = 0.0
    energy: Array = np.bincount(np.digitize(radius, EDGES).reshape(-1), power.reshape(-1), BANDS).astype(np.float64)
    return energy


def greatest_departure(sums: Array) -> Array:
    """Return how far the ratio of two energies is from 1 in the band where it is furthest.

    sums (..., 2 · bands): energies of one set of fields by band, then of the other.
    """
    bands = sums.shape[-1] // 2
    pairs = np.stack([sums[..., :bands], sums[..., bands:]], -1)
    departure: Array = np.abs(ratio(pairs) - 1).max(-1)
    return departure

"""Overlap with the truth, control scores, and intervals by bootstrap over scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivegen.scene.geometry import Array

DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval over scenes; NaN where there is nothing to compute it from."""

    value: float
    low: float
    high: float
    scenes: int


def overlap(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], group: int) -> Array:
    """Count [intersection, union] of one group in two label images of equal shape, in pixels.

    Args:
        predicted: (H, W) labels.
        truth: (H, W) labels.
        group: index into GROUPS.
    """
    return in_both_and_in_either(predicted == group, truth == group)


def in_both_and_in_either(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Array:
    """Count [intersection, union] of two masks, in pixels."""
    return np.array([(a & b).sum(), (a | b).sum()], dtype=np.float64)


def ratio(sums: Array) -> Array:
    """Divide the first item of the last axis by the second; NaN where the second is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def control(sums: Array) -> Array:
    """Return the control score (IoU generated − floor) / (IoU rendered − floor).

    sums (..., 6): intersection and union of generated, of rendered and of other frames' images (the floor), against one truth.
    """
    generated, rendered, floor = ratio(sums[..., 0:2]), ratio(sums[..., 2:4]), ratio(sums[..., 4:6])
    with np.errstate(divide="ignore", invalid="ignore"):
        return (generated - floor) / (rendered - floor)


def share(sums: Array) -> Array:
    """Divide one control score by another; sums (..., 12)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return control(sums[..., :6]) / control(sums[..., 6:])


def relative(sums: Array) -> Array:
    """Divide one ratio by another; sums (..., 4)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return ratio(sums[..., :2]) / ratio(sums[..., 2:])


def excess(sums: Array) -> Array:
    """Return (same − renders) / (different − renders) of mean errors; sums (..., 6): each an error's sum and its count."""
    same, different, renders = ratio(sums[..., 0:2]), ratio(sums[..., 2:4]), ratio(sums[..., 4:6])
    with np.errstate(divide="ignore", invalid="ignore"):
        return (same - renders) / (different - renders)


def bootstrap(sums: Array, figure: Callable[[Array], Array], draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Compute a figure from pooled sums, with a percentile interval over scenes drawn with replacement (Efron 1979).

    Args:
        sums: (S, K), a row of additive counts per scene.
        figure: maps (..., K) to (...).
        draws: number of resamples.
        seed: of the draws.
    """
    sums = np.asarray(sums, dtype=np.float64)
    value = float(figure(sums.sum(0)))
    picks = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    values = figure(picks @ sums)
    values = values[np.isfinite(values)]
    if not len(values) or not np.isfinite(value):
        return Estimate(float("nan"), float("nan"), float("nan"), len(sums))
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(value, float(low), float(high), len(sums))

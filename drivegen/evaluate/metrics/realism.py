"""Distances between sets of pictures in a network's features: FID and KID, with intervals by bootstrap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from drivegen.evaluate.metrics.scores import Estimate
from drivegen.scene.geometry import Array

DRAWS, FEWER_DRAWS, MANY = 200, 40, 600
"""Resamples of an interval; fewer where there are more than MANY pictures, as each takes longer."""


class _Given(nn.Module):
    """A feature network for torchmetrics whose pictures are features already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def fid(real: Array, generated: Array) -> float:
    """Return the Fréchet distance (Heusel et al. 2017) of features (N, D) and (M, D) as torchmetrics computes it; N, M >= 2."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.update(torch.from_numpy(real).double(), real=True)
    metric.update(torch.from_numpy(generated).double(), real=False)
    return float(metric.compute())


def kid(real: Array, generated: Array) -> float:
    """Return the kernel distance (Bińkowski et al. 2018; unbiased, cubic kernel) of features (N, D) and (M, D), torchmetrics'.

    It is that of all features where N = M; else the mean of 100 draws of as many as the smaller set has.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(len(real), len(generated))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that it keeps the features
        torch.manual_seed(0)
        metric = KernelInceptionDistance(_Given(real.shape[1]), subsets=1 if len(real) == len(generated) else 100,
                                         subset_size=size)  # fmt: skip
        metric.update(torch.from_numpy(real).double(), real=True)
        metric.update(torch.from_numpy(generated).double(), real=False)
        return float(metric.compute()[0])


def fid_estimate(real: Array, generated: Array, real_units: Sequence[int], units: Sequence[int], seed: int = 0) -> Estimate:
    """Return the FID with a 95 % interval.

    Units (scenes, or frames) are drawn with replacement, alike for both sets. A draw has fewer different pictures and so a
    larger FID, for which the draws' percentiles are shifted by the difference of their mean from the figure.

    Args:
        real: (N, D) features.
        generated: (M, D) features.
        real_units: of each of the N pictures its unit, counted from 0.
        units: of each of the M pictures.
        seed: of the draws.
    """
    a, b = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    products = (a @ a.T, b @ b.T, a @ b.T) if max(len(a), len(b)) <= a.shape[1] else None
    values = []
    for weights_a, weights_b in _draws(real_units, units, DRAWS if max(len(a), len(b)) <= MANY else FEWER_DRAWS, seed):
        values.append(_weighted_fid(a, b, weights_a, weights_b) if products is None
                      else _weighted_fid_of_products(*products, weights_a, weights_b))  # fmt: skip
    return _shifted(fid(real, generated), values, units)


def kid_estimate(real: Array, generated: Array, real_units: Sequence[int], units: Sequence[int], seed: int = 0) -> Estimate:
    """Return the KID with a 95 % interval, by draws as those of `fid_estimate`; a picture is not compared with its own copies.

    Args:
        real: (N, D) features.
        generated: (M, D) features.
        real_units: of each of the N pictures its unit, counted from 0.
        units: of each of the M pictures.
        seed: of the draws.
    """
    a, b = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    width = a.shape[1]
    within_a, within_b, between = ((x @ y.T / width + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    np.fill_diagonal(within_a, 0)
    np.fill_diagonal(within_b, 0)

    def mean(kernel: Array, left: Array, right: Array, same: bool) -> float:
        pairs = left.sum() * right.sum() - (left @ right if same else 0)
        return float(left @ kernel @ right / pairs) if pairs > 0 else float("nan")

    values = [
        mean(within_a, p, p, True) + mean(within_b, q, q, True) - 2 * mean(between, p, q, False)
        for p, q in _draws(real_units, units, DRAWS, seed)
    ]
    return _shifted(kid(real, generated), values, units)


def _draws(real_units: Sequence[int], units: Sequence[int], count: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """Yield how often each picture of either set is drawn."""
    there, here = np.asarray(real_units), np.asarray(units)
    number = int(max(there.max(), here.max())) + 1
    rng = np.random.default_rng(seed)
    for _ in range(count):
        often = np.bincount(rng.integers(0, number, number), minlength=number).astype(np.float64)
        if (often[there] > 0).sum() >= 2 and (often[here] > 0).sum() >= 2:
            yield often[there], often[here]


def _shifted(value: float, draws: list[float], units: Sequence[int]) -> Estimate:
    finite = np.array([draw for draw in draws if np.isfinite(draw)])
    number = len(set(units))
    if number < 2 or not len(finite):
        return Estimate(value, float("nan"), float("nan"), number)
    low, high = np.percentile(finite, [2.5, 97.5]) - finite.mean() + value
    return Estimate(value, float(low), float(high), number)


def _weighted_fid(a: Array, b: Array, p: Array, q: Array) -> float:
    from drivegen.evaluate.metrics.frechet import frechet_distance

    return frechet_distance(np.repeat(a, p.astype(int), 0), np.repeat(b, q.astype(int), 0))


def _weighted_fid_of_products(aa: Array, bb: Array, ab: Array, p: Array, q: Array) -> float:
    """Compute the Fréchet distance from inner products alone, which is quicker where there are fewer pictures than features.

    With X and Y the centred rows, each times the root of its weight over the sum of weights less one, tr(Cx) = tr(X Xᵀ), and
    the trace of (Cx^½ Cy Cx^½)^½ is the sum of the singular values of X Yᵀ.
    """
    u, v = p / p.sum(), q / q.sum()
    mean_aa, mean_bb, mean_ab = float(u @ aa @ u), float(v @ bb @ v), float(u @ ab @ v)
    kept_a, kept_b = p > 0, q > 0
    scale_a, scale_b = np.sqrt(p[kept_a] / (p.sum() - 1)), np.sqrt(q[kept_b] / (q.sum() - 1))
    spread_a = ((np.diag(aa) - 2 * (aa @ u) + mean_aa)[kept_a] * scale_a**2).sum()
    spread_b = ((np.diag(bb) - 2 * (bb @ v) + mean_bb)[kept_b] * scale_b**2).sum()
    centred = ab - (ab @ v)[:, None] - (u @ ab)[None] + mean_ab
    cross = np.linalg.svd(centred[kept_a][:, kept_b] * scale_a[:, None] * scale_b, compute_uv=False).sum()
    return float(mean_aa + mean_bb - 2 * mean_ab + spread_a + spread_b - 2 * cross)


Distance = Callable[[Array, Array, Sequence[int], Sequence[int]], Estimate]
DISTANCES: dict[str, Distance] = {"FID": fid_estimate, "KID": kid_estimate}

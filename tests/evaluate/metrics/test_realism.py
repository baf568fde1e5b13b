"""FID and KID: torchmetrics' figures, and draws that agree with computing each anew."""

from __future__ import annotations

import numpy as np
import pytest

from drivegen.evaluate.metrics import realism
from drivegen.evaluate.metrics.frechet import frechet_distance


def features(count: int, seed: int = 0, shift: float = 0.0, width: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, width))


def test_fid_is_the_frechet_distance_and_kid_the_unbiased_discrepancy() -> None:
    a, b = features(60), features(60, 1, 0.5)
    assert realism.fid(a, b) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    kernel = [(x @ y.T / 20 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = sum((k.sum() - np.trace(k)) / (60 * 59) for k in kernel[:2])
    assert realism.kid(a, b) == pytest.approx(within - 2 * kernel[2].mean(), rel=1e-9)
    assert realism.fid(a, a) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("count", [12, 40], ids=["fewer than features", "more"])
def test_a_draw_is_the_distance_of_the_drawn_pictures(count: int) -> None:
    a, b = features(count), features(count, 1, 0.4)
    rng = np.random.default_rng(3)
    p, q = rng.integers(0, 3, count).astype(float), rng.integers(0, 3, count).astype(float)
    whole = frechet_distance(np.repeat(a, p.astype(int), 0), np.repeat(b, q.astype(int), 0))
    assert realism._weighted_fid_of_products(a @ a.T, b @ b.T, a @ b.T, p, q) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("name", ["FID", "KID"])
def test_an_interval_is_about_the_figure_and_narrower_with_more_units(name: str) -> None:
    widths = []
    for units in (6, 60):
        a, b = features(240, 5), features(240, 6, 0.3)
        of = [i % units for i in range(240)]
        a, b = (x + features(units, s)[of] * 0.8 for x, s in ((a, 7), (b, 8)))  # pictures of a unit resemble each other
        found = realism.DISTANCES[name](a, b, of, of)
        assert found.low < found.value < found.high
        assert found.scenes == units
        widths.append(found.high - found.low)
    assert widths[1] < widths[0]


def test_one_unit_has_no_interval() -> None:
    found = realism.kid_estimate(features(8), features(8, 1), [0] * 8, [0] * 8)
    assert np.isnan(found.low)
    assert np.isfinite(found.value)


def test_sets_of_unequal_size_are_compared() -> None:
    a, b = features(20), features(35, 1)
    found = realism.kid_estimate(a, b, [i % 5 for i in range(20)], [i % 5 for i in range(35)])
    assert np.isfinite([found.value, found.low, found.high]).all()

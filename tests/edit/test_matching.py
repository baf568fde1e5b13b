"""A drawn part goes over into the picture around it: a constant shift is taken out to the level of rounding."""

from __future__ import annotations

import numpy as np

from drivegen.edit.areas import feathered
from drivegen.edit.matching import filled, matched

RANDOM = np.random.default_rng(0)


def test_a_shift_of_all_colours_is_taken_out() -> None:
    recorded = RANDOM.uniform(50, 200, (90, 160, 3)).astype(np.float32)
    core = np.zeros((90, 160), bool)
    core[20:80, 60:160] = True  # up to the picture's edge
    alpha = feathered(core, 6)
    there = np.ones_like(core)
    for shift in (np.float32(25), np.array([30, -10, 5], np.float32)):
        assert np.abs(matched(recorded + shift, recorded, alpha, there) - recorded)[alpha > 0].max() < 0.01


def test_what_is_alike_stays_alike_and_details_stay_inside() -> None:
    recorded = np.full((64, 64, 3), 100, np.float32)
    core = np.zeros((64, 64), bool)
    core[16:48, 16:48] = True
    alpha = feathered(core, 4)
    drawn = recorded + 40
    drawn[28:36, 28:36] += 60
    found = matched(drawn, recorded, alpha, np.ones_like(core))
    assert np.allclose(found[30, 30] - found[20, 20], 60, atol=0.5)
    assert np.allclose(found[20, 20], 100, atol=0.5)
    nothing = np.ones((64, 64), np.float32)
    assert np.array_equal(matched(drawn, recorded, nothing, np.ones_like(core)), drawn)  # all is drawn: nothing to match


def test_known_values_stay_and_others_lie_between() -> None:
    values = RANDOM.uniform(-1, 1, (37, 53, 3)).astype(np.float32)
    weight = (RANDOM.random((37, 53)) < 0.1).astype(np.float32)
    found = filled(values, weight)
    known = values[weight > 0]
    assert np.allclose(found[weight > 0], known)
    assert (found >= known.min(0) - 1e-5).all()
    assert (found <= known.max(0) + 1e-5).all()
    one = np.zeros((1, 9), np.float32)
    one[0, 3] = 1
    assert np.allclose(filled(values[:1, :9], one), values[0, 3])

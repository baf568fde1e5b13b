from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.sampling import Sampling, agreeing, camera_generators, overlaps, sphere_noise
from drivegen.sampling.sphere import RADIUS_M, on_sphere
from drivegen.support.errors import InputError
from tests.street import RIG_DEG, camera
from tests.tiny_models import tiny_backbone

SHAPE = (4, 16, 28)
RIG = [camera(channel, yaw).resized(224, 126) for channel, yaw in RIG_DEG.items()]
OVERLAPPING = [camera("left", 20.0).resized(224, 126), camera("right", -20.0).resized(224, 126)]


def noise(cameras, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return sphere_noise(seed, cameras, shape, camera_generators(seed, [c.channel for c in cameras]))


def same_point(a, b) -> tuple[np.ndarray, np.ndarray]:
    """Cells of a whose middle, put onto the sphere, falls near the middle of a cell of b, and those cells of b."""
    _, h, w = SHAPE
    points = on_sphere(a, h, w)
    there = b.ego_SE3_camera.inverse().transform(points)
    at = (there @ b.K_image.T)[:, :2] / there[:, 2:] / (np.array(b.image_size) / (w, h)) - 0.5
    inside = (there[:, 2] > 0) & (at.round() >= 0).all(-1) & (at.round() < (w, h)).all(-1)
    close = inside & (abs(at - at.round()) < 0.25).all(-1)
    cells = at[close].round().astype(int)
    return np.flatnonzero(close), cells[:, 1] * w + cells[:, 0]


@pytest.mark.slow
def test_a_view_by_itself_is_white_noise():
    drawn = torch.cat([noise(RIG[:1], seed) for seed in range(150)])  # (150, 4, h, w)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.01)
    assert float(drawn.var()) == pytest.approx(1, abs=0.02)
    assert float(drawn.var(0).max()) < 1.7  # no cell is louder than others
    for moved in (drawn.roll(1, 3), drawn.roll(1, 2), drawn.roll(1, 1)):
        assert float((drawn * moved).mean()) == pytest.approx(0, abs=0.01)


@pytest.mark.slow
def test_overlapping_views_see_the_same_noise_and_others_do_not():
    here, there = same_point(*OVERLAPPING)
    assert len(here) > 30
    left, right = (torch.cat([noise(OVERLAPPING, seed)[i] for seed in range(40)]).flatten(1) for i in range(2))  # (160, h·w)
    same = (left[:, here] * right[:, there]).mean()
    assert float(same) > 0.5
    elsewhere = (left[:, here] * right.roll(3, 1)[:, there]).mean()
    assert float(elsewhere) == pytest.approx(0, abs=0.05)


def test_cameras_of_one_pose_and_lens_see_one_noise():
    twin = replace(RIG[1], channel="TWIN")
    a, b = noise([RIG[1], twin])
    assert torch.equal(a, b)


def test_a_view_depends_on_seed_and_calibration_alone():
    together = noise(RIG, 3)
    for i in (0, 4):
        assert torch.equal(noise([RIG[i]], 3)[0], together[i])
    assert not torch.equal(noise([RIG[0]], 4)[0], together[0])


def test_a_narrow_lens_draws_its_own_where_it_sees_no_point():
    wide = RIG[1]
    K = wide.K_native.copy()
    K[0, 0] *= 60
    K[1, 1] *= 60
    drawn = torch.cat([noise([replace(wide, K_native=K)], seed) for seed in range(20)])
    assert float(drawn.var()) == pytest.approx(1, abs=0.03)
    assert not torch.equal(*(noise([replace(wide, K_native=K, channel=name)])[0] for name in "ab"))


def test_an_unknown_noise_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"noise 'spheer' is not one of .*did you mean 'sphere'"):
        Sampling(noise="spheer")


# -- agreement -----------------------------------------------------------------------------------------------------------


def agreed(cameras, clean: torch.Tensor, kind: str = "v_prediction", t: int = 600, active: bool = True) -> torch.Tensor:
    """The clean latents that come out of a denoiser whose own are `clean`."""
    to_x0 = NoiseSchedule.of(tiny_backbone(prediction_type=kind).scheduler)
    x, at = torch.randn(clean.shape, generator=torch.Generator().manual_seed(9)), torch.tensor(t)
    start = torch.zeros_like(clean)
    prediction = to_x0.shift_x0(at, start, clean - to_x0(x, at, start))
    guided = agreeing(lambda *_: prediction, to_x0, overlaps(cameras, *SHAPE[1:]), lambda: active)
    return to_x0(x, at, guided(x, at))


def latents(views: int) -> torch.Tensor:
    return torch.randn(views, *SHAPE, generator=torch.Generator().manual_seed(2))


def test_rays_meet_the_sphere_and_come_back_to_their_cells():
    _, h, w = SHAPE
    for seen in RIG:
        points = on_sphere(seen, h, w)
        np.testing.assert_allclose(np.linalg.norm(points, axis=-1), RADIUS_M, rtol=1e-9)
        local = seen.ego_SE3_camera.inverse().transform(points)
        pixels = (local @ seen.K_image.T)[:, :2] / local[:, 2:]
        rows, columns = np.divmod(np.arange(h * w), w)
        expected = (np.stack([columns, rows], -1) + 0.5) * np.array(seen.image_size) / (w, h)
        np.testing.assert_allclose(pixels, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_views_of_one_pose_agree_on_their_mean(kind):
    twins = [RIG[0], replace(RIG[0], channel="TWIN")]
    clean = latents(2)
    found = agreed(twins, clean, kind)
    torch.testing.assert_close(found, clean.mean(0, keepdim=True).expand(2, -1, -1, -1), rtol=1e-4, atol=1e-4)


def test_only_what_two_views_show_is_changed_and_by_neighbours_alone():
    clean = latents(3)
    found = agreed([*OVERLAPPING, RIG[4]], clean)  # the third looks back
    torch.testing.assert_close(found[2], clean[2], rtol=1e-5, atol=1e-5)
    pairs = overlaps(OVERLAPPING, *SHAPE[1:])
    touched = torch.zeros(2 * SHAPE[1] * SHAPE[2], dtype=torch.bool)
    touched[pairs[:, 0]] = True
    changed = ((found[:2] - clean[:2]).abs().amax(1) > 1e-3).flatten()
    assert torch.equal(changed, touched)
    assert 0.1 < float(touched.float().mean()) < 0.6
    first, second = (clean[:2].flatten(2).transpose(1, 2).flatten(0, 1)[column] for column in pairs.T)
    now = found[:2].flatten(2).transpose(1, 2).flatten(0, 1)[pairs[:, 0]]
    torch.testing.assert_close(now, (first + second) / 2, rtol=1e-4, atol=1e-4)


def test_views_that_agree_already_stay_and_nothing_happens_when_it_is_over():
    even = torch.full((2, *SHAPE), 0.7)
    torch.testing.assert_close(agreed(OVERLAPPING, even), even, rtol=1e-5, atol=1e-5)
    clean = latents(2)
    torch.testing.assert_close(agreed(OVERLAPPING, clean, active=False), clean, rtol=1e-5, atol=1e-5)


def test_overlaps_of_a_ring_go_both_ways():
    _, h, w = SHAPE
    views = (overlaps(RIG, h, w) // (h * w)).numpy()
    seen = {tuple(pair) for pair in views.tolist()}
    assert len(seen) >= len(RIG)
    assert {(b, a) for a, b in seen} == seen
    assert all((b - a) % len(RIG) in (1, len(RIG) - 1) for a, b in seen)  # neighbours in the ring alone

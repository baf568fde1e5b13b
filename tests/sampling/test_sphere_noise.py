from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from drivegen.sampling import Sampling, camera_generators, sphere, sphere_noise
from drivegen.sampling.sphere import RADIUS_M, cells_that_see, rays_of, sphere_depth
from drivegen.scene.geometry import SE3
from drivegen.support.errors import InputError
from tests.street import RIG_DEG, camera

SHAPE = (4, 16, 28)
RIG = [camera(channel, yaw).resized(224, 126) for channel, yaw in RIG_DEG.items()]
OVERLAPPING = [camera("left", 20.0).resized(224, 126), camera("right", -20.0).resized(224, 126)]


def noise(cameras, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return sphere_noise(seed, cameras, shape, camera_generators(seed, [c.channel for c in cameras]))


def same_point(a, b) -> tuple[np.ndarray, np.ndarray]:
    """Cells of a whose middle, put onto the sphere, falls near the middle of a cell of b, and those cells of b."""
    _, h, w = SHAPE
    rays = rays_of(a, h, w)
    points = a.ego_SE3_camera.transform(rays * sphere_depth(a, rays)[:, None])
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


@pytest.mark.parametrize("place_m", [0.0, 2.0, 25.0, 40.0])
def test_no_point_that_a_camera_sees_is_passed_over(place_m: float):
    rng = np.random.default_rng(0)
    points = sphere._spread(2**14)
    for _ in range(20):
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        rotation *= np.linalg.det(rotation)
        pose = SE3(rotation, place_m * rotation[rng.integers(3)])
        K = np.array(
            [[rng.uniform(10, 400), 0, rng.uniform(-50, 270)], [0, rng.uniform(10, 400), rng.uniform(-50, 170)], [0, 0, 1]]
        )
        seen, cells = sphere._cells(K, pose, (224, 126), points, (16, 28))
        view = (K.tobytes(), pose.rotation.tobytes(), pose.translation.tobytes(), (224, 126))
        found, at = sphere._seen(view, len(points), 16, 28)
        np.testing.assert_array_equal(found, seen)
        np.testing.assert_array_equal(at, cells)
    assert place_m or len(sphere._ahead(K, pose, (224, 126), points)) < len(points)


def test_an_unknown_noise_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"noise 'spheer' is not one of .*did you mean 'sphere'"):
        Sampling(noise="spheer")


def test_rays_meet_the_sphere_and_come_back_to_their_cells():
    _, h, w = SHAPE
    for seen in RIG:
        rays = rays_of(seen, h, w)
        points = rays * sphere_depth(seen, rays)[:, None]
        np.testing.assert_allclose(np.linalg.norm(seen.ego_SE3_camera.transform(points), axis=-1), RADIUS_M, rtol=1e-9)
        pixels = (points @ seen.K_image.T)[:, :2] / points[:, 2:]
        rows, columns = np.divmod(np.arange(h * w), w)
        expected = (np.stack([columns, rows], -1) + 0.5) * np.array(seen.image_size) / (w, h)
        np.testing.assert_allclose(pixels, expected, atol=1e-6)
        seen_at, cells = cells_that_see(seen, seen.global_SE3_camera.transform(points), h, w)
        assert np.array_equal(seen_at, np.arange(h * w))
        assert np.array_equal(cells, np.arange(h * w))

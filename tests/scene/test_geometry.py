"""Transforms, projection and clipping against pyquaternion, the devkit and analytic cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pyquaternion import Quaternion

from drivegen.scene import ResizeCrop
from drivegen.scene.geometry import NEAR_M, SE3, clip_polygon, clip_segments, project
from drivegen.support.errors import InputError

RNG = np.random.default_rng(0)
QUATERNIONS = [
    *(q / np.linalg.norm(q) for q in RNG.normal(size=(20, 4))),
    np.eye(4)[0],
    np.eye(4)[1],
    np.eye(4)[2],
    np.eye(4)[3],
]
K = np.array([[400.0, 0, 200], [0, 410, 112], [0, 0, 1]])


@pytest.mark.parametrize("q", QUATERNIONS)
def test_rotation_equals_pyquaternion(q: np.ndarray) -> None:
    pose = SE3.from_quaternion(q, (1, 2, 3))
    np.testing.assert_allclose(pose.rotation, Quaternion(q).rotation_matrix, atol=1e-12)
    assert abs(abs(pose.quaternion @ q) - 1) < 1e-12
    assert pose.quaternion[0] >= 0


def test_products_inverses_and_points() -> None:
    a, b = (SE3.from_quaternion(q, RNG.normal(size=3)) for q in QUATERNIONS[:2])
    points = RNG.normal(size=(5, 7, 3))
    np.testing.assert_allclose((a @ b).transform(points), a.transform(b.transform(points)), atol=1e-12)
    np.testing.assert_allclose(a.inverse().transform(a.transform(points)), points, atol=1e-12)
    np.testing.assert_allclose((a @ b).matrix, a.matrix @ b.matrix, atol=1e-12)
    np.testing.assert_allclose((a @ a.inverse()).matrix, np.eye(4), atol=1e-12)


@pytest.mark.parametrize("yaw", [-3.1, -1.0, 0.0, 0.5, 2.5])
def test_yaw(yaw: float) -> None:
    pose = SE3.from_yaw(yaw)
    assert pose.yaw_rad == pytest.approx(yaw)
    np.testing.assert_allclose(pose.rotation, Quaternion(axis=[0, 0, 1], radians=yaw).rotation_matrix, atol=1e-12)


@pytest.mark.parametrize(
    "q", [(0, 0, 0, 0), (1.01, 0, 0, 0), (float("nan"), 0, 0, 1), (1, 0, 0), (float("inf"), 0, 0, 0)], ids=str
)
def test_bad_quaternions_are_refused(q: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="quaternion"):
        SE3.from_quaternion(q, (0, 0, 0))


@pytest.mark.parametrize("rotation", [np.diag([1, 1, -1]), 2 * np.eye(3), np.full((3, 3), np.nan), np.eye(2)])
def test_bad_rotations_are_refused(rotation: np.ndarray) -> None:
    with pytest.raises(InputError):
        SE3(rotation, np.zeros(3))


def test_projection_equals_the_devkit_in_front_and_is_nan_behind() -> None:
    from nuscenes.utils.geometry_utils import view_points

    points = RNG.uniform((-20, -5, -30), (20, 5, 30), size=(200, 3))
    pixels, depth = project(K, points)
    front = points[:, 2] > 0
    reference = view_points(points[front].T, K, normalize=True)[:2].T
    np.testing.assert_allclose(pixels[front], reference, rtol=1e-12)
    np.testing.assert_array_equal(depth, points[:, 2])
    assert np.isnan(pixels[~front]).all()


def test_polygon_clipping_keeps_the_part_in_front() -> None:
    import shapely

    for _ in range(50):
        # a convex polygon in a random plane: its front part is the polygon cut by a half-plane
        flat = shapely.convex_hull(shapely.MultiPoint(RNG.uniform(-5, 5, size=(8, 2))))
        corners = shapely.get_coordinates(flat)[:-1]
        frame = SE3.from_quaternion(QUATERNIONS[RNG.integers(20)], RNG.uniform(-3, 3, size=3))
        polygon = frame.transform(np.c_[corners, np.zeros(len(corners))])
        clipped = clip_polygon(polygon)
        assert (clipped[:, 2] >= NEAR_M - 1e-9).all()
        z_of = frame.rotation[2, :2]
        big = 1e3 * z_of / (z_of @ z_of)
        side = np.array([-z_of[1], z_of[0]]) * 1e3 / np.linalg.norm(z_of)
        start = z_of * (NEAR_M - frame.translation[2]) / (z_of @ z_of)
        kept = flat.intersection(shapely.Polygon([start + side, start + side + big, start - side + big, start - side]))
        area = shapely.Polygon(frame.inverse().transform(clipped)[:, :2]).area if len(clipped) else 0.0
        assert area == pytest.approx(kept.area, abs=1e-5)


def test_segment_clipping() -> None:
    a, b = np.array([0.0, 0, -1]), np.array([2.0, 4, 3])
    cut, back, behind, same = clip_segments(np.array([(a, b), (b, a), (a, a - (1, 0, 1)), (b, 2 * b)]))
    assert cut[0, 2] == pytest.approx(NEAR_M)
    np.testing.assert_allclose(np.cross(cut[0] - a, b - a), 0, atol=1e-12)
    np.testing.assert_array_equal(cut[1], b)
    np.testing.assert_array_equal(back, cut[::-1])
    assert np.isnan(behind).all()
    np.testing.assert_array_equal(same, (b, 2 * b))


@pytest.mark.parametrize("size", [(400, 224), (224, 128), (352, 128), (100, 300)])
def test_cover_fills_the_picture_and_stays_inside(size: tuple[int, int]) -> None:
    crop = ResizeCrop.cover((1600, 900), size)
    (left, top, _), (right, bottom, _) = (np.linalg.solve(crop.matrix, (x, y, 1)) for x, y in ((0, 0), size))
    assert min(left, top) > -1e-6
    assert right < 1600 + 1e-6
    assert bottom == pytest.approx(900)  # the road stays
    assert left + right == pytest.approx(1600)


def test_magicdrive_size_takes_one_row_off_the_top() -> None:
    assert ResizeCrop.cover((1600, 900), (400, 224)) == ResizeCrop(0.25, 0.0, 1.0, 400, 224)
    assert math.isclose(ResizeCrop.cover((1600, 900), (800, 424)).top_px, 26)

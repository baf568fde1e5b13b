from __future__ import annotations

import numpy as np
import pytest

from drivegen.datasets.nuscenes.recordings import Pose, Recording
from drivegen.export.rectangles import rectangle, rectangle_of_corners
from drivegen.scene import Box3D
from drivegen.scene.geometry import NEAR_M, SE3
from tests.street import mounting

UPRIGHT = SE3.identity()


def looking_ahead(width: int, height: int) -> Recording:
    mount = mounting(0.0, (0.0, 0.0, 1.6))
    ego = Pose(UPRIGHT, (1.0, 0, 0, 0), (0.0, 0, 0))
    K = np.array([[300.0, 0, width / 2], [0, 300.0, height / 2], [0, 0, 1]])
    return Recording(
        "token", "CAM_FRONT", "a.png", 0, Pose(mount, tuple(mount.quaternion), tuple(mount.translation)), ego, K, width, height
    )


def box(x: float, y: float, yaw: float = 0.3, size: tuple[float, float, float] = (2.0, 5.0, 1.8)) -> Box3D:
    return Box3D("vehicle.car", SE3.from_yaw(yaw, (x, y, 0.9)), size)


def sampled(camera: Recording, one: Box3D) -> tuple[float, float, float, float] | None:
    """The rectangle around those of many points of the box that are in front and in the picture."""
    steps = np.linspace(-0.5, 0.5, 81)
    grid = np.stack(np.meshgrid(steps, steps, np.linspace(-0.5, 0.5, 41)), -1).reshape(-1, 3) * one.size_wlh_m[[1, 0, 2]]
    points = camera.global_SE3_sensor.inverse().transform(one.global_SE3_object.transform(grid))
    points = points[points[:, 2] >= NEAR_M]
    pixels = (points @ camera.K.T)[:, :2] / points[:, 2:]
    inside = pixels[((pixels >= 0) & (pixels <= [camera.width_px, camera.height_px])).all(1)]
    return None if not len(inside) else (*inside.min(0), *inside.max(0))


@pytest.mark.parametrize("size", [(400, 240), (200, 300)])
@pytest.mark.parametrize("place", [(12, 0), (9, 5), (9, -6), (4, 3), (1, 2.2), (0.5, -2.5), (30, 19)])
def test_it_is_around_what_is_seen(size: tuple[int, int], place: tuple[float, float]) -> None:
    camera, one = looking_ahead(*size), box(*place)
    found, there = rectangle(camera, one), sampled(camera, one)
    if there is None:
        assert found is None
        return
    assert found is not None
    np.testing.assert_allclose(found, there, atol=6)  # a grid is coarse where a box is near
    assert 0 <= found[0] < found[2] <= size[0]
    assert 0 <= found[1] < found[3] <= size[1]


def test_boxes_before_the_camera_are_the_same_both_ways() -> None:
    camera = looking_ahead(400, 240)
    for place in ((12, 0), (9, 5), (30, 19), (6, -4)):
        assert rectangle(camera, box(*place)) == pytest.approx(rectangle_of_corners(camera, box(*place)))


def test_behind_is_nowhere_and_partly_behind_is_smaller_by_corners() -> None:
    camera = looking_ahead(400, 240)
    assert rectangle(camera, box(-8, 0)) is None
    assert rectangle_of_corners(camera, box(-8, 0)) is None
    beside = box(3.0, -2.5, 0.0, (2.0, 12.0, 3.0))
    whole, corners = rectangle(camera, beside), rectangle_of_corners(camera, beside)
    assert whole is not None
    assert corners is not None
    assert whole[2] == 400  # to the border: it goes on beside the camera
    assert corners[2] < 400
    assert rectangle(camera, box(0.0, 0.0, 0.0, (4, 8, 4))) == (0, 0, 400, 240)  # around the camera

"""Heat maps: each box in its place of the picture, nearer ones over further ones, cells as means."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from drivegen import raster
from drivegen.scene import Box3D, Camera, Frame
from drivegen.scene.geometry import SE3
from drivegen.support.errors import InputError
from drivegen.testing.frames import camera, frame

AHEAD = camera("CAM_FRONT", 0.0)


def box(x: float, y: float = 0.0, yaw: float = 0.0, name: str = "car") -> Box3D:
    return Box3D(name, SE3.from_yaw(yaw, (x, y, 1.0)), np.array([1.8, 4.0, 1.6]), instance=f"{name} at {x:g}")


def scene(*boxes: Box3D, view: Camera = AHEAD) -> Frame:
    return Frame("one", (view,), boxes)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_box_is_hot_where_the_layout_has_it(seed: int) -> None:
    street = frame(seed)
    for view in street.cameras:
        there = raster.layout(street, view).box_class > 0
        hot = raster.heat_map(street, view, lambda seen: 1.0) > 0
        assert hot[there].all()
        beside = cv2.dilate(there.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        thin = hot & ~beside  # a side seen edge-on covers no pixel's centre
        assert thin.sum() <= 0.02 * hot.size


def test_nearer_boxes_lie_over_further_ones_and_cells_are_means() -> None:
    street = scene(box(8), box(20))
    values = raster.heat_map(street, AHEAD, lambda seen: seen.distance_m)
    near, far = (raster.heat_map(scene(each), AHEAD, lambda seen: seen.distance_m) for each in street.boxes)
    np.testing.assert_array_equal(values, np.where(near > 0, near, far))
    cells = raster.heat_map(street, AHEAD, lambda seen: seen.distance_m, (12, 16))
    np.testing.assert_allclose(cells, values.reshape(12, 4, 16, 4).mean((1, 3)), rtol=1e-5)


def test_what_is_not_in_the_picture_is_not_seen() -> None:
    assert raster.seen_boxes(scene(box(-10), box(10, 60), box(1)), AHEAD) == []
    assert not raster.heat_map(scene(), AHEAD, lambda seen: 1.0).any()
    with pytest.raises(InputError, match="must be positive"):
        raster.heat_map(scene(), AHEAD, lambda seen: 1.0, (0, 4))


@pytest.mark.parametrize("turn", [0.0, 1.0, -2.5])
def test_heading_distance_and_size_are_as_seen_from_the_camera(turn: float) -> None:
    """The same wherever the whole scene stands."""
    moved = SE3.from_yaw(turn, (100.0, -50.0, 0.0))
    view = replace(AHEAD, global_SE3_ego=moved)
    for yaw, heading in ((0.0, 0.0), (math.pi, math.pi), (math.pi / 2, math.pi / 2), (-math.pi / 2, math.pi / 2)):
        one = box(21, yaw=yaw)
        (seen,) = raster.seen_boxes(scene(replace(one, global_SE3_object=moved @ one.global_SE3_object), view=view), view)
        assert seen.heading_rad == pytest.approx(heading, abs=1e-6)
        assert seen.distance_m == pytest.approx(math.hypot(20, 0.5))
    half, whole = (raster.seen_boxes(scene(box(x)), AHEAD)[0].size for x in (43, 23))
    assert whole / half == pytest.approx(2, rel=0.06)

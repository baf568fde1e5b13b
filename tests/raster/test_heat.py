"""Heat maps: each box in its place of the picture, nearer ones over further ones, cells as means."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from drivegen import raster
from drivegen.scene import JOINTS, Box3D, Camera, Frame
from drivegen.scene.geometry import SE3, project
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


# -- joints --------------------------------------------------------------------------------------------------------------


def person(x: float, turn: float = 0.0, **places: tuple[float, float, float]) -> Box3D:
    joints = np.full((len(JOINTS), 3), np.nan)
    for name, place in places.items():
        joints[JOINTS.index(name)] = place
    return replace(box(x, yaw=turn, name="pedestrian"), joints_m=joints)


def test_a_box_with_joints_is_hot_about_them_alone() -> None:
    one = person(11.0, nose=(0, 0, 0.6), left_ankle=(0, 0.3, -0.7))
    heat = raster.heat_map(scene(one), AHEAD, lambda seen: 2.0)
    pose = AHEAD.global_SE3_camera.inverse()
    for name in ("nose", "left_ankle"):
        (column, row), depth = project(AHEAD.K_image, pose.transform(one.joints()[JOINTS.index(name)]))
        spread = max(40 * 0.1 / depth, 1.0)
        for dy, dx in ((0, 0), (2, 1)):
            at = int(row) + dy, int(column) + dx
            away = (at[1] + 0.5 - column) ** 2 + (at[0] + 0.5 - row) ** 2
            assert heat[at] == pytest.approx(2 * math.exp(-away / (2 * spread**2)), abs=1e-3)
    assert heat.max() <= 2
    nobody = replace(one, joints_m=np.full((17, 3), np.nan))
    assert not raster.heat_map(scene(nobody), AHEAD, lambda seen: 2.0).any()


def test_joints_move_and_turn_with_their_box() -> None:
    one = person(11.0, 0.3, nose=(0.1, 0, 0.6), left_wrist=(0, 0.4, 0))
    moved = scene(one).move_box(one.instance, forward_m=2.0, turn_rad=0.5).boxes[0]
    expected = moved.global_SE3_object.transform(one.global_SE3_object.inverse().transform(one.joints()))
    np.testing.assert_allclose(moved.joints(), expected, atol=1e-9)


def test_the_picture_of_poses_has_limbs_for_edges_where_there_are_joints() -> None:
    boxes, poses = raster.picture("boxes").draw, raster.picture("pose").draw
    street = frame(1)
    for view in street.cameras:
        np.testing.assert_array_equal(boxes(street, view), poses(street, view))
    known = person(3.0, left_shoulder=(0, 0.3, 0.5), right_shoulder=(0, -0.3, 0.5), left_hip=(0, 0.2, -0.1))
    drawn, points = poses(scene(known), AHEAD), AHEAD.global_SE3_camera.inverse().transform(known.joints())
    for a, b, lies in (("left_shoulder", "right_shoulder", True), ("left_shoulder", "left_hip", True),
                       ("right_shoulder", "left_hip", False), ("left_hip", "right_hip", False)):  # fmt: skip
        middle = points[[JOINTS.index(a), JOINTS.index(b)]].mean(0)
        if np.isfinite(middle).all():
            column, row = project(AHEAD.K_image, middle)[0]
            assert drawn[:, int(row), int(column)].any() == lies
    assert not poses(scene(person(11.0, nose=(0, 0, 0))), AHEAD).any()
    behind = person(11.0, left_shoulder=(-12, 0.3, 0.5), right_shoulder=(-12, -0.3, 0.5))
    assert not poses(scene(behind), AHEAD).any()


@pytest.mark.parametrize(
    ("joints", "words"),
    [
        (np.zeros((16, 3)), r"joints have shape \(16, 3\), expected \(17, 3\)"),
        (np.full((17, 3), [1.0, 2.0, np.nan]), "joint nose is .*NaN for all three"),
        (np.full((17, 3), 1e6), "joint nose"),
        (np.full((17, 3), np.inf), "joint nose"),
        ("standing", "array of numbers"),
    ],
)
def test_joints_that_are_none_are_refused(joints, words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(box(10), joints_m=joints)


def test_a_rider_is_drawn_over_the_edges_and_within_the_heat_of_what_carries_it() -> None:
    walker = person(6.0, left_shoulder=(0, 0.3, 0.5), right_shoulder=(0, -0.3, 0.5), left_hip=(0, 0.2, -0.1))
    rider = replace(walker, category="vehicle.bicycle")
    bare = replace(rider, joints_m=None)
    heats = [raster.heat_map(scene(each), AHEAD, lambda seen: 1.0) for each in (rider, bare)]
    np.testing.assert_array_equal(*heats)
    both, edges, limbs = (raster.picture("pose").draw(scene(each), AHEAD).any(0) for each in (rider, bare, walker))
    np.testing.assert_array_equal(both, edges | limbs)
    assert (limbs & ~edges).any()

"""Cameras, boxes, rings, maps and edits."""

from __future__ import annotations

import math
import pickle
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from drivegen.scene import (
    Box3D,
    Camera,
    Frame,
    MapLine,
    MapPolygon,
    Scene,
    VectorMap,
    detection_class,
    ring_neighbours,
    ring_order,
)
from drivegen.scene.cameras import ResizeCrop
from drivegen.scene.geometry import SE3, project
from drivegen.support.errors import InputError
from tests.street import RIG_DEG, camera, rectangle, street_boxes, street_frame, street_map

NAN = float("nan")


def test_ring_of_nuscenes() -> None:
    shuffled = [camera(name, yaw) for name, yaw in sorted(RIG_DEG.items())]
    ring = ring_order(shuffled)
    assert tuple(c.channel for c in ring) == tuple(RIG_DEG)
    assert ring_neighbours(ring) == ((5, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 0))


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("seed", range(3))
def test_ring_of_any_rig(count: int, seed: int) -> None:
    rng = np.random.default_rng(100 * count + seed)
    rig = [camera(f"CAM_{i}", yaw) for i, yaw in enumerate(rng.uniform(-180, 180, size=count))]
    ring = ring_order(rig)
    assert ring_order(rng.permutation(np.array(rig, dtype=object))) == ring
    # clockwise: the yaws fall all the way round exactly once
    turns = [(a.yaw_rad - b.yaw_rad) % (2 * math.pi) for a, b in zip(ring, (*ring[1:], ring[0]), strict=True)]
    assert sum(turns) == pytest.approx(2 * math.pi if count > 1 else 0)
    forward = min(rig, key=lambda c: abs(c.yaw_rad))
    assert ring[1 % count] is forward
    for i, others in enumerate(ring_neighbours(ring)):
        assert len(set(others)) == len(others) <= 2
        assert i not in others
        for j in others:
            assert i in ring_neighbours(ring)[j]
            gap = abs((ring[i].yaw_rad - ring[j].yaw_rad + math.pi) % (2 * math.pi) - math.pi)
            assert gap <= math.radians(100)


def test_opposite_cameras_are_no_neighbours_and_two_merge() -> None:
    assert ring_neighbours(ring_order([camera("A", 0), camera("B", 180)])) == ((), ())
    assert ring_neighbours(ring_order([camera("A", 20), camera("B", -20)])) == ((1,), (0,))
    assert ring_neighbours(ring_order([camera("A", 0)])) == ((),)


@pytest.mark.parametrize("count", [0, 9])
def test_camera_count(count: int) -> None:
    with pytest.raises(InputError, match=f"{count} cameras; 1 to 8"):
        Frame("f", tuple(camera(f"C{i}", 10 * i) for i in range(count)))


def test_camera_names_are_unique() -> None:
    with pytest.raises(InputError, match="two cameras of one name"):
        Frame("f", (camera("A", 0), camera("A", 50)))


@pytest.mark.parametrize(
    "K",
    [
        np.diag([NAN, 1, 1]),
        np.diag([0, 1, 1.0]),
        np.diag([1, 1, 0.0]),
        [[1, 1, 0], [1, 1, 0], [0, 0, 1]],
        np.zeros((3, 3)),
        np.eye(4),
    ],
)
def test_bad_intrinsics_name_the_camera(K: np.ndarray) -> None:
    with pytest.raises(InputError, match="CAM_X"):
        Camera("CAM_X", K, 10, 10, SE3.identity(), SE3.identity())


@pytest.mark.parametrize("size", [(0, 1, 1), (-1, 1, 1), (NAN, 1, 1), (math.inf, 1, 1), (1, 1)])
def test_bad_sizes_name_the_box(size: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="tok-7"):
        Box3D("vehicle.car", SE3.identity(), size, token="tok-7")


MATRIX, ONE = np.eye(4), SE3.identity()
OF_ANOTHER_TYPE = {
    "box 'car': global_SE3_object is ndarray, not SE3; make one of a 4x4": lambda: Box3D("car", MATRIX, (1, 1, 1)),
    "box 'car': size is 'big'; it must be an array of numbers": lambda: Box3D("car", ONE, "big"),
    "box 'car': velocity is 'fast'": lambda: Box3D("car", ONE, (1, 1, 1), velocity_mps="fast"),
    "camera 'A': ego_SE3_camera is ndarray, not SE3": lambda: camera("A", 0, ego_SE3_camera=MATRIX),
    "camera 'A': intrinsics is [[1, 2], [3]]; it must be": lambda: Camera("A", [[1, 2], [3]], 32, 18, ONE, ONE),
    "camera 'A': generated image size 0x9: side is 0": lambda: camera("A", 0).resized(0, 9),
    "camera 'CAM_BACK': translation has shape (), expected (3,)": lambda: street_frame().move_camera("CAM_BACK", 1.0),
    "frame 'f': cameras is Camera; give a list of Camera": lambda: Frame("f", camera("A", 0)),
    "frame 'f': boxes[0] is str, not Box3D": lambda: Frame("f", (camera("A", 0),), ["car"]),
    "frame 'f': map is dict, not VectorMap": lambda: Frame("f", (camera("A", 0),), map={}),
    "frame 'f': global_SE3_ego is ndarray, not SE3": lambda: Frame("f", (camera("A", 0),), global_SE3_ego=MATRIX),
    "map of 'x': walkway[0] is ndarray, not MapPolygon": lambda: VectorMap("x", {"walkway": (MATRIX[:, :2],)}),
    "map of 'x': road_divider is MapLine; give a list": lambda: VectorMap("x", {}, {"road_divider": MapLine(MATRIX[:2, :2])}),
    "scene 's': frames is Frame; give a list of Frame": lambda: Scene("s", street_frame()),
    "quaternion is 'a'; it must be": lambda: SE3.from_quaternion("a", (0, 0, 0)),
}


@pytest.mark.parametrize("message", OF_ANOTHER_TYPE)
def test_what_is_of_another_type_is_named(message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        OF_ANOTHER_TYPE[message]()


def test_bad_visibility_and_map_shapes() -> None:
    with pytest.raises(InputError, match="visibility is 7"):
        Box3D("vehicle.car", SE3.identity(), (1, 1, 1), visibility=7)
    with pytest.raises(InputError, match=r"m-1.*P >= 3"):
        MapPolygon(np.zeros((2, 2)), token="m-1")
    with pytest.raises(InputError, match=r"m-2.*not finite"):
        MapLine(np.array([[0, 0], [NAN, 1]]), "m-2")


def test_corners_equal_the_devkit() -> None:
    from nuscenes.utils.data_classes import Box
    from pyquaternion import Quaternion

    for box in street_boxes():
        pose = box.global_SE3_object
        other = Box(pose.translation, box.size_wlh_m, Quaternion(pose.quaternion))
        np.testing.assert_allclose(box.corners(), other.corners().T, atol=1e-9)


def test_detection_classes_equal_the_devkit() -> None:
    from nuscenes.eval.detection.utils import category_to_detection_name

    from drivegen.datasets.nuscenes.schema import CATEGORIES, FULL_CATEGORY

    for category in CATEGORIES:
        assert detection_class(category) == category_to_detection_name(category), category
    assert {name: detection_class(full) for name, full in FULL_CATEGORY.items()} == {name: name for name in FULL_CATEGORY}


def test_generated_intrinsics_follow_resize_and_crop() -> None:
    one = camera("A", 0, size=(1600, 900))
    small = one.resized(224, 128)
    points = np.random.default_rng(1).uniform((-5, -2, 1), (5, 2, 40), size=(50, 3))
    native, _ = project(one.K_native, points)
    homogeneous = np.c_[native, np.ones(50)] @ small.resize.matrix.T
    np.testing.assert_allclose(project(small.K_image, points)[0], homogeneous[:, :2])
    assert small.image_size == (224, 128)


def test_boxes_are_seen_with_the_cameras_own_ego_pose() -> None:
    frame = street_frame()
    late = frame.camera("CAM_BACK_LEFT")
    np.testing.assert_allclose(late.global_SE3_camera.matrix, (late.global_SE3_ego @ late.ego_SE3_camera).matrix)
    assert np.linalg.norm(late.global_SE3_ego.translation - frame.global_SE3_ego.translation) > 0.1


def test_map_search_equals_brute_force() -> None:
    rng = np.random.default_rng(2)
    areas = tuple(MapPolygon(rectangle(x, y, x + w, y + h)) for x, y, w, h in rng.uniform(0, 50, size=(200, 4)))
    lines = tuple(MapLine(points) for points in rng.uniform(0, 100, size=(50, 4, 2)))
    city = VectorMap("x", {"walkway": areas}, {"lane_divider": lines})
    for x, y, r in rng.uniform((0, 0, 1), (100, 100, 20), size=(20, 3)):
        near = city.near((x, y), r)

        def meets(p: np.ndarray, x: float = x, y: float = y, r: float = r) -> bool:
            return bool((p.min(0) <= (x + r, y + r)).all() and (p.max(0) >= (x - r, y - r)).all())

        assert near.polygons["walkway"] == tuple(a for a in areas if meets(a.exterior))
        assert near.lines["lane_divider"] == tuple(line for line in lines if meets(line.points))


def test_edits_leave_the_original_alone_and_can_be_undone() -> None:
    frame = street_frame()
    moved = frame.move_box("car-a", forward_m=3.0, turn_rad=0.5)
    assert frame.box("car-a").global_SE3_object.yaw_rad == pytest.approx(0.02)
    assert moved.box("car-a").global_SE3_object.yaw_rad == pytest.approx(0.52)
    back = moved.move_box("car-a", turn_rad=-0.5).move_box("car-a", forward_m=-3.0)
    np.testing.assert_allclose(back.box("car-a").corners(), frame.box("car-a").corners(), atol=1e-9)
    assert len(frame.remove_box("dog-a").boxes) == len(frame.boxes) - 1
    assert frame.remove_box("dog-a").add_box(frame.box("dog-a")).box("dog-a") is frame.box("dog-a")
    assert frame.edit_box("dog-a", category="vehicle.car").box("dog-a").detection_class == "car"
    with pytest.raises(InputError, match="positive"):
        frame.edit_box("dog-a", size_wlh_m=(0, 1, 1))


def test_camera_edits() -> None:
    frame = street_frame()
    turned = frame.move_camera("CAM_FRONT", (0, 0, 0.5), math.radians(20))
    assert turned.camera("CAM_FRONT").yaw_rad == pytest.approx(math.radians(20))
    assert turned.camera("CAM_FRONT").ego_SE3_camera.translation[2] == pytest.approx(2.1)
    assert turned.camera("CAM_BACK") is frame.camera("CAM_BACK")
    assert len(frame.drop_camera("CAM_BACK").cameras) == 5
    round_about = frame.move_camera("CAM_FRONT", yaw_rad=math.pi)
    assert round_about.channels != frame.channels  # the ring is kept in order


def test_unknown_names_suggest_the_nearest() -> None:
    frame = street_frame()
    with pytest.raises(InputError, match="did you mean 'CAM_FRONT'"):
        frame.camera("CAM_FRNT")
    with pytest.raises(InputError, match="did you mean 'car-a'"):
        frame.box("car-b")


def test_frames_pickle() -> None:
    frame = pickle.loads(pickle.dumps(street_frame()))
    assert frame.channels == street_frame().channels
    np.testing.assert_array_equal(frame.box("car-a").corners(), street_frame().box("car-a").corners())
    assert frame.map.near((300, 300), 10).polygons["drivable_area"]


def test_no_boxes_and_no_map_are_valid() -> None:
    frame = replace(street_frame(), boxes=(), map=None, description="")
    assert frame.boxes == ()
    assert street_map().near((0, 0), 10).polygons["lane"] == ()


def test_whole_numbers_of_any_type_and_times_in_microseconds() -> None:
    view = camera("A", 0, size=(np.int64(32), 24.0), timestamp_us=np.int64(1_600_000_000_000_000))  # type: ignore[arg-type]
    assert (view.width_px, view.height_px, view.timestamp_us) == (32, 24, 1_600_000_000_000_000)
    assert {type(value) for value in (view.width_px, view.height_px, view.timestamp_us)} == {int}
    seen = Box3D("car", SE3.identity(), (1, 1, 1), visibility=np.float64(2)).visibility  # type: ignore[arg-type]
    assert (seen, type(seen)) == (2, int)
    frame = Frame("f", (view,), timestamp_us=np.int64(5))  # type: ignore[arg-type]
    assert type(frame.timestamp_us) is int
    for value in (1_600_000_000_000_000_000, 0.5, float("nan"), "5", None):
        with pytest.raises(InputError, match=r"'f': timestamp_us.*microseconds"):
            Frame("f", (view,), timestamp_us=value)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"'A': timestamp_us.*microseconds"):
            replace(view, timestamp_us=value)
    for value in (0, -3, 32.5, "32", 10**7):
        with pytest.raises(InputError, match=r"'A': image size: height_px"):
            replace(view, height_px=value)


NUMBERS_AS_TEXTS = [
    (Box3D, "category"), (Box3D, "instance"), (Box3D, "token"), (Box3D, "attribute"), (Frame, "token"), (Frame, "description"),
    (Frame, "location"), (Frame, "scene_name"), (Camera, "channel"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), NUMBERS_AS_TEXTS)
def test_texts_of_another_type_are_refused(kind: type, name: str) -> None:
    frame = street_frame()
    whole = {Frame: frame, Box3D: frame.boxes[0], Camera: frame.cameras[0]}[kind]
    for value in (None, 5, b"x", ["a"]):
        with pytest.raises(InputError, match=f"{name} .* must be a text"):
            replace(whole, **{name: value})


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f: replace(f.boxes[0], num_lidar_pts=1.5), "num_lidar_pts is 1.5"),
        (lambda f: replace(f.boxes[0], visibility=True), "visibility is True"),
        (lambda f: replace(f.boxes[0], velocity_mps=[np.inf, 0, 0]), "NaN says that it is unknown"),
        (lambda f: replace(f.cameras[0], channel=""), "channel is empty"),
        (lambda f: replace(f.cameras[0], resize=(1, 2)), "resize is tuple, not ResizeCrop"),
        (lambda f: replace(f.cameras[0], width_px=True), "width_px is True"),
        (lambda f: ResizeCrop(float("nan"), 0, 0, 8, 8), "scale nan must be a finite number"),
        (lambda f: ResizeCrop(0, 0, 0, 8, 8), "scale 0.0 must be above 0"),
        (lambda f: ResizeCrop(1, 0, 0, 8, 0), "height_px is 0"),
        (lambda f: f.edit_box("car-a", colour="red"), "Box3D has no field 'colour'"),
        (lambda f: f.edit_camera("CAM_FRONT", width=3), r"Camera has no field 'width' \(did you mean 'width_px'"),
        (lambda f: f.box(None), "no box of instance None"),
        (lambda f: f.camera(7), "no camera 7"),
        (lambda f: f.with_pictures(None), "pictures None must give files of cameras by name"),
        (lambda f: f.move_camera("CAM_FRONT", yaw_rad="left"), "yaw_rad 'left' must be a number"),
        (lambda f: f.neighbour("soon"), "offset_s 'soon' must be a number"),
        (lambda f: f.ego_at(None), "offset_s None must be a number"),
        (lambda f: Scene("s", (f,)).with_neighbours(-1, 0), "past_s -1 must be a number of 0 or above"),
        (lambda f: replace(f, extras={1: 2}), "plugin's name 1 must be a text"),
        (lambda f: VectorMap("x", None), "polygons None must give"),
    ],
)
def test_values_that_cannot_be_are_refused_where_they_are_given(call: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call(street_frame())


def test_a_class_is_its_name_and_not_its_beginning() -> None:
    names = {
        "vehicle.caravan": None, "vehicle.trucks": None, "vehicle.bus": None, "vehicle.car ": None, "vehicle.car": "car",
        "vehicle.car.estate": "car", "vehicle.bus.bendy": "bus", "vehicle.construction": "construction_vehicle",
    }  # fmt: skip
    assert {name: detection_class(name) for name in names} == names

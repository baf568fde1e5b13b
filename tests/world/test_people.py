"""Skeletons of the city's people: where the figures are that are drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drivegen import world
from drivegen.scene import JOINTS, Box3D
from drivegen.scene.geometry import SE3, project
from drivegen.world.city import with_joints
from drivegen.world.parts import CENTRE, MATRIX
from drivegen.world.shapes import shape_of


@pytest.fixture(scope="module")
def cities() -> list[world.CityScene]:
    return [world.build(7, index, 2, (96, 168)) for index in range(8)]


def test_people_and_riders_have_joints_and_nothing_else_has(cities: list[world.CityScene]) -> None:
    boxes = [box for city in cities for frame in city.scene.frames for box in frame.boxes]
    rides = [box for box in boxes if box.detection_class in ("bicycle", "motorcycle")]
    assert {box.attribute for box in rides} == {"cycle.with_rider", "cycle.without_rider"}
    for box in boxes:
        sits = box in rides and box.attribute != "cycle.without_rider"
        assert (box.joints_m is not None) == (box.detection_class == "pedestrian" or sits)


def test_joints_are_in_the_figure_that_is_drawn(cities: list[world.CityScene]) -> None:
    for city, frame in [(each, frame) for each in cities for frame in each.scene.frames]:
        local = SE3(np.eye(3), np.array([*-city.offset, 0.0]))
        for i, box in enumerate(frame.boxes):
            if box.joints_m is None:
                continue
            place = local @ box.global_SE3_object  # the gait follows the place
            rows = shape_of(box, i, place).numbers
            away = place.transform(box.joints_m)[:, None] - rows[None, :, CENTRE : CENTRE + 3]
            units = np.einsum("nij,pnj->pni", rows[:, MATRIX : MATRIX + 9].reshape(-1, 3, 3), away)
            assert (np.abs(units).max(2).min(1) < 1.1).all()
            joint = dict(zip(JOINTS, box.joints_m, strict=True))
            assert all(joint[f"left_{name}"][1] > joint[f"right_{name}"][1] for name in ("ear", "wrist", "hip", "ankle"))
            heights = [joint[name][2] for name in ("left_ankle", "left_knee", "left_hip", "left_shoulder", "nose")]
            assert heights == sorted(heights)


def test_a_camera_sees_the_person_where_its_joints_are(cities: list[world.CityScene]) -> None:
    city = cities[0]
    street = city.scene.frames[0]
    camera = street.camera("CAM_FRONT")
    ahead = street.global_SE3_ego @ SE3.from_yaw(0.6, (7.0, 0.5, 0.9))
    person = Box3D("human.pedestrian.adult", ahead, np.array([0.7, 0.8, 1.8]), "someone", attribute="pedestrian.moving")
    frame = with_joints(replace(street, boxes=(person,)), city.offset)
    view = city.render(frame, "CAM_FRONT")
    pixels, _ = project(camera.K_image, camera.global_SE3_camera.inverse().transform(frame.boxes[0].joints()))
    columns, rows = pixels.astype(int).T
    assert (view.instances == 1).sum() > 100
    near = [view.instances[rows + i, columns + j] == 1 for i in (-1, 0, 1) for j in (-1, 0, 1)]
    assert np.any(near, axis=0).all()


def test_the_gait_goes_on_and_follows_an_edit(cities: list[world.CityScene]) -> None:
    city = cities[0]
    one, two = city.scene.frames
    moving = {box.instance for box in one.boxes if box.attribute == "pedestrian.moving"} & {box.instance for box in two.boxes}
    assert moving
    assert all((one.box(name).joints_m != two.box(name).joints_m).any() for name in moving)
    name = min(moving)
    moved = one.move_box(name, forward_m=0.7)
    assert (with_joints(moved, city.offset).box(name).joints_m != moved.box(name).joints_m).any()
    assert with_joints(one, city.offset).box(name).joints_m.tolist() == one.box(name).joints_m.tolist()

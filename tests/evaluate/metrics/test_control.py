"""Overlap, evidence, invented objects and tracks, on a street whose pictures' labels are painted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drivegen.evaluate.metrics.consistency import colour_error, follow
from drivegen.evaluate.metrics.control import box_evidence, distance_bin, invented, overlaps, recalls
from drivegen.evaluate.metrics.expected import expected
from drivegen.evaluate.referee import GROUPS
from drivegen.raster import box_numbers, layout
from drivegen.scene import Frame
from tests.street import street_frame

VEHICLE, DRIVABLE, SKY = (np.uint8(GROUPS.index(name)) for name in ("vehicle", "drivable", "sky"))


def street() -> Frame:
    return street_frame().resized(160, 90)


def perfect(views):
    """Labels of a referee that sees exactly what is expected."""
    return {v.channel: np.where(v.vehicle, VEHICLE, np.where(v.drivable, DRIVABLE, SKY)) for v in views}


@pytest.fixture(scope="module")
def views():
    return [expected(street(), channel) for channel in street().channels]


def test_numbers_are_the_layouts_boxes() -> None:
    frame = street()
    for camera in frame.cameras:
        numbers, depth = box_numbers(frame, camera)
        view = layout(frame, camera)
        np.testing.assert_array_equal(numbers >= 0, view.box_class > 0)
        hit = numbers >= 0
        np.testing.assert_array_equal(depth[hit].astype(np.float16), view.depth_m[hit])


def test_what_is_as_expected_scores_one_and_what_is_missing_is_told(views) -> None:
    frame, labels = street(), perfect(views)
    for counts in overlaps(labels, views).values():
        assert counts[0] == counts[1] > 0
    whole = {box.instance: box for box in box_evidence(frame, labels, views, ("vehicle",))}
    assert set(whole) == {"car-a", "truck-a", "bike-a"}
    assert all(box.evidence == 1 for box in whole.values())
    number = next(i for i, box in enumerate(frame.boxes) if box.instance == "truck-a")
    without = {v.channel: np.where(v.numbers == number, SKY, labels[v.channel]) for v in views}
    found = {box.instance: box for box in box_evidence(frame, without, views, ("vehicle",))}
    assert found["truck-a"].evidence == 0
    assert found["car-a"] == whole["car-a"]
    assert recalls(found.values())["all"].tolist() == [2, 3]
    assert recalls(found.values())["class truck"].tolist() == [0, 1]
    assert overlaps(without, views)["vehicle"][0] < overlaps(without, views)["vehicle"][1]
    box = found["truck-a"]
    left, top, right, bottom = box.rectangle
    inside = next(v for v in views if v.channel == box.channel).numbers[top:bottom, left:right] == number
    assert inside.any(0).all()
    assert inside.any(1).all()


def test_hidden_boxes_count_neither_way(views) -> None:
    frame = street()
    hidden = replace(frame, boxes=tuple(replace(box, visibility=1) for box in frame.boxes))
    seen = [expected(hidden, channel) for channel in hidden.channels]
    nothing = {v.channel: np.where(v.drivable, DRIVABLE, SKY) for v in seen}
    assert overlaps(nothing, seen)["vehicle"].tolist() == [0, 0]
    assert box_evidence(hidden, nothing, seen) == []


def test_a_vehicle_without_a_box_is_invented_and_one_with_it_is_not(views) -> None:
    labels = perfect(views)
    assert invented(labels, views) == []
    view = next(v for v in views if not v.vehicle[:20, :30].any())
    labels[view.channel] = labels[view.channel].copy()
    labels[view.channel][4:14, 5:25] = VEHICLE
    labels[view.channel][40, 60] = VEHICLE  # a speck
    (found,) = invented(labels, views)
    assert (found.channel, found.rectangle, found.pixels) == (view.channel, (5, 4, 25, 14), 200)
    assert found.share_of_picture == 200 / (160 * 90)


def test_bins_have_no_gap() -> None:
    assert [distance_bin(d) for d in (0, 14.9, 15, 30, 49, 50, 400)] == [
        "0-15 m", "0-15 m", "15-30 m", "30-50 m", "30-50 m", "over 50 m", "over 50 m",
    ]  # fmt: skip


def painted(frame: Frame, view, moving: bool = True) -> np.ndarray:
    """A picture in which every box has colours of its own, by place on the box."""
    camera = frame.camera(view.channel)
    rows, columns = np.nonzero(view.numbers >= 0)
    rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], -1) @ np.linalg.inv(camera.K_image).T
    points = camera.global_SE3_camera.transform(rays * view.box_depth_m[rows, columns].astype(float)[:, None])
    image = np.full((*view.numbers.shape, 3), 128, np.uint8)
    for i, box in enumerate(frame.boxes):
        mine = view.numbers[rows, columns] == i
        at = box.global_SE3_object.inverse().transform(points[mine]) if moving else points[mine] % 10
        image[rows[mine], columns[mine]] = (127 + 120 * np.sin(at * 1.5)).astype(np.uint8)
    return image


def test_points_move_with_their_boxes_from_frame_to_frame() -> None:
    before, after = street_frame(0).resized(320, 180), street_frame(1).resized(320, 180)
    total, other = np.zeros(2), np.zeros(2)
    for channel in before.channels:
        was, now = expected(before, channel), expected(after, channel)
        pair = follow(before.camera(channel), after.camera(channel), was, now, before, after)
        total += colour_error(pair, painted(before, was), painted(after, now))
        other += colour_error(pair, painted(before, was, False), painted(after, now, False))
    assert total[1] > 500
    assert total[0] / total[1] < 0.03
    assert other[0] / other[1] > 1.5 * total[0] / total[1]  # colours that stay where they are in the world


def test_boxes_of_no_instance_are_not_followed() -> None:
    frame = street()
    bare = replace(frame, boxes=tuple(replace(box, instance="") for box in frame.boxes))
    view = expected(bare, "CAM_FRONT")
    assert len(follow(bare.camera("CAM_FRONT"), bare.camera("CAM_FRONT"), view, view, bare, bare).rows) == 0

"""Objects in judged pictures: whose pixels are found, and what stands out against the places beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.object_recall import PEDESTRIAN_GROUP, Seen, bins, mean_over, precision_sums, seen_objects, stands_out, table
from drivegen.evaluate.referee import VEHICLE_GROUP
from drivegen.testing.frames import frame
from drivegen.world import CLASSES, View

MASK = np.zeros((20, 40), bool)
MASK[8:14, 18:21] = True


def test_what_differs_from_its_rim_stands_out_and_what_lies_in_a_pattern_does_not() -> None:
    grey = np.full((20, 40, 3), 90, np.uint8)
    figure = grey.copy()
    figure[MASK] = (200, 40, 40)
    assert stands_out(MASK, MASK, figure) == 1
    assert stands_out(MASK, MASK, grey) == 0
    noise = np.random.default_rng(0)
    shares = [stands_out(MASK, MASK, noise.integers(0, 256, (20, 40, 3), dtype=np.uint8)) for _ in range(300)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert math.isnan(stands_out(MASK, np.ones_like(MASK), figure))


def test_objects_are_counted_by_view_with_their_distance_and_share() -> None:
    street = frame(0, views=2)
    box = street.boxes[0]
    classes, instances = np.zeros((20, 40), np.uint8), np.zeros((20, 40), np.int32)
    classes[MASK], instances[MASK] = CLASSES.index("car"), 1
    instances[0, 0] = 2  # too few pixels
    view = View(np.zeros((20, 40, 3), np.uint8), classes, instances, np.ones((20, 40), np.float32))
    empty = View(view.rgb, np.zeros_like(classes), np.zeros_like(instances), view.depth_m)
    labels = np.zeros((20, 40), np.uint8)
    labels[8:14, 18:20] = VEHICLE_GROUP
    labels[0, :4] = VEHICLE_GROUP
    first, second = street.channels
    truth, said = {first: view, second: empty}, {first: labels, second: np.zeros_like(labels)}
    (found,) = seen_objects(3, street, truth, {first: view.rgb, second: view.rgb}, said)
    away = np.linalg.norm(box.global_SE3_object.translation - street.camera(first).global_SE3_camera.translation)
    assert (found.scene, found.group, found.found) == (3, VEHICLE_GROUP, pytest.approx(2 / 3))
    assert found.distance_m == pytest.approx(away)
    assert found.side_px == pytest.approx(math.sqrt(18))
    assert precision_sums(truth, said).tolist() == [12, 16]


def test_every_object_is_in_one_row_by_distance_and_one_by_size() -> None:
    drawn = np.random.default_rng(1)
    for group in (VEHICLE_GROUP, PEDESTRIAN_GROUP):
        for distance, side in drawn.uniform(2, 60, (50, 2)):
            rows = [row.title for row in bins() if row.holds(Seen(0, group, distance, side, 0.5, math.nan))]
            assert len(rows) == 3
    objects = [Seen(scene, VEHICLE_GROUP, 10.0, 9.0, share, math.nan) for scene, share in ((0, 0.2), (1, 0.6), (1, 1.0))]
    assert mean_over(objects, "found", 2).value == pytest.approx(0.6)
    text = table({"plain": [objects, objects[:1]], "weighted": [objects, objects[1:2]]}, 2, ("plain", "weighted"))
    assert "| vehicles | 3 | 0.400 (0.200 to 0.600) | 0.600 (0.600 to 0.600) | +0.200 (+0.000 to +0.400) |" in text
    assert "| pedestrians | 0 | – | – | – |" in text

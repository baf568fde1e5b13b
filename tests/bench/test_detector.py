"""The study's detector: targets read back, features lifted to where they belong, the devkit's score of perfect detections."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench import detector
from bench.detection_scores import declare, score
from bench.detector import CELLS, Lesson, decode, lifted, targets
from drivegen.datasets import nuscenes
from drivegen.scene import Frame
from tests.street import street_frame, street_scene


def perfect(frame: Frame) -> list[detector.Detection]:
    """What a network would say whose output is the target."""
    heat, cells, values = targets(frame.boxes, frame.global_SE3_ego)
    wide = np.zeros((8, CELLS * CELLS), np.float32)
    wide[:, cells] = values.T
    return decode(torch.from_numpy(heat), torch.from_numpy(wide).view(8, CELLS, CELLS))


def test_boxes_are_read_back_from_their_targets() -> None:
    frame = street_frame()
    found = {each.name: each for each in perfect(frame)}
    within = [box for box in frame.boxes if box.detection_class is not None]
    assert set(found) == {box.detection_class for box in within}
    for box in within:
        each = found[box.detection_class]
        there = (frame.global_SE3_ego @ each.ego_SE3_object).matrix
        np.testing.assert_allclose(there, box.global_SE3_object.matrix, atol=1e-4)
        np.testing.assert_allclose(each.size_wlh_m, box.size_wlh_m, rtol=1e-5)
        assert each.score == 1


def written(root, frames: int = 2):
    scene = street_scene(frames)
    nuscenes.write([replace(scene, frames=tuple(
        replace(frame, boxes=tuple(replace(box, num_lidar_pts=9) for box in frame.boxes)) for frame in scene.frames
    ))], root)  # fmt: skip
    return nuscenes.open(root)


def test_perfect_detections_score_one_by_the_devkit(tmp_path) -> None:
    dataset = written(tmp_path)
    declare(tmp_path, "v1.0-mini", dataset.scenes)
    frames = {token: dataset.frame(token) for token in dataset.samples()}
    found = score(tmp_path, "v1.0-mini", {token: (frame, perfect(frame)) for token, frame in frames.items()})
    assert found["car AP"] == pytest.approx(1)
    assert found["car ATE"] == pytest.approx(0, abs=1e-3)
    nothing = score(tmp_path, "v1.0-mini", {token: (frame, []) for token, frame in frames.items()})
    assert nothing["car AP"] == nothing["mAP"] == 0


def test_a_feature_is_lifted_to_the_cells_that_see_it(tmp_path) -> None:
    dataset = written(tmp_path, 1)
    frame = dataset.frame(dataset.samples()[0]).resized(96, 54)
    own = detector.lesson(frame)
    car = next(box for box in frame.boxes if box.detection_class == "car")
    camera = frame.camera("CAM_FRONT")
    from drivegen.scene.geometry import project

    at = car.global_SE3_object.translation - [0, 0, car.size_wlh_m[2] / 2 - 0.3]
    pixel, _ = project(camera.K_image, camera.global_SE3_camera.inverse().transform(at[None]))
    features = torch.zeros(len(frame.cameras), 1, 54, 96)
    column, row = pixel[0].astype(int)
    features[frame.channels.index("CAM_FRONT"), 0, row - 1 : row + 2, column - 1 : column + 2] = 1
    above = lifted(features, own)[0]
    cell = own.cells[[i for i, box in enumerate(frame.boxes) if box.detection_class is not None].index(frame.boxes.index(car))]
    i, j = divmod(int(cell), CELLS)
    assert above[max(i - 1, 0) : i + 2, j - 1 : j + 2].max() > 0.5
    assert above[: CELLS // 2].max() == 0  # nothing behind the vehicle


@pytest.mark.slow
def test_training_learns_a_frame_by_heart_and_is_repeated_exactly(tmp_path) -> None:
    dataset = written(tmp_path, 1)
    own: Lesson = detector.lesson(dataset.frame(dataset.samples()[0]).resized(96, 54))
    nets = [detector.train([own], [], 4, seed=3, batch=1) for _ in range(2)]
    for a, b in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    trained = detector.loss_of(*detector.train([own], [], 25, seed=3, batch=1).train()([own]), [own])
    fresh = detector.loss_of(*detector.Detector().train()([own]), [own])
    assert trained < 0.5 * fresh

"""Objects cut out of frames: the pixels and the geometry of the recorded pictures, all or nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from drivegen import crops
from drivegen.catalog import registry
from drivegen.cli.main import app
from drivegen.crops.find import rectangle
from drivegen.datasets import nuscenes
from drivegen.host import batch as data
from drivegen.scene import Box3D, Frame
from drivegen.scene.geometry import SE3
from drivegen.scene.pictures import load_image
from drivegen.support.errors import InputError
from tests.street import street_scene

WANTED = crops.Wanted(categories=("car", "truck"), size=(64, 96), least_px=10, visible=0.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two frames whose pictures say in red and green at which column and row they are."""
    folder = tmp_path_factory.mktemp("crops")
    (scene,) = (street_scene(2, "alpha"),)
    frames = []
    for i, frame in enumerate(scene.frames):
        pictures = {}
        for camera in frame.cameras:
            rows, columns = np.mgrid[: camera.height_px, : camera.width_px]
            pixels = np.stack([columns * 255 / camera.width_px, rows * 255 / camera.height_px, 0 * rows], -1).astype(np.uint8)
            path = folder / f"{i}-{camera.channel}.png"
            Image.fromarray(pixels).save(path)
            pictures[camera.channel] = path
        frames.append(frame.with_pictures(pictures))
    nuscenes.write([replace(scene, frames=tuple(frames))], folder / "data")
    return folder / "data"


def frames(root: Path) -> list[Frame]:
    source = nuscenes.open(root)
    return [source.frame(token) for token in source.samples()]


def test_crops_are_a_dataset_with_the_geometry_of_its_pictures(root: Path, tmp_path: Path) -> None:
    found = [crop for frame in frames(root) for crop in crops.find(frame, WANTED)]
    assert {crop.box.detection_class for crop in found} == {"car", "truck"}
    out = tmp_path / "out"
    crops.write(found, out)
    source = nuscenes.open(out)
    lines = [json.loads(line) for line in (out / crops.TABLE).read_text().splitlines()]
    assert len(source.scenes) == len(lines) == len(found)
    assert not [problem for problem in nuscenes.validate(out) if problem.severity == "error"]
    text = {"text": registry.load("text")(), "boxes": registry.load("boxes")()}
    for crop, line in zip(found, lines, strict=True):
        (token,) = source.samples(line["scene"])
        frame = source.frame(token)
        (camera,) = frame.cameras
        assert (camera.width_px, camera.height_px) == (96, 64)
        assert frame.description == f"a {crop.box.detection_class}"
        (own,) = [box for box in frame.boxes if np.allclose(box.corners(), crop.box.corners(), atol=1e-6)]
        inside = rectangle(camera, own)
        assert inside is not None
        assert np.allclose(inside, line["rectangle"], atol=0.02)
        # The same places in the recorded picture, by what its pixels say.
        pixels = np.asarray(load_image(camera)).astype(float)
        left, top, right, bottom = inside
        x, y = (left + right) / 2, (top + bottom) / 2
        red, green, _ = pixels[int(y), int(x)]
        recorded = line["source_rectangle"]
        assert abs(red * crop.camera.width_px / 255 - (recorded[0] + recorded[2]) / 2) < 4
        assert abs(green * crop.camera.height_px / 255 - (recorded[1] + recorded[3]) / 2) < 4
        there = SE3.from_quaternion(line["rotation_camera_wxyz"], line["center_camera_m"])
        expected = crop.camera.global_SE3_camera.inverse() @ crop.box.global_SE3_object
        assert np.allclose(there.matrix, expected.matrix, atol=2e-3)
        assert (out / line["file"]).is_file()
        assert data.prepare(frame, {"boxes": text["boxes"]})  # its conditions are there for training


def test_what_is_hidden_small_or_of_another_kind_stays(root: Path) -> None:
    (frame, _) = frames(root)
    crop = next(iter(crops.find(frame, WANTED)))
    own = crop.box
    between = crop.camera.global_SE3_camera.translation * 0.5 + own.global_SE3_object.translation * 0.5
    wall = Box3D("movable_object.barrier", SE3(np.eye(3), between), np.array([9.0, 9.0, 9.0]), "wall")
    hidden = replace(frame, boxes=(*frame.boxes, wall))
    assert not [c for c in crops.find(hidden, WANTED) if c.box is own and c.camera.channel == crop.camera.channel]
    high = max(crop.rectangle[2] - crop.rectangle[0], crop.rectangle[3] - crop.rectangle[1])
    assert crop.camera.channel not in {c.camera.channel for c in crops.find(frame, replace(WANTED, least_px=high + 1))
                                       if c.box is own}  # fmt: skip
    seldom = replace(frame, boxes=tuple(replace(box, visibility=1) for box in frame.boxes))
    assert not list(crops.find(seldom, WANTED))
    assert {c.box.category for c in crops.find(frame, replace(WANTED, categories=("vehicle.truck",)))} == {"vehicle.truck"}
    assert not list(crops.find(frame, replace(WANTED, categories=("vehicle.tru",))))


def test_all_or_nothing_and_each_fault_in_a_sentence(root: Path, tmp_path: Path) -> None:
    found = list(crops.find(frames(root)[0], WANTED))[:2]
    broken = replace(found[1], camera=replace(found[1].camera, image_path=tmp_path / "gone.png"))
    with pytest.raises(InputError, match=r"gone\.png"):
        crops.write([found[0], broken], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for out, arguments, said in (
        ("full", ("--category", "car", "--least", "10"), "not an empty folder"), ("a", (), "no category is given"),
        ("a", ("--category", "tram"), "no object of tram"), ("a", ("--category", "car", "--visible", "2"), "out of range"),
        ("a", ("--category", "car", "--size", "7"), "size"), ("a", ("--category", "car", "--num", "0"), "num"),
    ):  # fmt: skip
        result = CliRunner().invoke(app, ["crops", str(root), str(tmp_path / out), *arguments])
        assert result.exit_code == 2, result.output
        assert said in result.stderr
    result = CliRunner().invoke(
        app, ["crops", str(root), str(tmp_path / "some"), "--category", "car", "--least", "10", "--num", "2"]
    )
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "some" / crops.TABLE).read_text().splitlines()) == 2

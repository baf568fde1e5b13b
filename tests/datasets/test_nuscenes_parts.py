"""Tables from parts are those that the whole scenes make."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drivegen.datasets import nuscenes
from drivegen.datasets.nuscenes.parts import joined, part, write_parts
from drivegen.scene import Frame, Scene
from drivegen.support.errors import InputError
from tests.street import street_map, street_scene


def recorded(root: Path, name: str, frames: int) -> Scene:
    """A street whose pictures and sweeps lie below root."""

    def one(frame: Frame) -> Frame:
        pictures = {}
        for camera in frame.cameras:
            pictures[camera.channel] = path = root / "samples" / camera.channel / f"{frame.token}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (camera.width_px, camera.height_px)).save(path)
        lidar = root / "samples" / "LIDAR_TOP" / f"{frame.token}.pcd.bin"
        lidar.parent.mkdir(parents=True, exist_ok=True)
        np.zeros((1, 5), np.float32).tofile(lidar)
        here = frame.boxes[1:] if frame.token.endswith("-1") else frame.boxes[:-1]
        boxes = tuple(replace(box, token="", instance=f"{name}/{box.instance}") for box in here)
        boxes = (*boxes[:-1], replace(boxes[-1], joints_m=np.full((17, 3), len(frame.token) / 10)))
        said = f"{frame.description}, {frame.token}"
        return replace(frame.with_pictures(pictures), lidar_path=lidar, boxes=boxes, description=said)

    scene = street_scene(frames, name)
    return replace(scene, frames=tuple(map(one, scene.frames)))


def test_parts_make_the_tables_of_whole_scenes(tmp_path: Path) -> None:
    for root in (tmp_path / "whole", tmp_path / "parts"):
        scenes = [recorded(root, "alpha", 3), recorded(root, "beta", 2)]
        if root.name == "whole":
            nuscenes.write(scenes, root, "v1.0-mini", "someone")
            continue
        parts = [
            [json.loads(json.dumps(part(scene, i, root, "someone"))) for i in range(len(scene.frames))] for scene in scenes
        ]
        write_parts(root, "v1.0-mini", parts, {"boston-seaport": street_map()}, "someone")
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert len(files) > 13
    for name in files:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    read = nuscenes.open(tmp_path / "parts").scene("alpha").frames
    assert [frame.boxes[-1].joints_m is not None for frame in read] == [True] * 3
    assert len({frame.description for frame in read}) == 3
    assert nuscenes.validate(tmp_path / "parts") == nuscenes.validate(tmp_path / "whole")


def test_an_instance_of_two_categories_is_refused(tmp_path: Path) -> None:
    scene = recorded(tmp_path, "alpha", 2)
    boxes = tuple(replace(box, category="vehicle.truck") for box in scene.frames[1].boxes)
    other = replace(scene, frames=(scene.frames[0], replace(scene.frames[1], boxes=boxes)))
    with pytest.raises(InputError, match="two categories"):
        joined(part(other, i, tmp_path, "someone") for i in range(2))


def test_nothing_is_left_of_tables_that_were_not_finished(tmp_path: Path) -> None:
    scene = recorded(tmp_path, "alpha", 1)
    before = sorted(tmp_path.rglob("*"))

    def parts():
        yield [part(scene, 0, tmp_path, "someone")]
        raise InputError("half of it")

    with pytest.raises(InputError, match="half of it"):
        write_parts(tmp_path, "v1.0-mini", parts(), {"boston-seaport": street_map()}, "someone")
    assert sorted(tmp_path.rglob("*")) == before

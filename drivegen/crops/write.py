"""Crops as a dataset of the nuScenes format, one camera per sample, with a table of what each shows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drivegen.crops.find import Crop, rectangle
from drivegen.datasets import nuscenes
from drivegen.scene import Camera, Scene
from drivegen.scene.pictures import load_image
from drivegen.support import files
from drivegen.support.errors import InputError

TABLE = "crops.jsonl"
VERSION = "v1.0-crops"


def write(crops: Sequence[Crop], out: Path, advance: Callable[[], None] = lambda: None) -> None:
    """Write crops: the pictures, `TABLE`, and the tables by which every reader of nuScenes, training included, reads them.

    A crop is a scene of one sample with one camera, whose intrinsics are those of the part that is shown, so that boxes and map
    lie in it as they did. All is written, or nothing.

    Args:
        crops: at least one.
        out: a new or empty folder.
        advance: called after each picture.

    Raises InputError where the folder holds anything, and where a picture cannot be read.
    """
    if not crops:
        raise InputError("there are no crops to write")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already and is not an empty folder; choose another")
    with tempfile.TemporaryDirectory() as drawn, files.replacing(out) as new:
        scenes, lines = [], []
        for number, crop in enumerate(crops):
            picture = Path(drawn) / f"{number:05d}.png"
            load_image(crop.camera).save(picture)
            taken = crop.camera.with_picture(picture)
            scenes.append(_scene(number, crop, taken))
            lines.append(_line(number, crop, taken))
            advance()
        nuscenes.write(scenes, new, VERSION)
        rows = {row["name"]: row for row in _pictures(new, scenes)}
        text = "".join(json.dumps({**line, "file": rows[line["scene"]]["file"]}, ensure_ascii=False) + "\n" for line in lines)
        files.write_atomically(new / TABLE, text.encode())


def _scene(number: int, crop: Crop, camera: Camera) -> Scene:
    boxes = tuple(
        replace(box, token="", instance=f"{number:05d}-{i}") for i, box in enumerate(crop.frame.boxes)
        if box is crop.box or rectangle(camera, box) is not None
    )  # fmt: skip
    name = _name(number)
    frame = replace(
        crop.frame, token="", cameras=(camera,), boxes=boxes, neighbours=(), description=_words(crop), lidar_path=None
    )
    return Scene(name, (frame,), frame.description, frame.location)


def _name(number: int) -> str:
    return f"crop-{number:05d}"


def _words(crop: Crop) -> str:
    word = (crop.box.detection_class or crop.box.category.rsplit(".", 1)[-1]).replace("_", " ")
    return f"{'an' if word[:1] in 'aeiou' else 'a'} {word}"


def _line(number: int, crop: Crop, camera: Camera) -> dict[str, Any]:
    there = camera.global_SE3_camera.inverse() @ crop.box.global_SE3_object
    inside = rectangle(camera, crop.box)
    return {
        "scene": _name(number), "category": crop.box.category, "instance": crop.box.instance,
        "source_sample": crop.frame.token, "camera": camera.channel, "source_rectangle": _rounded(crop.rectangle),
        "rectangle": None if inside is None else _rounded(inside), "visible": round(crop.visible, 3),
        "size_wlh_m": _rounded(crop.box.size_wlh_m), "center_camera_m": _rounded(there.translation),
        "rotation_camera_wxyz": _rounded(there.quaternion, 6), "K": [_rounded(row) for row in camera.K_native],
    }  # fmt: skip


def _rounded(values: Any, digits: int = 3) -> list[float]:
    return [round(float(value), digits) for value in values]


def _pictures(root: Path, scenes: Sequence[Scene]) -> list[dict[str, str]]:
    """Name the picture of each scene, as the dataset that was written says it."""
    found = nuscenes.open(root, VERSION)
    rows = []
    for scene in scenes:
        (camera,) = found.frame(found.samples(scene.name)[0]).cameras
        assert camera.image_path is not None
        rows.append({"name": scene.name, "file": camera.image_path.relative_to(root).as_posix()})
    return rows

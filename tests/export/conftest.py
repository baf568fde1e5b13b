"""A small dataset with what exports meet: scenes of equal times, cameras of two sizes, a tilted ego, boxes of every kind."""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivegen.datasets import nuscenes
from drivegen.export import export
from drivegen.scene import Box3D, Frame, Scene
from drivegen.scene.geometry import SE3
from tests.street import camera, street_scene


def tilted(pose: SE3) -> SE3:
    p = 0.02
    return pose @ SE3(np.array([[math.cos(p), 0, math.sin(p)], [0, 1, 0], [-math.sin(p), 0, math.cos(p)]]), np.zeros(3))


def street(name: str, frames: int, folder: Path) -> Scene:
    scene, made = street_scene(frames, name), []
    for step, frame in enumerate(scene.frames):
        cameras = tuple(replace(one, global_SE3_ego=tilted(one.global_SE3_ego)) for one in frame.cameras)
        front = camera("CAM_FRONT", 0, cameras[1].global_SE3_ego, size=(400, 240), timestamp_us=frame.timestamp_us + 10_000)
        ego = tilted(frame.global_SE3_ego)
        # Beside the ego, from behind the front camera to far before it.
        trailer = Box3D(
            "vehicle.trailer", ego @ SE3.from_yaw(0.0, (6.0, 3.0, 2.0)), (2.5, 16.0, 3.5), "trailer-a", visibility=1
        )
        once = Box3D("vehicle.bus.rigid", SE3.from_yaw(0.2, (330, 304, 1.6)), (2.8, 11.0, 3.2), "bus-a", visibility=2)
        boxes = () if (name, step) == ("alpha", 1) else (*frame.boxes, trailer)
        boxes = (*boxes, once) if (name, step) == ("alpha", 2) else boxes
        frame = replace(
            frame, cameras=(front, *(c for c in cameras if c.channel != "CAM_FRONT")), boxes=boxes, global_SE3_ego=ego
        )
        made.append(replace(frame, lidar_path=sweep(frame, folder)))
    return Scene(name, tuple(made), scene.description, scene.location, scene.token)


def sweep(frame: Frame, folder: Path) -> Path:
    """A point in the middle of each box but the bicycle's."""
    lidar = (frame.global_SE3_ego @ frame.ego_SE3_lidar).inverse()
    places = [box.global_SE3_object.translation for box in frame.boxes if "bicycle" not in box.category]
    points = np.zeros((len(places), 5), np.float32)
    points[:, :3] = lidar.transform(np.array(places).reshape(-1, 3))
    path = folder / f"{frame.token}.bin"
    path.write_bytes(points.tobytes())
    return path


def write(folder: Path, *names: str) -> Path:
    nuscenes.write([street(name, 3 if name == "alpha" else 2, folder) for name in names], folder / "data")
    return folder / "data"


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes alpha (three samples, the second without boxes) and beta (two), at the same times; beta is for validation."""
    made = write(tmp_path_factory.mktemp("export"), "alpha", "beta")
    (made / "v1.0-mini" / "splits.json").write_text(json.dumps({"synthetic_train": ["alpha"], "synthetic_val": ["beta"]}))
    return made


@pytest.fixture(scope="session")
def nusc(root: Path) -> Any:
    from nuscenes.nuscenes import NuScenes

    return NuScenes("v1.0-mini", str(root), verbose=False)


Exported = Callable[..., Path]


@pytest.fixture(scope="session")
def exported(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export all scenes as training data, once per format."""
    made: dict[str, Path] = {}

    def one(form: str) -> Path:
        if form not in made:
            made[form] = tmp_path_factory.mktemp(form)
            export(root, made[form], form, split={"train": ["alpha", "beta"]})
        return made[form]

    return one


class Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        assert (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
        return super().find_class(module, name)


def read(path: Path) -> Any:
    return Plain(io.BytesIO(path.read_bytes())).load()


def tables(root: Path, copy: Path) -> Path:
    """Copy a dataset's tables, and link what they name, so that a test may change them."""
    (copy / "v1.0-mini").mkdir(parents=True)
    for path in (root / "v1.0-mini").iterdir():
        (copy / "v1.0-mini" / path.name).write_bytes(path.read_bytes())
    for name in ("samples", "maps"):
        (copy / name).symlink_to(root / name)
    return copy


def change(root: Path, table: str, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    path = root / "v1.0-mini" / f"{table}.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))

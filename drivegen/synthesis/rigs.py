"""Calibrations of another rig, from a dataset or a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from drivegen import datasets
from drivegen.scene import Camera, Frame
from drivegen.scene.cameras import MAX_SIDE_PX
from drivegen.scene.geometry import SE3
from drivegen.support.errors import InputError

_SIDE = {"ge": 1, "le": MAX_SIDE_PX}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A camera of a rig, as nuScenes' calibrated_sensor says it.

    translation (x, y, z) metres and rotation (w, x, y, z) of the camera in the ego frame; camera_intrinsic (3, 3) in pixels of
    images of width x height.
    """

    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    camera_intrinsic: tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
    width: int = field(metadata=_SIDE)
    height: int = field(metadata=_SIDE)

    def __post_init__(self) -> None:
        self.camera("of a rig", SE3.identity(), 0)

    def camera(self, channel: str, global_SE3_ego: SE3, timestamp_us: int) -> Camera:
        """Return the camera at a moment of a drive; raises InputError for values that make none.

        Args:
            channel: its name.
            global_SE3_ego: where the vehicle is then.
            timestamp_us: the moment.
        """
        mounting = SE3.from_quaternion(self.rotation, self.translation)
        K = np.array(self.camera_intrinsic)
        return Camera(channel, K, self.width, self.height, mounting, global_SE3_ego, timestamp_us)


Rig = Mapping[str, Calibration]
"""Calibrations by channel."""


def read(path: Path) -> dict[str, Any]:
    """Read a rig, as values of `Calibration` by channel: of a dataset's first sample, or of a JSON file that holds them.

    Raises InputError where there is none.
    """
    if path.is_dir():
        source = datasets.open(path)
        tokens = source.samples()
        if not tokens:
            raise InputError(f"dataset {path} has no sample whose cameras could be taken")
        return {camera.channel: _values(camera) for camera in source.frame(tokens[0]).cameras}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"rig {path} does not exist; give a dataset's folder, or a JSON file of calibrations") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"rig {path} is not JSON: {error}") from error
    if not isinstance(found, dict) or not found:
        raise InputError(f'rig {path} must hold calibrations by camera, such as {{"CAM_FRONT": {{"translation": …}}}}')
    return found


def _values(camera: Camera) -> dict[str, Any]:
    mounting = camera.ego_SE3_camera
    return {
        "translation": mounting.translation.tolist(), "rotation": mounting.quaternion.tolist(),
        "camera_intrinsic": camera.K_native.tolist(), "width": camera.width_px, "height": camera.height_px,
    }  # fmt: skip


def mounted(frame: Frame, rig: Rig) -> Frame:
    """Return a frame with a rig's cameras in the place of its own; one of the same name has the moment of the old one."""
    before = {camera.channel: camera for camera in frame.cameras}
    cameras = []
    for channel, calibration in rig.items():
        old = before.get(channel)
        pose, time = (frame.global_SE3_ego, frame.timestamp_us) if old is None else (old.global_SE3_ego, old.timestamp_us)
        cameras.append(calibration.camera(channel, pose, time))
    return replace(frame, cameras=tuple(cameras))

"""Info dictionaries as mmdetection3d wrote them up to 1.0.0rc6, on which other trainers built theirs."""

from __future__ import annotations

from typing import Any

import numpy as np

from drivegen.datasets.nuscenes.recordings import Recording
from drivegen.export import classes
from drivegen.export.geometry import Boxes, boxes_in_lidar, lidar_SE3_sensor
from drivegen.export.part import Part
from drivegen.export.pickled import pickled
from drivegen.export.samples import Sample
from drivegen.scene.geometry import Array


def info(part: Part, sample: Sample) -> dict[str, Any]:
    """Return what all of these formats say of a sample, without annotations."""
    lidar = sample.reference
    return {
        "lidar_path": part.path(lidar.file),
        "token": sample.token,
        "sweeps": [recorded(part, sweep, lidar, "lidar") for sweep in sample.sweeps],
        "cams": {
            camera.channel: recorded(part, camera, lidar, camera.channel) | {"cam_intrinsic": np.array(camera.K)}
            for camera in sample.cameras
        },
        "lidar2ego_translation": list(lidar.mount.translation),
        "lidar2ego_rotation": list(lidar.mount.rotation),
        "ego2global_translation": list(lidar.ego.translation),
        "ego2global_rotation": list(lidar.ego.rotation),
        "timestamp": sample.timestamp_us,
    }


def recorded(part: Part, sensor: Recording, lidar: Recording, kind: str) -> dict[str, Any]:
    """Return what an info says of a sensor's file; its points go to the lidar's frame by ``points @ R.T + T``.

    R and T are ``sensor2lidar_rotation`` and ``sensor2lidar_translation``.

    Args:
        part: the split.
        sensor: the recording.
        lidar: the sample's key frame.
        kind: its `type`: "lidar", or the camera's channel.
    """
    to_lidar = lidar_SE3_sensor(sensor, lidar)
    return {
        "data_path": part.path(sensor.file),
        "type": kind,
        "sample_data_token": sensor.token,
        "sensor2ego_translation": list(sensor.mount.translation),
        "sensor2ego_rotation": list(sensor.mount.rotation),
        "ego2global_translation": list(sensor.ego.translation),
        "ego2global_rotation": list(sensor.ego.rotation),
        "timestamp": sensor.timestamp_us,
        "sensor2lidar_rotation": np.array(to_lidar.rotation),
        "sensor2lidar_translation": np.array(to_lidar.translation),
    }


def labels(sample: Sample, clockwise: bool) -> dict[str, Any]:
    """Return a sample's annotations in the lidar's frame; the centre is that of gravity.

    Args:
        sample: the sample.
        clockwise: boxes as `clockwise_boxes` gives them, else as `counter_clockwise_boxes` does.
    """
    there = boxes_in_lidar(sample)
    lidar = np.array([box.num_lidar_pts or 0 for box in sample.boxes], dtype=np.int64)
    radar = np.array(sample.radar_points, dtype=np.int64)
    return {
        "gt_boxes": clockwise_boxes(there) if clockwise else counter_clockwise_boxes(there),
        "gt_names": np.array([classes.name(box) for box in sample.boxes], dtype=np.str_),
        "gt_velocity": np.ascontiguousarray(there.velocity[:, :2]),
        "num_lidar_pts": lidar,
        "num_radar_pts": radar,
        "valid_flag": lidar + radar > 0,
    }


def counter_clockwise_boxes(boxes: Boxes) -> Array:
    """Return (N, 7): x, y, z, length, width, height, yaw counter-clockwise from the lidar's x axis (1.0.0rc6 and later)."""
    return np.concatenate([boxes.center, boxes.wlh[:, [1, 0, 2]], boxes.yaw[:, None]], axis=1)


def clockwise_boxes(boxes: Boxes) -> Array:
    """Return (N, 7): x, y, z, width, length, height, -yaw - π/2: clockwise from the -y axis (mmdetection3d up to 0.18)."""
    return np.concatenate([boxes.center, boxes.wlh, -boxes.yaw[:, None] - np.pi / 2], axis=1)


def info_file(part: Part, infos: list[dict[str, Any]], **metadata: Any) -> bytes:
    """Return an info file: {"infos": …, "metadata": {"version": …}}.

    Args:
        part: the split.
        infos: in the order of its samples.
        metadata: more of it, for people; no loader reads it.
    """
    return pickled({"infos": infos, "metadata": {"version": part.data.version, **metadata}})

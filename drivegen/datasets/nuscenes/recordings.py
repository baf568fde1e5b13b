"""What the sensors recorded for a sample: the key frame of each, and the lidar's sweeps before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from drivegen.datasets.nuscenes.load import check, time_us
from drivegen.datasets.nuscenes.read import Dataset
from drivegen.datasets.nuscenes.schema import inside
from drivegen.scene.geometry import SE3, Array, finite
from drivegen.support.errors import InputError

LIDAR = "LIDAR_TOP"


@dataclass(frozen=True, eq=False)
class Pose:
    """A transform, and the numbers that its row gives it by: a quaternion (w, x, y, z) and a translation in metres."""

    transform: SE3
    rotation: tuple[float, ...]
    translation: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Recording:
    """A file of one sensor: where the sensor was on the vehicle, and the vehicle on the map, when it was recorded.

    file is relative to the data root, with '/' between folders; mount is ego_SE3_sensor, ego is global_SE3_ego; K (3, 3), width
    and height in pixels are a camera's, None and 0 for a lidar.
    """

    token: str
    channel: str
    file: str
    timestamp_us: int
    mount: Pose
    ego: Pose
    K: Array | None = None
    width_px: int = 0
    height_px: int = 0

    @cached_property
    def global_SE3_sensor(self) -> SE3:
        """Where the sensor was on the map."""
        return self.ego.transform @ self.mount.transform

    @cached_property
    def sensor_SE3_global(self) -> SE3:
        """The map's frame in the sensor's."""
        return self.global_SE3_sensor.inverse()


def key_frames(data: Dataset, sample_token: str) -> dict[str, Recording]:
    """Return what the cameras and LIDAR_TOP recorded for a sample, by channel; no file is opened."""
    return {channel: _recording(data, row) for channel, row in data._data(sample_token).items()}


def scene_place(data: Dataset, scene: str) -> tuple[str, str]:
    """Return the token and the location of a scene, given by name."""
    row = data._scene_row(scene)
    return row["token"], data.objects.get("log", row["log_token"], f"scene row {row['token']}")["location"]


def sample_times_us(data: Dataset, scene: str) -> tuple[int, ...]:
    """Return the times of a scene's samples, in the order of its chain."""
    return tuple(time_us(data.objects.get("sample", token, f"scene {scene!r}")) for token in data.samples(scene))


def sweeps(data: Dataset, sample_token: str, most: int) -> tuple[Recording, ...]:
    """Return the lidar's recordings before that of a sample, the nearest first; () where there is no lidar.

    They follow sample_data's `prev`; where that ends although the sample has one before it, its key frame is next.

    Args:
        data: the dataset.
        sample_token: of the sample.
        most: how many are returned at the most.
    """
    row = data._data(sample_token).get(LIDAR)
    found: list[Recording] = []
    seen: set[str] = set()
    while row is not None and len(found) < most:
        seen.add(row["token"])
        row = _before(data, row)
        if row is None:
            break
        if row["token"] in seen:
            raise InputError(f"sample_data row {row['token']}: the chain of prev tokens comes back to it; correct the table")
        found.append(_recording(data, row))
    return tuple(found)


def _before(data: Dataset, row: Mapping[str, Any]) -> dict[str, Any] | None:
    where = f"sample_data row {row['token']}"
    if row.get("prev"):
        return data.objects.find("sample_data", row["prev"], where)
    if not row.get("is_key_frame", True):
        return None
    sample = data.objects.get("sample", row["sample_token"], where)
    earlier = data.objects.get("sample", sample["prev"], where) if sample.get("prev") else None
    token = earlier["data"].get(LIDAR) if earlier is not None else None
    return data.objects.find("sample_data", token, where) if token else None


def _recording(data: Dataset, row: dict[str, Any]) -> Recording:
    where = f"sample_data row {row['token']} ({row['channel']})"
    camera = row["sensor_modality"] == "camera"
    check("sample_data", row, "camera data" if camera else "lidar data")
    inside(data.root, row["filename"], where)
    mount = data.objects.get("calibrated_sensor", row["calibrated_sensor_token"], where, "calibrated camera" if camera else "")
    poses = _pose(data, "calibrated_sensor", mount["token"], where), _pose(data, "ego_pose", row["ego_pose_token"], where)
    file = Path(row["filename"]).as_posix()
    recording = Recording(row["token"], row["channel"], file, time_us(row), *poses)
    if not camera:
        return recording
    K = finite(mount["camera_intrinsic"], (3, 3), f"{where}: intrinsics")
    return replace(recording, K=K, width_px=int(row["width"]), height_px=int(row["height"]))


def _pose(data: Dataset, table: str, token: str, where: str) -> Pose:
    transform, row = data.objects.pose(table, token, where), data.objects.find(table, token, where)
    return Pose(transform, tuple(map(float, row["rotation"])), tuple(map(float, row["translation"])))

"""Tell at a glance that a sample reads, its pictures aside: the many that do need no closer look.

The rows of a sample are checked together, in arrays. What passes is read by `Dataset.frame` without an error; what does not
pass may still be read, and is looked at row by row (`validate`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from drivegen.datasets.nuscenes.read import Dataset
from drivegen.datasets.nuscenes.schema import ROW_ERRORS, inside
from drivegen.scene import Camera
from drivegen.scene.boxes import LONGEST_M
from drivegen.scene.cameras import MAX_SIDE_PX
from drivegen.scene.geometry import FAR_AWAY_M, SE3
from drivegen.support.errors import InputError

_NUMBERS = (int, float)  # by `type`: a bool is none
_YEARS_US = (-62 * 10**15, 250 * 10**15)


class Screen:
    """Looks at the samples of one dataset; what is shared by many samples is looked at once."""

    def __init__(self, data: Dataset) -> None:
        self._data, self._devkit = data, data.devkit
        self._rows = {name: getattr(data.devkit, name) for name in data.devkit.table_names}
        self._index: dict[str, dict[str, int]] = data.devkit._token2ind
        self._shared: dict[tuple[str, str], bool] = {}

    def passes(self, sample_token: str) -> bool:
        """Whether a sample of the chains reads for sure, as far as its rows say."""
        try:
            return self._passes(self._rows["sample"][self._index["sample"][sample_token]])
        except ROW_ERRORS:
            return False

    def _passes(self, sample: dict[str, Any]) -> bool:
        rotations: list[Any] = []
        translations: list[Any] = []
        sizes: list[Any] = []
        scene = self._row("scene", sample["scene_token"])
        good = _time(sample) and type(sample.get("description", "")) is str
        good = good and self._once("scene", scene["token"], self._scene_reads)
        cameras = 0
        for channel, token in sample["data"].items():
            row = self._row("sample_data", token)
            camera = row["sensor_modality"] == "camera"
            if not camera and channel != "LIDAR_TOP":
                continue
            cameras += camera
            if type(row["filename"]) is not str or not row["filename"].isascii():
                return False
            inside(self._data.root, row["filename"], "")
            if camera:
                sides = row["width"], row["height"]
                good = good and _time(row) and all(type(side) is int and 1 <= side <= MAX_SIDE_PX for side in sides)
            mount = row["calibrated_sensor_token"]
            good = good and self._once(
                "camera" if camera else "lidar", mount, self._camera_reads if camera else self._lidar_reads
            )
            pose = self._row("ego_pose", row["ego_pose_token"])
            rotations.append(pose["rotation"])
            translations.append(pose["translation"])
        for token in sample["anns"]:
            row = self._row("sample_annotation", token)
            good = good and self._annotation(row)
            rotations.append(row["rotation"])
            translations.append(row["translation"])
            sizes.append(row["size"])
        return good and 1 <= cameras <= 8 and _placed(rotations, translations) and _sized(sizes)

    def _row(self, table: str, token: str) -> dict[str, Any]:
        row: dict[str, Any] = self._rows[table][self._index[table][token]]
        return row

    def _annotation(self, row: dict[str, Any]) -> bool:
        texts = type(row["instance_token"]) is str and type(row["prev"]) is str and type(row["next"]) is str
        good = texts and type(row["num_lidar_pts"]) in _NUMBERS and type(row["attribute_tokens"]) is list
        seen = row["visibility_token"]
        good = good and type(seen) is str and (not seen or seen in self._index["visibility"])
        good = good and all(self._once("attribute", token, self._attribute_reads) for token in row["attribute_tokens"])
        for link in ("prev", "next"):
            if good and row[link]:
                other = self._row("sample_annotation", row[link])
                place = other["translation"]
                good = type(place) is list and len(place) == 3 and all(_moderate(value) for value in place)
                good = good and _moderate(self._row("sample", other["sample_token"])["timestamp"], 1e18)
        return good

    def _once(self, kind: str, token: str, check: Callable[[str], bool]) -> bool:
        key = kind, token
        if key not in self._shared:
            self._shared[key] = check(token)
        return self._shared[key]

    def _scene_reads(self, token: str) -> bool:
        try:
            log = self._data._get("log", self._row("scene", token)["log_token"], "")
            self._data._map(log["location"])
        except InputError:
            return False
        return True

    def _attribute_reads(self, token: str) -> bool:
        return type(self._row("attribute", token)["name"]) is str

    def _camera_reads(self, token: str) -> bool:
        row = self._row("calibrated_sensor", token)
        try:
            Camera("", row["camera_intrinsic"], 1, 1, SE3.from_quaternion(row["rotation"], row["translation"]), SE3.identity())
        except InputError:
            return False
        return type(row["camera_intrinsic"]) is list and self._lidar_reads(token)

    def _lidar_reads(self, token: str) -> bool:
        row = self._row("calibrated_sensor", token)
        lists = type(row["rotation"]) is list and type(row["translation"]) is list
        return lists and _placed([row["rotation"]], [row["translation"]])


def _moderate(value: Any, most: float = FAR_AWAY_M) -> bool:
    return type(value) in _NUMBERS and -most <= value <= most


def _time(row: dict[str, Any]) -> bool:
    return type(row["timestamp"]) in _NUMBERS and _YEARS_US[0] <= row["timestamp"] <= _YEARS_US[1]


def _placed(rotations: list[Any], translations: list[Any]) -> bool:
    if not all(type(value) is list for value in (*rotations, *translations)):
        return False
    quaternions, places = np.array(rotations, dtype=np.float64), np.array(translations, dtype=np.float64)
    if quaternions.shape != (len(rotations), 4) or places.shape != (len(rotations), 3):
        return False
    # a little narrower than what `SE3` allows; NaN compares as false
    units = np.abs(np.sqrt((quaternions * quaternions).sum(1)) - 1) < 0.00099
    return bool(units.all() and (np.abs(places) <= FAR_AWAY_M).all())


def _sized(sizes: list[Any]) -> bool:
    if not sizes:
        return True
    if not all(type(value) is list for value in sizes):
        return False
    array = np.array(sizes, dtype=np.float64)
    return array.shape == (len(sizes), 3) and bool(((array > 0) & (array <= LONGEST_M)).all())

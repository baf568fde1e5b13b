"""A fast check that a sample can be read, pictures aside, so that most samples need no closer look.

The rows of a sample are checked together, in arrays. A sample that passes is read by `Dataset.frame` without an error; one that
does not pass may still be readable, and is checked row by row (`validate`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from drivegen.datasets.nuscenes.read import Dataset
from drivegen.datasets.nuscenes.schema import ROW_ERRORS
from drivegen.scene import Camera
from drivegen.scene.boxes import LONGEST_M
from drivegen.scene.cameras import MAX_SIDE_PX
from drivegen.scene.geometry import FAR_AWAY_M, SE3
from drivegen.support.errors import InputError

_NUMBERS = {int, float}  # by `type`: a bool is none
_YEARS_US = (-62 * 10**15, 250 * 10**15)


class Screen:
    """Checks the samples of one dataset; rows that many samples share are checked once."""

    def __init__(self, data: Dataset) -> None:
        self._data, self._tables = data, data.tables
        self._rows = {name: getattr(data.tables, name) for name in data.tables.table_names}
        self._index: dict[str, dict[str, int]] = data.tables._token2ind
        self._shared: dict[tuple[str, str], bool] = {}

    def passes(self, sample_token: str) -> bool:
        """Whether a sample of the chains can certainly be read, judged by its rows."""
        try:
            return self._passes(self._rows["sample"][self._index["sample"][sample_token]])
        except ROW_ERRORS:
            return False

    def _passes(self, sample: dict[str, Any]) -> bool:
        if "extras" in sample:
            return False
        rotations: list[Any] = []
        translations: list[Any] = []
        sizes: list[Any] = []
        near: list[Any] = []
        times: list[Any] = []
        scene = self._row("scene", sample["scene_token"])
        good = _time(sample) and type(_or(sample, "description", "")) is str
        good = good and self._once("scene", scene["token"], self._scene_reads)
        cameras = 0
        for channel, token in sample["data"].items():
            row = self._row("sample_data", token)
            camera = row["sensor_modality"] == "camera"
            if not camera and channel != "LIDAR_TOP":
                continue
            cameras += camera
            good = good and _plain_name(row["filename"])
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
            good = good and self._annotation(row, near, times)
            rotations.append(row["rotation"])
            translations.append(row["translation"])
            sizes.append(row["size"])
        good = good and 1 <= cameras <= 8 and _placed(rotations, translations) and _within(sizes, LONGEST_M, least=0)
        return good and _within(near, FAR_AWAY_M) and all(type(time) in _NUMBERS for time in times)

    def _row(self, table: str, token: str) -> dict[str, Any]:
        row: dict[str, Any] = self._rows[table][self._index[table][token]]
        return row

    def _annotation(self, row: dict[str, Any], near: list[Any], times: list[Any]) -> bool:
        """Look at a box's texts and links; adds where it is before and after to near, and when to times."""
        seen, attributes = _or(row, "visibility_token", ""), _or(row, "attribute_tokens", [])
        links = [_or(row, link, "") for link in ("prev", "next")]
        texts = all(type(text) is str for text in (row["instance_token"], seen, *links))
        good = texts and type(_or(row, "num_lidar_pts", 0)) in _NUMBERS and type(attributes) is list
        good = good and row.get("joints_m") is None  # rare, and looked at as reading does
        good = good and (not seen or seen in self._index["visibility"])
        for token in attributes if good else ():
            good = good and self._once("attribute", token, self._attribute_reads)
        for link in links:
            if good and link:
                other = self._row("sample_annotation", link)
                near.append(other["translation"])
                times.append(self._row("sample", other["sample_token"])["timestamp"])
                good = type(near[-1]) is list and {*map(type, near[-1])} <= _NUMBERS
        return good

    def _once(self, kind: str, token: str, check: Callable[[str], bool]) -> bool:
        key = kind, token
        if key not in self._shared:
            self._shared[key] = check(token)
        return self._shared[key]

    def _scene_reads(self, token: str) -> bool:
        try:
            log = self._data.objects.get("log", self._row("scene", token)["log_token"], "")
            self._data._map(log["location"])
        except InputError:
            return False
        return True

    def _attribute_reads(self, token: str) -> bool:
        return type(self._row("attribute", token)["name"]) is str

    def _camera_reads(self, token: str) -> bool:
        row = self._row("calibrated_sensor", token)
        try:
            mounted = SE3.from_quaternion(row["rotation"], row["translation"])
            Camera("camera", row["camera_intrinsic"], 1, 1, mounted, SE3.identity())
        except InputError:
            return False
        return type(row["camera_intrinsic"]) is list and self._lidar_reads(token)

    def _lidar_reads(self, token: str) -> bool:
        row = self._row("calibrated_sensor", token)
        lists = type(row["rotation"]) is list and type(row["translation"]) is list
        return lists and _placed([row["rotation"]], [row["translation"]])


def _or(row: dict[str, Any], field: str, unknown: Any) -> Any:
    """Return a field that may be missing or null; another value that Python takes for false (an empty list) is looked at."""
    value = row.get(field)
    return unknown if value is None else value


def _plain_name(name: Any) -> bool:
    """Whether a file's name is surely one that `schema.inside` takes."""
    return (
        type(name) is str
        and name.isascii()
        and 0 < len(name) < 200
        and ".." not in name
        and name[0] != "/"
        and "\0" not in name
    )


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


def _within(points: list[Any], most: float, least: float | None = None) -> bool:
    """Whether these are lists of three numbers, each above `least` (or −most) and up to most."""
    if not points:
        return True
    if not all(type(point) is list for point in points):
        return False
    array = np.array(points, dtype=np.float64)
    low = array > least if least is not None else array >= -most
    return array.shape == (len(points), 3) and bool((low & (array <= most)).all())

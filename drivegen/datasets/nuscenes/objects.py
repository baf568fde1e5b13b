"""Rows of the tables as what they describe: poses, cameras, boxes; whatever is wrong names its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivegen.datasets.nuscenes.load import Tables, at, check, time_us
from drivegen.datasets.nuscenes.schema import inside, visibility_level
from drivegen.scene import Box3D, Camera
from drivegen.scene.geometry import SE3
from drivegen.scene.pictures import open_image
from drivegen.support.errors import InputError


class Objects:
    """Finds rows by their tokens, checks them where they are used, and makes objects of them."""

    def __init__(self, root: Path, version: str, tables: Tables) -> None:
        """Keep the tables.

        Args:
            root: the data root.
            version: the name of the folder with the tables, for messages.
            tables: the rows, linked.
        """
        self.root, self.version, self.tables = root, version, tables

    def get(self, table: str, token: str, where: str, kind: str = "") -> dict[str, Any]:
        """Return a row of a table, checked.

        Args:
            table: its name.
            token: of the row.
            where: what names the row, for messages.
            kind: what the row must be, where a table has several kinds.

        Raises InputError where there is no such row, or it is not as it must be.
        """
        row = self.find(table, token, where)
        check(table, row, kind)
        return row

    def find(self, table: str, token: str, where: str) -> dict[str, Any]:
        """Return a row of a table as it is.

        Args:
            table: its name.
            token: of the row.
            where: what names the row, for messages.

        Raises InputError where there is no such row.
        """
        try:
            row: dict[str, Any] = self.tables.get(table, token)
        except (KeyError, TypeError) as error:
            raise InputError(f"{where}: names {table} {token!r}, which is not in {self.version}/{table}.json") from error
        return row

    def pose(self, table: str, token: str, where: str) -> SE3:
        """Read the pose, in metres, of a row of ego_pose or calibrated_sensor.

        Args:
            table: its name.
            token: of the row.
            where: what names the row, for messages.
        """
        row = self.get(table, token, where)
        with at(f"{where}: {table} row {token}"):
            return SE3.from_quaternion(row["rotation"], row["translation"])

    def camera(self, row: dict[str, Any], look: bool = True) -> Camera:
        """Read a camera, and with look the header of its picture, which must be there and of the row's size."""
        where = f"sample_data row {row['token']} ({row['channel']})"
        mount = self.get("calibrated_sensor", row["calibrated_sensor_token"], where, "calibrated camera")
        path = inside(self.root, row["filename"], where)
        poses = self.pose("calibrated_sensor", mount["token"], where), self.pose("ego_pose", row["ego_pose_token"], where)
        with at(f"{where}: calibrated_sensor row {mount['token']}"):
            camera = Camera(
                row["channel"], mount["camera_intrinsic"], row["width"], row["height"], *poses, time_us(row), path
            )  # fmt: skip
        if look:
            open_image(path, where, (camera.width_px, camera.height_px)).close()
        return camera

    def box(self, token: str) -> Box3D:
        """Read the annotated box with a token."""
        where = f"sample_annotation row {token}"
        row = self.get("sample_annotation", token, where)
        attributes = [self.get("attribute", name, where)["name"] for name in row.get("attribute_tokens") or ()]
        seen = row.get("visibility_token")
        level = visibility_level(self.get("visibility", seen, where)) if seen else None
        with at(where):
            return Box3D(
                row["category_name"], SE3.from_quaternion(row["rotation"], row["translation"]), row["size"],
                row["instance_token"], token, self._velocity(row, where), level,
                _points(row), attributes[0] if attributes else "", row.get("joints_m"),
            )  # fmt: skip

    def _velocity(self, row: dict[str, Any], where: str, longest_s: float = 1.5) -> NDArray[np.float64]:
        """Estimate a box's velocity (3,) in m/s, as the devkit's `box_velocity` does, to the bit.

        NaN where it is unknown: there is one observation, they are too far apart, or their timestamps do not increase.
        """
        links = [row.get(link) for link in ("prev", "next")]
        first, last = (self.find("sample_annotation", link, where) if link else row for link in links)
        if first is last:
            return np.full(3, np.nan)
        times = [1e-6 * self.find("sample", one["sample_token"], where)["timestamp"] for one in (first, last)]
        span_s, moved_m = times[1] - times[0], np.array(last["translation"]) - np.array(first["translation"])
        if not 0 < span_s <= longest_s * (2 if all(links) else 1):
            return np.full(3, np.nan)
        return np.asarray(moved_m / span_s, dtype=np.float64)


def _points(row: dict[str, Any]) -> int | None:
    """Return the number of lidar points in a box; None where it is no count, such as the NaN of a spreadsheet."""
    count = row.get("num_lidar_pts")
    return int(count) if count is not None and -1 <= count <= 2**31 and count % 1 == 0 else None

"""Notices of what reading leaves out: locations without a map, lens distortion of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drivegen.datasets.nuscenes.schema import map_path
from drivegen.datasets.nuscenes.versions import versions
from drivegen.support.errors import InputError

DISTORTION_PX = 2.0
"""Lens distortion that moves no point of the picture further than this is not reported."""


def notices(root: Path, tables: Any) -> Iterator[str]:
    """Describe once each what a whole dataset is read without; none of it stops reading."""
    yield from missing_maps(root, tables)
    yield from distortions(tables)


def missing_maps(root: Path, tables: Any) -> Iterator[str]:
    """Name the locations without a map, and a folder where their maps were found instead."""
    locations = {name for row in tables.log if isinstance(name := row.get("location"), str)}
    missing = sorted(name for name in locations if name and not _has_map(root, name))
    if not missing:
        return
    found = _lying_elsewhere(root, missing)
    mend = (
        f"their files lie in {found}: move them to {root / 'maps' / 'expansion'}" if found else "unpack the map expansion there"
    )
    names = f"{', '.join(map(repr, missing[:5]))}{' …' if len(missing) > 5 else ''}"
    yield f"location {names} has no map maps/expansion/<location>.json: its frames have none; {mend}"


def _has_map(root: Path, location: str) -> bool:
    try:
        return map_path(root, location).is_file()
    except (InputError, OSError):
        return True  # it is refused when a frame is read


def _lying_elsewhere(root: Path, locations: list[str]) -> Path | None:
    """Look for the maps beside root, in it, and up to three folders below."""
    folders = [root.parent / name for name in ("", "expansion", "maps", "maps/expansion")]
    level = [root]
    for _ in range(4):
        folders += level
        level = [below for folder in level for below in _folders(folder, {"samples", "sweeps", *versions(root)})][:500]
    return next((folder for folder in folders if any((folder / f"{name}.json").is_file() for name in locations)), None)


def _folders(folder: Path, passed: set[str]) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name not in passed and path.is_dir())
    except OSError:
        return []


def distortions(tables: Any) -> Iterator[str]:
    """Name the cameras with lens distortion, which is not corrected, and by how many pixels it moves points."""
    cameras = {row["token"]: row["channel"] for row in tables.sensor if row["modality"] == "camera"}
    found: dict[str, float] = {}
    for row in tables.calibrated_sensor:
        coefficients, channel = row.get("camera_distortion"), cameras.get(row["sensor_token"])
        if coefficients and channel is not None:
            moved = distortion_px(coefficients, row.get("camera_intrinsic"))
            if not moved <= DISTORTION_PX:
                found[channel] = max(found.get(channel, 0.0), moved)
    if found:
        most = max(found.values())
        size = f"up to {most:.0f} pixels" if most < 1e6 else "an amount that is not known"
        names = ", ".join(found)
        yield f"camera_distortion of {names} is not taken off: points lie off by {size}; rectify the pictures and set it to []"


def distortion_px(coefficients: Any, K: Any) -> float:
    """Return the largest shift of a point of the picture by lens distortion, in pixels; infinite where it cannot be computed.

    coefficients are OpenCV's (k1, k2, p1, p2, k3, k4, k5, k6), four, five or eight of them; the picture is assumed to extend as
    far beyond the principal point as the corner lies before it.
    """
    try:
        values = np.zeros(8)
        given = np.asarray(coefficients, dtype=np.float64)
        if given.shape not in ((4,), (5,), (8,)) or not np.isfinite(given).all():
            return float("inf") if np.any(given) else 0.0  # NaN is not nothing
        if not given.any():
            return 0.0
        values[: len(given)] = given
        k1, k2, p1, p2, k3, k4, k5, k6 = values
        fx, fy, cx, cy = K[0][0], K[1][1], K[0][2], K[1][2]
        x, y = np.meshgrid(np.linspace(-cx / fx, cx / fx, 9), np.linspace(-cy / fy, cy / fy, 9))
        r2 = x * x + y * y
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        dx = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) - x
        dy = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y - y
        moved = float(np.hypot(dx * fx, dy * fy).max())
        return moved if np.isfinite(moved) else float("inf")
    except (TypeError, ValueError, IndexError, KeyError, ArithmeticError):
        return float("inf")

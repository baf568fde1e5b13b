"""nuScenes' CAN bus expansion: the poses of a scene, and the vector that BEVFormer makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drivegen.scene.geometry import Array
from drivegen.support.errors import InputError

FIELDS = {"pos": 3, "orientation": 4, "accel": 3, "rotation_rate": 3, "vel": 3}
"""Of a pose message, in the order of the vector."""

MOST_BYTES = 100_000_000


class CanBus:
    """Pose messages by scene, from the first folder that has its file."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self._last: tuple[str, list[dict[str, Any]]] = "", []

    def poses(self, scene: str) -> list[dict[str, Any]]:
        """Return a scene's pose messages in time order; none where there is no file."""
        if self._last[0] != scene:
            self._last = scene, self._read(scene)
        return self._last[1]

    def _read(self, scene: str) -> list[dict[str, Any]]:
        if Path(scene).name != scene or "\0" in scene:
            return []
        paths = [folder / f"{scene}_pose.json" for folder in self.folders]
        path = next((path for path in paths if _is_file(path)), None)
        if path is None:
            return []
        try:
            if path.stat().st_size > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
            found = json.loads(path.read_text(encoding="utf-8"))
            return sorted((_checked(message) for message in found), key=lambda message: message["utime"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"{path} is not a CAN bus file with poses: {type(error).__name__} {error}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _checked(message: dict[str, Any]) -> dict[str, Any]:
    for name, length in FIELDS.items():
        numbers = np.asarray(message[name], dtype=np.float64)
        if numbers.shape != (length,) or not np.isfinite(numbers).all():
            raise ValueError(f"{name} is {message[name]!r:.80}, not {length} numbers")
    if isinstance(message["utime"], bool) or not isinstance(message["utime"], (int, float)):
        raise ValueError(f"utime is {message['utime']!r:.80}, not a number")
    return message


def vector(poses: Sequence[dict[str, Any]], timestamp_us: int) -> Array:
    """Return BEVFormer's 18 numbers: position, orientation (w, x, y, z), acceleration, rotation rate, velocity, two zeros.

    Position and orientation are the last message's up to the sample's time, or the first's; the rest, as BEVFormer's converter
    has it, is that of the first message after it, or the last's.

    Args:
        poses: in time order, at least one.
        timestamp_us: the sample's own time.
    """
    later = next((i for i, message in enumerate(poses) if message["utime"] > timestamp_us), None)
    after = len(poses) - 1 if later is None else later
    before = len(poses) - 1 if later is None else max(later - 1, 0)
    sources = {"pos": before, "orientation": before, "accel": after, "rotation_rate": after, "vel": after}
    return np.array([x for name, i in sources.items() for x in poses[i][name]] + [0.0, 0.0], dtype=np.float64)

"""CAN bus data of a source: those of a scene are those of all its variants, as the vehicle drives the same way."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from drivegen.support.files import make_subfolder, write_atomically

FOLDER = "can_bus"
MESSAGES = (
    "ms_imu", "pose", "steeranglefeedback", "vehicle_monitor", "zoesensors", "zoe_veh_info", "meta", "route",
)  # fmt: skip
"""Those of nuScenes' CAN bus expansion: a file of each per scene."""


def carry(root: Path, out: Path, scenes: Iterable[tuple[str, str]]) -> None:
    """Copy the files of scenes under new names, as far as there are any.

    Args:
        root: the source's folder.
        out: the dataset's.
        scenes: (source, new) names.
    """
    for source, new in scenes:
        for message in MESSAGES:
            path = root / FOLDER / f"{source}_{message}.json"
            if "/" not in source and path.is_file():
                write_atomically(make_subfolder(out, FOLDER) / f"{new}_{message}.json", path.read_bytes())

"""BEVFormer's info files: sequences, with the vehicle's CAN bus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from drivegen.export import infos
from drivegen.export.can_bus import CanBus, vector
from drivegen.export.contract import Exporter
from drivegen.export.part import Part
from drivegen.export.sequences import in_sequence
from drivegen.support.errors import InputError


class BEVFormer(Exporter):
    """BEVFormer: nuscenes_infos_temporal_<split>.pkl with temporal order and CAN bus fields, zeros where a scene has none."""

    def __init__(self, can_bus: str = "") -> None:
        """Choose where the CAN bus is read.

        Args:
            can_bus: folder with ``<scene>_pose.json``; "" looks for can_bus/ in the dataset's folder, then beside it.
        """
        self.can_bus = can_bus

    def names(self, split: str) -> tuple[str, ...]:
        """Return the info file."""
        return (f"nuscenes_infos_temporal_{split}.pkl",)

    def contents(self, part: Part) -> Mapping[str, bytes]:
        """Return the info file."""
        bus, made, missing = CanBus(self._folders(part.data.root)), [], dict[str, None]()
        shifts = part.shifts()
        for sample, info in in_sequence(part):
            poses = bus.poses(sample.scene)
            if not poses:
                missing[sample.scene] = None
            recorded_us = sample.timestamp_us - shifts.get(sample.scene, 0)
            info["can_bus"] = vector(poses, recorded_us) if poses else np.zeros(18)
            made.append(info | (infos.labels(sample, clockwise=True) if part.annotated else {}))
        part.notes["scene without CAN bus: zeros stand for its acceleration, rotation rate and velocity"] += len(missing)
        facts = {"timestamp_shift_us": shifts, "scenes_without_can_bus": list(missing)}
        return {self.names(part.name)[0]: infos.info_file(part, made, **facts)}

    def _folders(self, root: Path) -> list[Path]:
        if not self.can_bus:
            return [root / "can_bus", root.resolve().parent / "can_bus"]
        folder = Path(self.can_bus).expanduser()
        if not folder.is_dir():
            raise InputError(f"can_bus {self.can_bus!r} is not a folder; name the one that holds <scene>_pose.json")
        return [folder]

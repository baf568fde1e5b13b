"""BEVFusion's info files, in the convention of mmdetection3d before 1.0."""

from __future__ import annotations

from collections.abc import Mapping

from drivegen.export import infos
from drivegen.export.contract import Exporter
from drivegen.export.part import Part


class BEVFusion(Exporter):
    """BEVFusion (mit-han-lab): nuscenes_infos_<split>.pkl with sizes as width, length, height, clockwise yaw and location."""

    def names(self, split: str) -> tuple[str, ...]:
        """Return the info file."""
        return (f"nuscenes_infos_{split}.pkl",)

    def contents(self, part: Part) -> Mapping[str, bytes]:
        """Return the info file."""
        made = []
        for sample in part.read():
            one = infos.info(part, sample) | {"location": sample.location}
            for camera in one["cams"].values():
                camera["camera_intrinsics"] = camera["cam_intrinsic"]  # its loader's word before the radar was added
            made.append(one | (infos.labels(sample, clockwise=True) if part.annotated else {}))
        return {self.names(part.name)[0]: infos.info_file(part, made)}

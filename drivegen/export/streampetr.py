"""StreamPETR's info files: sequences, with 2D boxes of every camera."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from drivegen.datasets.nuscenes.recordings import Recording
from drivegen.export import infos
from drivegen.export.camera_boxes import CameraBox, camera_boxes
from drivegen.export.contract import Exporter
from drivegen.export.part import Part
from drivegen.export.samples import Sample
from drivegen.export.sequences import in_sequence

LEAST_PX = 1.0
"""A 2D box with a shorter side than this is left out, as StreamPETR's converter does."""


class StreamPETR(Exporter):
    """StreamPETR: nuscenes2d_temporal_infos_<split>.pkl with temporal order, ego poses and the 2D boxes of each camera."""

    def names(self, split: str) -> tuple[str, ...]:
        """Return the info file."""
        return (f"nuscenes2d_temporal_infos_{split}.pkl",)

    def contents(self, part: Part) -> Mapping[str, bytes]:
        """Return the info file."""
        made = []
        for sample, info in in_sequence(part):
            made.append(info | (infos.labels(sample, clockwise=False) | _in_cameras(sample) if part.annotated else {}))
        return {self.names(part.name)[0]: infos.info_file(part, made, timestamp_shift_us=part.shifts())}


def _in_cameras(sample: Sample) -> dict[str, Any]:
    """Return lists with an item per camera, in the order of `cams`."""
    shown = [_large(sample, camera) for camera in sample.cameras]
    return {
        "bboxes2d": [_array([one.rectangle for one in boxes], 4) for boxes in shown],
        "bboxes3d_cams": [_array([one.box3d for one in boxes], 7) for boxes in shown],
        "labels2d": [np.array([one.label for one in boxes], dtype=np.int64) for boxes in shown],
        "centers2d": [_array([one.center for one in boxes], 2) for boxes in shown],
        "depths": [np.array([one.depth_m for one in boxes], dtype=np.float32) for boxes in shown],
        "bboxes_ignore": [_array([], 4) for _ in shown],
        "visibilities": [[str(one.box.visibility or "") for one in boxes] for boxes in shown],
    }


def _large(sample: Sample, camera: Recording) -> list[CameraBox]:
    sides = [(one, one.rectangle) for one in camera_boxes(sample, camera)]
    return [one for one, (left, top, right, bottom) in sides if min(right - left, bottom - top) >= LEAST_PX]


def _array(rows: list[Any], width: int) -> np.ndarray:
    return np.array(rows, dtype=np.float32).reshape(-1, width)

"""Detections scored by nuscenes-devkit's own detection evaluation."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.detector import REACH_M, Detection
from drivegen.scene import Frame
from drivegen.support.files import write_json

SPLIT = "unseen"


def declare(root: Path, version: str, scenes: Sequence[str]) -> None:
    """Name scenes of a dataset as the split that is scored.

    Args:
        root: the dataset.
        version: its tables.
        scenes: their names.
    """
    write_json(root / version / "splits.json", {SPLIT: list(scenes)})


def score(root: Path, version: str, found: Mapping[str, tuple[Frame, Sequence[Detection]]]) -> dict[str, float]:
    """Return the devkit's figures of detections within reach: mAP, and AP and errors of cars.

    Args:
        root: the dataset, with the split that `declare` names.
        version: its tables.
        found: frame and detections by sample token.
    """
    if not any(boxes for _, boxes in found.values()):  # the devkit stumbles over no boxes at all
        return {"mAP": 0.0, "car AP": 0.0, "car AP at 4 m": 0.0, "car ATE": 1.0}
    import matplotlib as mpl

    mpl.use("Agg")
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval
    from nuscenes.nuscenes import NuScenes

    settings = config_factory("detection_cvpr_2019")
    settings.class_range.update({name: min(reach, REACH_M) for name, reach in settings.class_range.items()})
    results = {token: [_row(token, frame, each) for each in boxes] for token, (frame, boxes) in found.items()}
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        path = Path(scratch) / "results.json"
        path.write_text(json.dumps({"meta": {}, "results": results}), encoding="utf-8")
        devkit = NuScenes(version, str(root), verbose=False)
        metrics, _ = DetectionEval(devkit, settings, str(path), SPLIT, scratch, False).evaluate()
    cars = [metrics.get_label_ap("car", far) for far in settings.dist_ths]
    return {
        "mAP": float(metrics.mean_ap), "car AP": float(sum(cars) / len(cars)), "car AP at 4 m": float(cars[-1]),
        "car ATE": float(metrics.get_label_tp("car", "trans_err")),
    }  # fmt: skip


def _row(token: str, frame: Frame, each: Detection) -> dict[str, Any]:
    pose = frame.global_SE3_ego @ each.ego_SE3_object
    return {
        "sample_token": token, "translation": pose.translation.tolist(), "size": [float(v) for v in each.size_wlh_m],
        "rotation": pose.quaternion.tolist(), "velocity": [0.0, 0.0], "detection_name": each.name,
        "detection_score": each.score, "attribute_name": "",
    }  # fmt: skip

"""Compare `drivegen export` with what trainers' own converters write and their own loaders read.

    python scripts/check_export.py DATAROOT TRAINER FOLDER [--mmdet3d FOLDER] [--version V]

TRAINER is mmdet3d, rc6 (mmdetection3d v1.0.0rc6), bevfusion, streampetr or bevformer; FOLDER holds its source as fetched, and
--mmdet3d that of the mmdetection3d it stands on (v1.0.0rc6 for StreamPETR, v0.17.1 for BEVFormer). The dataset needs nuScenes'
six cameras with pictures of 1600x900, which the converters take for granted. The trainer's code is run, with empty stand-ins
for mmcv, mmdet and mmengine: only what is plain Python is reached. Prints the largest difference of each field; the status is 1
where one exceeds its limit, or where a field is missing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from trainers import converter, fill, loaded, old_infos, prepare, read

from drivegen.export import export

LIMIT, LIMIT_PX = 1e-4, 0.05
"""Metres and radians (and pixels of rectangles); pixels of centres, which trainers compute in float32."""

UNREAD = ("radars", "prev_token", "prev")
"""Fields of BEVFusion's converter that its camera and lidar loaders do not read, and that are left out."""

FILES = {
    "mmdet3d": ("mmdet3d", "nuscenes_infos_{}.pkl"), "rc6": ("mmdet3d", "1.0.0rc6/nuscenes_infos_{}.pkl"),
    "bevfusion": ("bevfusion", "nuscenes_infos_{}.pkl"), "streampetr": ("streampetr", "nuscenes2d_temporal_infos_{}.pkl"),
    "bevformer": ("bevformer", "nuscenes_infos_temporal_{}.pkl"),
}  # fmt: skip


def differences(ours: Any, theirs: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Yield a field and how far ours is from theirs: infinite where it is missing or of another form."""
    if isinstance(theirs, dict):
        for key in theirs:
            if key not in ours and theirs[key] is not None:
                yield f"{where}.{key}", float("inf")
            elif key not in ours:
                continue
            else:
                yield from differences(ours[key], theirs[key], where if key.startswith("CAM_") else f"{where}.{key}")
        return
    if isinstance(theirs, str) or theirs is None:
        same = ours == theirs or (where.endswith("path") and Path(str(theirs)).match(str(ours)))
        yield where, 0.0 if same else float("inf")
        return
    if isinstance(theirs, (list, tuple)) and any(isinstance(item, (dict, str, list, np.ndarray)) for item in theirs):
        if len(ours) != len(theirs):
            yield where, float("inf")
            return
        for mine, other in zip(ours, theirs, strict=True):
            yield from differences(mine, other, where)
        return
    a, b = np.asarray(ours), np.asarray(theirs)
    if b.size == 0:
        yield where, 0.0 if a.size == 0 else float("inf")
    elif a.shape != b.shape:
        yield where, float("inf")
    elif b.dtype.kind == "U":
        yield where, 0.0 if (a == b).all() else float("inf")
    else:
        a, b = a.astype(np.float64), b.astype(np.float64)
        yield where, float(np.where(np.isnan(a) & np.isnan(b), 0, np.abs(a - b)).max()) if a.size else 0.0


def upright(orientation: Any) -> Any:
    """Return a rotation's yaw alone, which is what trainers keep of it."""
    return type(orientation)(axis=[0, 0, 1], radians=orientation.yaw_pitch_roll[0])


def with_devkit(trainer: str, path: Path, nusc: Any) -> dict[str, float]:
    """Return how far the loaded boxes and projections are from the devkit's."""
    from nuscenes.utils.geometry_utils import view_points

    worst = {"loader: corners of boxes, m": 0.0, "loader: projected centres, px": 0.0}
    count = 0
    for token, boxes, _, images, _ in loaded(trainer, path):
        sample = nusc.get("sample", token)
        rows = [nusc.get("sample_annotation", name) for name in sample["anns"]]
        _, theirs, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        theirs = [box for box, row in zip(theirs, rows, strict=True) if row["num_lidar_pts"] + row["num_radar_pts"] > 0]
        corners = boxes.corners.numpy().astype(np.float64)
        assert len(corners) == len(theirs), (len(corners), len(theirs))
        count += len(theirs)
        for mine, other in zip(corners, theirs, strict=True):
            there = type(other)(other.center, other.wlh, upright(other.orientation)).corners().T
            if trainer == "bevfusion":  # its loader takes the centre's height for the bottom's
                there = there + np.array([0, 0, other.wlh[2] / 2])
            apart = np.linalg.norm(mine[:, None] - there[None], axis=2)
            worst["loader: corners of boxes, m"] = max(worst["loader: corners of boxes, m"], float(apart.min(1).max()))
        for channel, matrix in images.items():
            _, seen, K = nusc.get_sample_data(sample["data"][channel], box_vis_level=2)
            of = {box.token: box for box in seen}
            for box in theirs:
                if box.token in of and of[box.token].center[2] > 1:
                    x, y, depth, _ = np.asarray(matrix, dtype=np.float64) @ [*box.center, 1]
                    pixel = view_points(of[box.token].center[:, None], K, normalize=True)[:2, 0]
                    apart = float(np.hypot(x / depth - pixel[0], y / depth - pixel[1]))
                    worst["loader: projected centres, px"] = max(worst["loader: projected centres, px"], apart)
    print(f"{trainer}: the loader gives {count} boxes with lidar or radar points")
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataroot", type=Path)
    parser.add_argument("trainer", choices=sorted(FILES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mmdet3d", type=Path)
    parser.add_argument("--version")
    asked = parser.parse_args()
    from nuscenes.nuscenes import NuScenes

    from drivegen.datasets.nuscenes.versions import choose_version

    version, trainer = choose_version(asked.dataroot, asked.version), asked.trainer
    nusc = NuScenes(version, str(asked.dataroot), verbose=False)
    folders = [folder.resolve() for folder in (asked.folder, asked.mmdet3d) if folder is not None]
    dumped: dict[str, Any] = {}
    prepare(folders, dumped)
    worst: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        form, name = FILES[trainer]
        everything = {"train": [row["name"] for row in nusc.scene]}
        export(asked.dataroot, scratch, form, version, str(asked.dataroot), everything)
        path = Path(scratch) / name.format("train")
        worst |= with_devkit(trainer, path, nusc)
        ours = read(path)
        single = json.loads(path.with_name("nuscenes_infos_train_mono3d.coco.json").read_text()) if trainer == "rc6" else {}
    if trainer == "mmdet3d":
        fill("mmdet3d.datasets", "convert_utils")
        fill("mmdet3d.structures.ops", "box_np_ops")
    elif trainer not in ("bevfusion", "bevformer"):
        importlib.import_module("mmdet3d.core.bbox").points_cam2img = importlib.import_module(  # type: ignore[attr-defined]
            "mmdet3d.core.bbox.structures.utils"
        ).points_cam2img
    module = converter(asked.folder)
    theirs: list[dict[str, Any]] = old_infos(module, nusc, asked.dataroot)
    if single:
        dumped["in.pkl"], module.NuScenes = {"infos": list(theirs)}, lambda **_: nusc
        order = {one["token"]: i for i, one in enumerate(ours["infos"])}
        dumped["in.pkl"]["infos"].sort(key=lambda one: order[one["token"]])
        module.export_2d_annotation(str(asked.dataroot), "in.pkl", version)
        for one in dumped["out"]["images"]:
            one["file_name"] = str(Path(one["file_name"]).relative_to(asked.dataroot))
        for field, apart in differences(single, dumped["out"]):
            worst[f"converter: mono3d{field}"] = max(worst.get(f"converter: mono3d{field}", 0.0), apart)
    if trainer == "mmdet3d":
        dumped["in.pkl"] = {"infos": theirs, "metadata": {"version": version}}
        update = importlib.import_module("dataset_converters.update_infos_to_v2")
        update.NuScenes = lambda **_: nusc  # type: ignore[attr-defined]
        update.update_nuscenes_infos("in.pkl", "/nowhere")
        theirs, made = dumped["out"]["data_list"], {one["token"]: one for one in ours["data_list"]}
    else:
        made = {one["token"]: one for one in ours["infos"]}
    for one in theirs:
        one.pop("sample_idx", None)
        for field, apart in differences(made[one["token"]], one):
            worst[f"converter: {field[1:]}"] = max(worst.get(f"converter: {field[1:]}", 0.0), apart)
    if trainer == "bevfusion":
        worst = {field: apart for field, apart in worst.items() if field.removeprefix("converter: ") not in UNREAD}
    for field, apart in worst.items():
        print(f"{apart:9.2e}  {field}")
    return int(any(not apart <= (LIMIT_PX if "cent" in field else LIMIT) for field, apart in worst.items()))


if __name__ == "__main__":
    sys.exit(main())

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
import importlib.abc
import importlib.machinery
import inspect
import io
import json
import pickle
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from drivegen.export import export

LIMIT, LIMIT_PX = 1e-4, 0.05
"""Metres and radians (and pixels of rectangles); pixels of centres, which trainers compute in float32."""

UNREAD = ("radars", "prev_token", "prev")
"""Fields of BEVFusion's converter that its camera and lidar loaders do not read, and that are left out."""

EMPTY = ("mmcv", "mmdet", "mmseg", "mmengine", "terminaltables", "lyft_dataset_sdk")
BARE = (
    "mmdet3d", "mmdet3d.core", "mmdet3d.core.bbox", "mmdet3d.core.utils", "mmdet3d.datasets", "mmdet3d.datasets.transforms",
    "mmdet3d.datasets.pipelines", "mmdet3d.datasets.builder", "mmdet3d.ops", "mmdet3d.ops.iou3d", "mmdet3d.ops.roiaware_pool3d",
    "mmdet3d.registry", "mmdet3d.structures", "mmdet3d.structures.ops", "mmdet3d.utils", "projects", "projects.mmdet3d_plugin",
    "projects.mmdet3d_plugin.datasets", "projects.mmdet3d_plugin.datasets.nuscnes_eval",
    "projects.mmdet3d_plugin.models", "projects.mmdet3d_plugin.models.utils", "projects.mmdet3d_plugin.models.utils.visual",
)  # fmt: skip
"""Packages of the trainers that are not run themselves; modules below them are."""

FILES = {
    "mmdet3d": ("mmdet3d", "nuscenes_infos_{}.pkl"), "rc6": ("mmdet3d", "1.0.0rc6/nuscenes_infos_{}.pkl"),
    "bevfusion": ("bevfusion", "nuscenes_infos_{}.pkl"), "streampetr": ("streampetr", "nuscenes2d_temporal_infos_{}.pkl"),
    "bevformer": ("bevformer", "nuscenes_infos_temporal_{}.pkl"),
}  # fmt: skip


class Nothing:
    """Stands for anything of a package that is not there: may be called, decorated with, derived from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and isinstance(args[0], (type, types.FunctionType)) else Nothing()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()


class Empty(types.ModuleType):
    """A module of which every name is there, and is nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing() if name[:1].islower() or name.isupper() else type(name, (Nothing,), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins, and the trainers' packages without running them."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] in EMPTY or name in BARE:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        made = Empty(spec.name)
        made.__path__ = [str(folder / spec.name.replace(".", "/")) for folder in self.folders if spec.name in BARE]
        return made

    def exec_module(self, module: types.ModuleType) -> None: ...


class Plain(pickle.Unpickler):
    """Reads plain values and numpy arrays alone."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not plain")
        return super().find_class(module, name)


def read(path: Path) -> Any:
    return Plain(io.BytesIO(path.read_bytes())).load()


def prepare(folders: list[Path], dumped: dict[str, Any]) -> None:
    """Let the trainers' modules be imported."""
    sys.meta_path.insert(0, Finder(folders))
    for name in ("mmcv", "mmengine"):
        package: Any = importlib.import_module(name)
        package.track_iter_progress, package.check_file_exist, package.is_filepath = (
            iter,
            (lambda *a, **k: None),
            (lambda x: True),
        )
        package.imread = lambda path: np.asarray(Image.open(path).convert("RGB"))
        package.load = lambda path, *a, **k: dumped[str(path)] if str(path) in dumped else read(Path(path))
        package.dump = lambda value, path, *a, **k: dumped.update({"out": value})
    package = importlib.import_module("mmdet3d.datasets.builder")
    for name in ("mmdet3d.core.utils", "mmdet3d.utils"):
        for folder in folders:
            path = folder / name.replace(".", "/") / "array_converter.py"
            if path.is_file():
                importlib.import_module(name).array_converter = importlib.import_module(
                    f"{name}.array_converter"
                ).array_converter  # type: ignore[attr-defined]


def fill(package: str, *modules: str) -> None:
    """Give a package that was not run the names of some of its modules."""
    target: Any = importlib.import_module(package)
    for name in modules:
        for key, value in vars(importlib.import_module(f"{package}.{name}")).items():
            if not key.startswith("_"):
                setattr(target, key, value)


def converter(folder: Path) -> Any:
    """Import a trainer's own converter."""
    sys.path.insert(0, str(folder / "tools"))
    name = "dataset_converters" if (folder / "tools" / "dataset_converters").is_dir() else "data_converter"
    spec = importlib.util.spec_from_file_location("theirs", folder / "tools" / name / "nuscenes_converter.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def old_infos(module: Any, nusc: Any, root: Path) -> list[dict[str, Any]]:
    """Return the infos that a trainer's own converter makes of a dataset."""
    more: tuple[Any, ...] = ()
    if hasattr(module, "_get_can_bus_info"):
        from nuscenes.can_bus.can_bus_api import NuScenesCanBus

        bus = NuScenesCanBus.__new__(NuScenesCanBus)
        bus.can_dir, bus.can_blacklist, bus.route_blacklist = str(root / "can_bus"), [], []
        bus.can_messages, bus.derived_messages, bus.all_messages = ["pose"], [], ["pose"]
        more = (bus,)
    if "radar" in inspect.getsource(module._fill_trainval_infos):
        for sample in nusc.sample:  # BEVFusion's converter needs radars; this dataset may have none
            for one in ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK_LEFT", "BACK_RIGHT"):
                sample["data"].setdefault(f"RADAR_{one}", sample["data"]["LIDAR_TOP"])
    both: tuple[list[dict[str, Any]], list[dict[str, Any]]] = module._fill_trainval_infos(nusc, *more, set(), set(), False)
    return [*both[0], *both[1]]


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


def loaded(trainer: str, path: Path) -> Iterator[tuple[str, Any, np.ndarray, dict[str, np.ndarray], dict[str, Any]]]:
    """Yield what the trainer's own dataset makes of each sample: token, boxes, labels, lidar to image by camera, the rest."""
    if trainer == "mmdet3d":
        fill("mmdet3d.structures", "bbox_3d")
        cls = importlib.import_module("mmdet3d.datasets.nuscenes_dataset").NuScenesDataset
    else:
        fill("mmdet3d.core.bbox", "structures")
        cls = importlib.import_module("mmdet3d.datasets.nuscenes_dataset").NuScenesDataset
        importlib.import_module("mmdet3d.datasets").NuScenesDataset = cls  # type: ignore[attr-defined]
        if trainer in ("streampetr", "bevformer"):
            cls = importlib.import_module("projects.mmdet3d_plugin.datasets.nuscenes_dataset").CustomNuScenesDataset
    data = cls.__new__(cls)
    mode = sys.modules["mmdet3d.structures" if trainer == "mmdet3d" else "mmdet3d.core.bbox"].Box3DMode
    vars(data).update(
        modality={"use_camera": True, "use_lidar": True}, test_mode=False, use_valid_flag=True, with_velocity=True,
        load_interval=1, box_mode_3d=mode.LIDAR, load_type="frame_based", default_cam_key=None, load_eval_anns=True,
        num_ins_per_cat=[0] * 10, seq_split_num=1,
        data_prefix={"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP", "img": ""},
        label_mapping={i: i for i in range(-1, 10)},
    )  # fmt: skip
    if trainer == "mmdet3d":
        for entry in read(path)["data_list"]:
            found = data.parse_data_info(entry)
            images = {
                name: np.vstack([np.array(one["cam2img"]) @ np.array(one["lidar2cam"])[:3], [0, 0, 0, 1]])
                for name, one in found["images"].items()
            }
            yield entry["token"], found["ann_info"]["gt_bboxes_3d"], found["ann_info"]["gt_labels_3d"], images, found
        return
    data.data_infos = data.load_annotations(str(path))
    if hasattr(data, "_set_sequence_group_flag"):
        data._set_sequence_group_flag()
        scenes = [one["scene_token"] for one in data.data_infos]
        assert len({*zip(scenes, data.flag.tolist(), strict=True)}) == len({*scenes}) == data.flag.max() + 1
        print(f"{trainer}: {len({*scenes})} sequences, one per scene")
    for i, one in enumerate(data.data_infos):
        found = data.get_data_info(i)
        matrices = found.get("lidar2img") or found.get("lidar2image")
        yield (
            one["token"], found["ann_info"]["gt_bboxes_3d"], found["ann_info"]["gt_labels_3d"],
            dict(zip(one["cams"], matrices, strict=True)), found,
        )  # fmt: skip


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

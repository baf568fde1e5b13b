"""Trainers' own converters and loaders, run from their fetched sources without what they stand on.

mmcv, mmdet and mmengine have empty stand-ins: only what is plain Python is reached.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import io
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

EMPTY = ("mmcv", "mmdet", "mmseg", "mmengine", "terminaltables", "lyft_dataset_sdk")
BARE = (
    "mmdet3d", "mmdet3d.core", "mmdet3d.core.bbox", "mmdet3d.core.utils", "mmdet3d.datasets", "mmdet3d.datasets.transforms",
    "mmdet3d.datasets.pipelines", "mmdet3d.datasets.builder", "mmdet3d.ops", "mmdet3d.ops.iou3d", "mmdet3d.ops.roiaware_pool3d",
    "mmdet3d.registry", "mmdet3d.structures", "mmdet3d.structures.ops", "mmdet3d.utils", "projects", "projects.mmdet3d_plugin",
    "projects.mmdet3d_plugin.datasets", "projects.mmdet3d_plugin.datasets.nuscnes_eval",
    "projects.mmdet3d_plugin.models", "projects.mmdet3d_plugin.models.utils", "projects.mmdet3d_plugin.models.utils.visual",
)  # fmt: skip
"""Packages of the trainers that are not run themselves; modules below them are."""


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

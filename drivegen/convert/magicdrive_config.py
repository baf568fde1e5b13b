"""What MagicDrive's two config.json files say, through closed tables: no path in them is ever imported."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from drivegen.backbone import build_model
from drivegen.control import SHARED
from drivegen.errors import InputError, nearest

TEMPLATE = "A driving scene image at {location}. {description}."
UNETS = ("UNet2DConditionModelMultiview",)
CONTROLS = ("BEVControlNetModel",)
_NETWORKS = "magicdrive.networks"
MAP_EMBEDDERS = {
    None: "default",
    f"{_NETWORKS}.map_embedder.BEVControlNetConditioningEmbedding": "default",
    f"{_NETWORKS}.map_embedder.BEVControlNetConditioningEmbeddingPlus": "adaptive",
}
BOX_EMBEDDERS = (f"{_NETWORKS}.bbox_embedder.ContinuousBBoxWithTextEmbedding",)

_UNET_OWN = (
    "neighboring_view_pair", "neighboring_attn_type", "zero_module_type", "crossview_attn_type", "img_size", "trainable_state",
)  # fmt: skip
# What MagicDrive's classes take where a configuration is silent.
_BOX_DEFAULTS: dict[str, Any] = {
    "n_classes": 10, "class_token_dim": 768, "trainable_class_token": False, "embedder_num_freq": 4,
    "proj_dims": (768, 512, 512, 768), "mode": "cxyz", "minmax_normalize": True,
}  # fmt: skip
_MAP_CHANNELS = {"default": (32, 64, 128, 256), "adaptive": (16, 32, 96, 256)}


@dataclass(frozen=True, eq=False)
class Described:
    """A checkpoint's structure: UNet arguments, each plugin's constructor arguments, neighbours by view, (height, width)."""

    unet: Mapping[str, Any]
    options: Mapping[str, Mapping[str, Any]]
    neighbours: tuple[tuple[int, ...], ...]
    image_size: tuple[int, int] | None


def build_unet(described: Described) -> nn.Module:
    """Build the plain UNet, freshly initialised."""
    return build_model("UNet2DConditionModel", described.unet)


def describe(unet: Any, control: Any, half: bool = True) -> Described:
    """Read both configurations; raises InputError on a class, mode or option that has no counterpart here."""
    for config, what in ((unet, "unet"), (control, "controlnet")):
        if not isinstance(config, dict):
            raise InputError(f"MagicDrive's {what}/config.json must hold an object, not {type(config).__name__}")
    _look_up(str(unet.get("_class_name", UNETS[0])).rsplit(".", 1)[-1], UNETS, "unet: _class_name")
    _look_up(str(control.get("_class_name", CONTROLS[0])).rsplit(".", 1)[-1], CONTROLS, "controlnet: _class_name")
    _look_up(unet.get("crossview_attn_type", "basic"), ("basic",), "unet: crossview_attn_type")
    _look_up(control.get("use_uncond_map"), (None,), "controlnet: use_uncond_map")
    _look_up(control.get("controlnet_conditioning_channel_order", "rgb"), ("rgb",), "controlnet: channel order")
    for key in SHARED:
        if key in unet and key in control and unet[key] != control[key]:
            raise InputError(f"{key} is {unet[key]!r} in the UNet and {control[key]!r} in the ControlNet; they must agree")
    width = unet.get("cross_attention_dim", 1280)
    options = {
        "camera": _camera(control, half),
        "text": {"template": TEMPLATE},
        "boxes": _boxes(control, width, half),
        "bev_map": _map(control),
        "cross_view": {
            "attention": _look_up(unet.get("neighboring_attn_type", "add"), ("add", "concat", "self"), "neighboring_attn_type"),
            "connector": _look_up(
                unet.get("zero_module_type", "zero_linear"), ("zero_linear", "gated", "none"), "zero_module_type"
            ),
        },
    }
    size = unet.get("img_size")
    return Described(_plain(unet), options, _neighbours(unet), None if size is None else (int(size[0]), int(size[1])))


def _look_up(value: Any, known: Any, what: str) -> Any:
    if value not in known:
        listed = ", ".join(str(k) for k in known)
        raise InputError(
            f"MagicDrive's {what} {value!r} is not one that is read here: {listed}{nearest(str(value), map(str, known))}"
        )
    return value


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what diffusers' UNet takes; keys that neither it nor MagicDrive knows are named in a warning."""
    from diffusers import UNet2DConditionModel

    known = set(inspect.signature(UNet2DConditionModel.__init__).parameters) - {"self"}
    strange = [k for k, v in config.items() if k not in known and k not in _UNET_OWN and k[0] != "_" and v is not None]
    if strange:
        warnings.warn(f"MagicDrive's unet/config.json has keys that mean nothing here: {', '.join(strange)}", stacklevel=4)
    return {k: v for k, v in config.items() if k in known}


def _neighbours(config: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    pairs = config.get("neighboring_view_pair")
    try:
        table = {int(view): tuple(int(other) for other in others) for view, others in pairs.items()}  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"MagicDrive's unet: neighboring_view_pair {pairs!r} must map views to lists of views") from error
    if sorted(table) != list(range(len(table))) or any(o not in table for others in table.values() for o in others):
        raise InputError(f"MagicDrive's unet: neighboring_view_pair {pairs!r} must number its views from 0 without a gap")
    return tuple(table[view] for view in range(len(table)))


def _camera(control: Mapping[str, Any], half: bool) -> dict[str, Any]:
    given = control.get("cam_embedder_param") or {}
    for key, value in (("input_dims", 3), ("include_input", True), ("log_sampling", True)):
        _look_up(given.get(key, value), (value,), f"cam_embedder_param.{key}")
    _look_up(tuple(control.get("uncond_cam_in_dim", (3, 7))), ((3, 7),), "uncond_cam_in_dim")
    return {"normalised": False, "half": half, "frequencies": int(given.get("num_freqs", 4))}


def _boxes(control: Mapping[str, Any], width: int, half: bool) -> dict[str, Any]:
    _look_up(control.get("bbox_embedder_cls"), BOX_EMBEDDERS, "bbox_embedder_cls")
    box = {**_BOX_DEFAULTS, **(control.get("bbox_embedder_param") or {})}
    _look_up(box["n_classes"], (10,), "bbox_embedder_param.n_classes")
    _look_up(box["mode"], ("all-xyz", "cxyz"), "bbox_embedder_param.mode")
    position, first, second, out = box["proj_dims"]
    _look_up(out, (width,), "bbox_embedder_param.proj_dims[3]")
    return {
        "masked": False, "in_image": False, "frame": "lidar", "unit_m": 1.0, "raised": True, "corners": box["mode"],
        "min_max": bool(box["minmax_normalize"]), "max_boxes": 10_000, "learn_classes": bool(box["trainable_class_token"]),
        "hidden": [first, second], "position_width": position, "class_width": box["class_token_dim"],
        "frequencies": box["embedder_num_freq"], "half_in_training": half,
    }  # fmt: skip


def _map(control: Mapping[str, Any]) -> dict[str, Any]:
    embedder = MAP_EMBEDDERS[_look_up(control.get("map_embedder_cls"), MAP_EMBEDDERS, "map_embedder_cls")]
    given = control.get("map_embedder_param") or {}
    if control.get("map_embedder_cls") is None:
        given = {
            "conditioning_size": control.get("map_size"),
            "block_out_channels": control.get("conditioning_embedding_out_channels"),
        }
    size = given.get("conditioning_size") or control.get("map_size")
    if not isinstance(size, (list, tuple)) or len(size) != 3 or size[0] != 8:
        raise InputError(f"MagicDrive's map size {size!r} must be [8, height, width]: the eight bird's-eye classes")
    channels = given.get("block_out_channels") or _MAP_CHANNELS[embedder]
    return {"pixels": [int(size[1]), int(size[2])], "embedder": embedder, "channels": list(channels)}

"""MagicDrive's two config.json files, read through closed tables: no path in them is ever imported."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from drivegen.backbones.networks import build_model
from drivegen.backbones.unet_branch import SHARED
from drivegen.convert.settings import Settings
from drivegen.support.errors import InputError, nearest

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
_MAP_CHANNELS = {"default": (32, 64, 128, 256), "adaptive": (16, 32, 96, 256)}


@dataclass(frozen=True, eq=False)
class Described:
    """A checkpoint's structure: UNet arguments, each plugin's constructor arguments, neighbours by view, (height, width)."""

    unet: Mapping[str, Any]
    options: Mapping[str, Mapping[str, Any]]
    neighbours: tuple[tuple[int, ...], ...]
    image_size: tuple[int, int] | None


def build_unet(described: Described, where: str = "unet/config.json") -> nn.Module:
    """Build the plain UNet, freshly initialised; raises InputError on arguments that diffusers does not take."""
    try:
        return build_model("UNet2DConditionModel", described.unet)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def describe(unet: Any, control: Any, half: bool = True, folder: str | Path = "") -> Described:
    """Read both configurations; raises InputError on a wrong type, class, mode or option that has no counterpart here.

    Args:
        unet: content of `unet/config.json`.
        control: content of `controlnet/config.json`.
        half: cast camera parameters to fp16, as MagicDrive does.
        folder: that holds both, for the error.
    """
    of_unet = Settings.of(unet, str(Path(folder, "unet", "config.json")))
    of_control = Settings.of(control, str(Path(folder, "controlnet", "config.json")))
    _check_class(of_unet, UNETS)
    _check_class(of_control, CONTROLS)
    of_unet.choice("crossview_attn_type", ("basic",), "basic")
    of_control.choice("use_uncond_map", (None,))
    of_control.choice("controlnet_conditioning_channel_order", ("rgb",), "rgb")
    # True reduces each residual to one number per channel, which no branch here does.
    of_control.choice("global_pool_conditions", (False, None), False)
    for key in (*SHARED, "block_out_channels"):
        if key in unet and key in control and unet[key] != control[key]:
            raise InputError(
                f"{key} is {unet[key]!r} in {of_unet.where} and {control[key]!r} in {of_control.where}; they must agree"
            )
    options = {
        "camera": _camera(of_control, half),
        "text": {"template": TEMPLATE},
        "boxes": _boxes(of_control, of_unet.count("cross_attention_dim", 1280), half),
        "bev_map": _map(of_control),
        "cross_view": {
            "attention": of_unet.choice("neighboring_attn_type", ("add", "concat", "self"), "add"),
            "connector": of_unet.choice("zero_module_type", ("zero_linear", "gated", "none"), "zero_linear"),
        },
    }
    return Described(_plain(unet), options, _neighbours(of_unet), _image_size(of_unet, of_control))


def _check_class(config: Settings, known: tuple[str, ...]) -> None:
    name = config.values.get("_class_name", known[0])
    if str(name).rsplit(".", 1)[-1] not in known:
        raise config.refused("_class_name", f"{' or '.join(known)}{nearest(str(name), known)}")


def _image_size(unet: Settings, control: Settings) -> tuple[int, int] | None:
    """Give (height, width) in pixels: the UNet's own word, or eight times the latents that a map embedder is made for."""
    if unet.values.get("img_size") is not None:
        height, width = unet.counts("img_size", 2)
        return height, width
    given = control.inside("map_embedder_param")
    if control.values.get("map_embedder_cls") is None or given.values.get("conditioning_embedding_size") is None:
        return None
    height, width = given.counts("conditioning_embedding_size", 2)
    return 8 * height, 8 * width


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what diffusers' UNet takes; keys that neither it nor MagicDrive knows are named in a warning."""
    from diffusers import UNet2DConditionModel

    known = set(inspect.signature(UNet2DConditionModel.__init__).parameters) - {"self"}
    strange = [k for k, v in config.items() if k not in known and k not in _UNET_OWN and k[0] != "_" and v is not None]
    if strange:
        warnings.warn(f"MagicDrive's unet/config.json has keys that mean nothing here: {', '.join(strange)}", stacklevel=4)
    return {k: v for k, v in config.items() if k in known}


def _neighbours(unet: Settings) -> tuple[tuple[int, ...], ...]:
    pairs = unet.values.get("neighboring_view_pair")
    try:
        table = {int(view): tuple(int(other) for other in others) for view, others in pairs.items()}  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError) as error:
        raise unet.refused("neighboring_view_pair", "an object of views and their lists of views") from error
    if sorted(table) != list(range(len(table))) or any(o not in table for others in table.values() for o in others):
        raise unet.refused("neighboring_view_pair", "about views that are numbered from 0 without a gap")
    return tuple(table[view] for view in range(len(table)))


def _camera(control: Settings, half: bool) -> dict[str, Any]:
    given = control.inside("cam_embedder_param")
    for key, value in (("input_dims", 3), ("include_input", True), ("log_sampling", True)):
        given.choice(key, (value,), value)
    if control.counts("uncond_cam_in_dim", 2, (3, 7)) != (3, 7):
        raise control.refused("uncond_cam_in_dim", "[3, 7]: intrinsics and the camera's place")
    return {"normalised": False, "half": half, "frequencies": given.count("num_freqs", 4)}


def _boxes(control: Settings, width: int, half: bool) -> dict[str, Any]:
    control.choice("bbox_embedder_cls", BOX_EMBEDDERS)
    given = control.inside("bbox_embedder_param")
    given.choice("n_classes", (10,), 10)
    # What MagicDrive's class takes where a configuration is silent.
    position, first, second, out = given.counts("proj_dims", 4, (768, 512, 512, 768))
    if out != width:
        raise given.refused("proj_dims", f"four widths, the last one the UNet's cross_attention_dim, {width}")
    return {
        "masked": False, "in_image": False, "frame": "lidar", "unit_m": 1.0, "upright": True, "raised": True,
        "corners": given.choice("mode", ("all-xyz", "cxyz"), "cxyz"), "min_max": given.flag("minmax_normalize", True),
        "max_boxes": 10_000, "learn_classes": given.flag("trainable_class_token", False), "hidden": [first, second],
        "position_width": position, "class_width": given.count("class_token_dim", 768),
        "frequencies": given.count("embedder_num_freq", 4), "half_in_training": half,
    }  # fmt: skip


def _map(control: Settings) -> dict[str, Any]:
    name = control.choice("map_embedder_cls", MAP_EMBEDDERS)
    embedder, given = MAP_EMBEDDERS[name], control.inside("map_embedder_param")
    if name is None:
        place, size_key, channels_key = control, "map_size", "conditioning_embedding_out_channels"
    else:
        place, size_key, channels_key = given, "conditioning_size", "block_out_channels"
        if given.values.get(size_key) is None:
            place, size_key = control, "map_size"
    classes, height, width = place.counts(size_key, 3)
    if classes != 8:
        raise place.refused(size_key, "[8, height, width]: the eight bird's-eye classes")
    channels = (control if name is None else given).counts(channels_key, 4, _MAP_CHANNELS[embedder])
    return {"pixels": [height, width], "embedder": embedder, "channels": list(channels)}

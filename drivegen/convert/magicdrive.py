"""MagicDrive's `unet/` and `controlnet/` folders as a UNet and the plugins camera, boxes, bev_map and cross_view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from drivegen import registry, weights
from drivegen.backbone import build_model
from drivegen.errors import InputError
from drivegen.plugin import Plugin
from drivegen.weights import State

UNET_CLASSES = ("UNet2DConditionModelMultiview",)
EMBEDDERS = {
    None: "default",
    "magicdrive.networks.map_embedder.BEVControlNetConditioningEmbedding": "default",
    "magicdrive.networks.map_embedder.BEVControlNetConditioningEmbeddingPlus": "adaptive",
}
"""The closed table of map embedders that a configuration may name."""

_STEM = "diffusion_pytorch_model"
_VIEW_PARTS = ("norm4", "attn4", "connector")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A MagicDrive checkpoint taken apart: the plain UNet, and for each plugin its constructor arguments and its weights."""

    unet: nn.Module
    options: Mapping[str, Mapping[str, Any]]
    states: Mapping[str, State]

    def plugins(self) -> dict[str, Plugin]:
        """Build the plugins, in MagicDrive's token order around a text plugin: camera, text, boxes."""
        template = {"template": "A driving scene image at {location}. {description}"}
        options = {**self.options, "text": template}
        return {name: registry.load(name)(**options[name]) for name in ("camera", "text", "boxes", "bev_map", "cross_view")}

    def load_into(self, plugins: Mapping[str, Plugin]) -> None:
        """Load the weights into plugins that are attached to this UNet, strictly."""
        for name, state in self.states.items():
            weights.load_strict(plugins[name], state, f"MagicDrive's {name}")


def read(folder: str | Path, half: bool = True) -> Checkpoint:
    """Read `folder/unet` and `folder/controlnet`; half is MagicDrive's cast of camera parameters to fp16."""
    folder = Path(folder)
    config = weights.read_json(folder / "unet" / "config.json")
    control = weights.read_json(folder / "controlnet" / "config.json")
    named = str(config.get("_class_name", UNET_CLASSES[0]))
    if named.rsplit(".", 1)[-1] not in UNET_CLASSES:
        raise InputError(f"{folder / 'unet'}: class {named!r} is not MagicDrive's UNet ({', '.join(UNET_CLASSES)})")
    unet_state = {k: v.float() for k, v in weights.load_state(folder / "unet", _STEM).items()}
    control_state = {k: v.float() for k, v in weights.load_state(folder / "controlnet", _STEM).items()}
    plain, views = _split_unet(unet_state)
    unet = build_model("UNet2DConditionModel", config)
    weights.load_strict(unet, plain, str(folder / "unet"))
    states = {"cross_view": views, **_split_control(control_state)}
    return Checkpoint(unet, _options(config, control, states["boxes"], half), states)


def _split_unet(state: State) -> tuple[State, State]:
    plain, views = {}, {}
    for key, value in state.items():
        block, _, rest = key.partition(".transformer_blocks.")
        number, _, inner = rest.partition(".")
        if inner.split(".")[0] in _VIEW_PARTS:
            site = f"{block}.transformer_blocks.{number}.attn2".replace(".", "-")
            views[f"taps.{site}.{inner}"] = value
        else:
            plain[key] = value
    return plain, views


def _split_control(state: State) -> dict[str, State]:
    out: dict[str, State] = {"camera": {}, "boxes": {}, "bev_map": {}}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if head in ("cam2token", "uncond_cam"):
            out["camera"][key] = value
        elif head == "bbox_embedder":
            out["boxes"][rest] = value
        elif head == "controlnet_cond_embedding":
            out["bev_map"][f"embedder.{rest}"] = value
        else:
            out["bev_map"][f"branch.{key}"] = value
    return out


def _options(unet: Mapping[str, Any], control: Mapping[str, Any], boxes: State, half: bool) -> dict[str, Mapping[str, Any]]:
    embedder = control.get("map_embedder_cls")
    if embedder not in EMBEDDERS:
        raise InputError(f"map embedder {embedder!r} is not one of {', '.join(str(e) for e in EMBEDDERS)}")
    given = control.get("map_embedder_param") or {}
    size = given.get("conditioning_size") or control["map_size"]
    channels = given.get("block_out_channels") or control["conditioning_embedding_out_channels"]
    box = control.get("bbox_embedder_param") or {}
    mode = box.get("mode", "all-xyz")
    return {
        "camera": {"normalised": False, "half": half},
        "boxes": {
            "masked": False, "in_image": False, "frame": "lidar", "unit_m": 1.0, "raised": True, "corners": mode,
            "min_max": bool(box.get("minmax_normalize", False)), "max_boxes": 10_000, "learn_classes": False,
            "hidden": int(boxes["second_linear.0.weight"].shape[0]),
        },
        "bev_map": {"pixels": list(size[1:]), "embedder": EMBEDDERS[embedder], "channels": list(channels)},
        "cross_view": {
            "attention": unet.get("neighboring_attn_type", "add"), "connector": unet.get("zero_module_type", "zero_linear"),
        },
    }  # fmt: skip

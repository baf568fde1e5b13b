"""Folders of diffusers' conditioning networks as plugins with their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from drivegen.catalog import registry
from drivegen.plugin import Plugin
from drivegen.saved import model
from drivegen.support import weights
from drivegen.support.errors import InputError

_STEM = "diffusion_pytorch_model"
_EMBEDDER = "controlnet_cond_embedding."


def controlnet(folder: str | Path, picture: str = "given", attends_to: tuple[str, ...] | None = ("text",)) -> Plugin:
    """Make a `controlnet` plugin, weights included, from a folder that holds a diffusers ControlNetModel, in fp32.

    picture names one of `raster.PICTURES`, or "given"; attends_to the plugins whose tokens it was trained with. Raises
    InputError on anything else than such a folder.
    """
    network, state = _read(Path(folder), "ControlNetModel")
    kind: Any = registry.load("controlnet")
    plugin: Plugin = kind(picture, network, attends_to)
    placed = {
        f"embedder.{k.removeprefix(_EMBEDDER)}" if k.startswith(_EMBEDDER) else f"branch.{k}": v for k, v in state.items()
    }
    weights.load_strict(plugin, placed, str(folder))
    return plugin


def t2i_adapter(folder: str | Path, picture: str = "given") -> Plugin:
    """Make a `t2i_adapter` plugin, weights included, from a folder that holds a diffusers T2IAdapter, in fp32.

    picture names one of `raster.PICTURES`, or "given". Raises InputError on anything else than such a folder.
    """
    network, state = _read(Path(folder), "T2IAdapter")
    kind: Any = registry.load("t2i_adapter")
    plugin: Plugin = kind(picture, network)
    gains = {k: torch.ones_like(v) for k, v in plugin.state_dict().items() if k.startswith("gains.")}
    weights.load_strict(plugin, {**gains, **{f"adapter.{k}": v for k, v in state.items()}}, str(folder))
    return plugin


def convert(plugin: Plugin, out: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write a plugin folder that is new or empty, in `dtype` or as the weights are; the folder's name becomes the plugin's.

    It says that the network was trained without null, so that guidance leaves it known, as diffusers' pipelines do; but not of
    a ControlNet that pools its terms over the picture, which diffusers' pipeline leaves out of the unconditional half.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty; name a new folder")
    pools = (plugin.config.get("network") or {}).get("global_pool_conditions")
    training = {} if pools else {"drop": 0}
    model.save_plugin(plugin, out, dtype, out.name if out.name.isidentifier() else "", training=training)
    return out


def _read(folder: Path, class_name: str) -> tuple[dict[str, Any], weights.State]:
    config = weights.read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("_class_name") != class_name:
        found = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
        raise InputError(f"{folder / 'config.json'} is of a {found}, and a diffusers {class_name} is needed")
    state = {k: v.float() if v.is_floating_point() else v for k, v in weights.load_state(folder, _STEM).items()}
    return {k: v for k, v in config.items() if not k.startswith("_")}, state

"""The description of a plugin that is saved alone: base, training, versions; for programs and for people."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from drivegen.backbones.networks import state_as_stored
from drivegen.backbones.stable_diffusion import PARTS, Backbone
from drivegen.support.weights import unwrapped

_SIZES = ("hidden_size", "num_hidden_layers", "image_size", "patch_size", "projection_dim")


def fingerprint(module: nn.Module) -> str:
    """Return a sha256 of a network's weights as fp16, so that a copy saved in fp16 has the same.

    For a network that was cast after loading it is that of the stored weights: bf16 does not make it another base.
    """
    total = hashlib.sha256()
    for name, tensor in sorted(state_as_stored(module).items()):
        total.update(name.encode())
        total.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return total.hexdigest()


def base_of(backbone: Backbone, requires: tuple[str, ...] = ()) -> dict[str, Any]:
    """Describe the base that a plugin is attached to: sizes that must fit, and fingerprints of the networks it works with."""
    unet = unwrapped(backbone.unet).config
    sizes: dict[str, Any] = {
        "cross_attention_dim": unet.cross_attention_dim, "block_out_channels": list(unet.block_out_channels),
        "layers_per_block": unet.layers_per_block, "latent_channels": backbone.latent_channels,
        "prediction_type": backbone.scheduler.config.prediction_type,
    }  # fmt: skip
    prints = {"unet": fingerprint(backbone.unet)}
    for name in requires:
        if name not in PARTS:
            component = backbone.component(name)
            sizes[name] = {key: value for key in _SIZES if isinstance(value := getattr(component.config, key, None), int)}
            prints[name] = fingerprint(component)
    return {"sizes": sizes, "sha256_fp16": prints}


def differences(saved: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """List the sizes in which the base of a saved plugin differs from the one here."""
    theirs, ours = saved.get("sizes", {}), here["sizes"]
    return [f"{key} {theirs[key]} there and {ours.get(key)} here" for key in theirs if theirs[key] != ours.get(key)]


def other_weights(saved: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Name the networks whose weights differ from those that a saved plugin was made for."""
    theirs, ours = saved.get("sha256_fp16", {}), here["sha256_fp16"]
    return [name for name in theirs if theirs[name] != ours.get(name)]


def summary(about: Mapping[str, Any], name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Extract from a model's `about` how a plugin was trained there; empty when it was not.

    Args:
        about: of the model.
        name: the plugin's instance name.
        size: (height, width) of the pictures.
    """
    training = about.get("training")
    own = (training or {}).get("plugins", {}).get(name)
    if not own or not own.get("train", True):
        return {}
    train = training["train"]  # type: ignore[index]
    return {
        "steps": about.get("steps"), "images_a_step": train.get("images"), "learning_rate": train.get("lr"),
        "drop": own.get("drop"),
        "size": list(size), "unet_trained": bool(train.get("unet")),
    }  # fmt: skip


def card(name: str, config: Mapping[str, Any]) -> str:
    """Write the README.md of a plugin folder."""
    base, training = config.get("base") or {}, config.get("training") or {}
    kind = config["kind"]
    lines = ["---", "library_name: drivegen", f"tags: [drivegen, drivegen-plugin, {kind}]", "---", ""]
    lines += [f"# {name}", "", f"A drivegen plugin of kind `{kind}`.", ""]
    lines += ["```python", "from drivegen import Pipeline", "", 'pipe = Pipeline.from_pretrained("a model on the same base")']
    lines += ['pipe.add_plugin("this folder, or its hub id")', "```", ""]
    lines += table("Options", config["arguments"])
    lines += table("Base", {"name": base.get("name", "unknown"), **base.get("sizes", {}), **hashes(base)} if base else {})
    lines += table("Training", training)
    lines += table("Made with", {"plugin": config["version"], **config.get("versions", {})})
    lines += table("File", {"sha256 of model.safetensors": config["sha256"]})
    return "\n".join(lines)


def hashes(base: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprints of a base (`base_of`) as rows of a table."""
    return {f"sha256 of {name} (as fp16)": value for name, value in base.get("sha256_fp16", {}).items()}


def table(title: str, values: Mapping[str, Any]) -> list[str]:
    """Return the lines of a chapter with one table; nothing without values."""
    if not values:
        return []
    rows = [f"| {key} | {value} |" for key, value in values.items()]
    return [f"## {title}", "", "| | |", "|---|---|", *rows, ""]

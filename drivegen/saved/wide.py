"""Models whose UNet reads more than the latents: a plain UNet, and the plugin that its further channels are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drivegen.backbones import single_file
from drivegen.backbones.networks import build_model, load_model
from drivegen.backbones.stable_diffusion import Backbone
from drivegen.saved import released
from drivegen.support import weights
from drivegen.support.errors import InputError


def is_inpainting(source: Path) -> bool:
    """Tell whether the UNet of a diffusers folder or single file reads a mask and the latents of a picture besides its own.

    Args:
        source: the folder or file; of a file two tensors are read.
    """
    if source.is_file():
        channels = single_file.ends(source)
    else:
        file = source / "unet" / "config.json"
        config = weights.read_json(file) if file.is_file() else None
        channels = (config.get("in_channels", 4), config.get("out_channels", 4)) if isinstance(config, dict) else None
    return channels is not None and isinstance(channels[1], int) and channels[0] == 2 * channels[1] + 1


def split(
    source: Path, kind: str | None = None, options: Mapping[str, Any] | None = None, config_folder: str | Path | None = None,
    prediction_type: str | None = None, variant: str | None = None,
) -> tuple[Backbone, released.Found]:  # fmt: skip
    """Split a model into its networks with a plain UNet, and what the plugin of its further channels is made of.

    Args:
        source: a diffusers folder, or a single file in the original layout.
        kind: of the plugin; None asks every installed one.
        options: constructor arguments that replace those read from the weights; None for none.
        config_folder: configurations for a single file, as `Backbone.from_single_file` takes them.
        prediction_type: what the UNet predicts, where the model does not say it.
        variant: which weight files of a folder to take where there are several.

    Raises InputError on anything else than such a folder or file.
    """
    if source.is_file():
        backbone = Backbone.from_single_file(source, config_folder, prediction_type, narrow=True)
        return backbone, released.read(source, kind, options)
    file = source / "unet" / "config.json"
    config = weights.read_json(file)
    latents = config.get("out_channels", 4) if isinstance(config, dict) else None
    if not isinstance(latents, int) or not isinstance(config, dict) or config.get("in_channels", 4) == latents:
        raise InputError(
            f"{file} is of no UNet with more input channels than latents; a plain model needs no conversion: name it with "
            "--model"
        )
    found = released.read(source / "unet", kind, options)
    state = load_model(source / "unet", "UNet2DConditionModel", variant).state_dict()
    unet = build_model("UNet2DConditionModel", {**config, "in_channels": latents})
    narrow = {**state, "conv_in.weight": state["conv_in.weight"][:, :latents].clone()}
    weights.load_strict(unet, narrow, str(source / "unet"))
    return Backbone.from_folder(source, unet=unet, prediction_type=prediction_type), found

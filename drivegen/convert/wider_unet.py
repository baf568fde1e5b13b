"""Models whose UNet reads more than the latents (inpainting, depth) as a plain UNet and a `concat` plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from drivegen.backbones.networks import build_model, load_model
from drivegen.backbones.stable_diffusion import Backbone
from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.sampling import Sampling
from drivegen.saved import model, released
from drivegen.support import weights
from drivegen.support.errors import InputError

NAME = "concat"
"""The plugin's name in the model."""


def read(
    source: str | Path, picture: str = "given", scaled: bool = True, config_folder: str | Path | None = None,
    prediction_type: str | None = None,
) -> Host:  # fmt: skip
    """Split a model into its UNet without the extra channels and the plugins text and concat; fp32.

    Args:
        source: a diffusers folder (`model_index.json`) whose UNet has more input channels than latents, or a single file of
            such a model in the original layout.
        picture: one of `raster.PICTURES`, or "given".
        scaled: whether joined latents are scaled as the noisy ones are; InstructPix2Pix's are not.
        config_folder: configurations for a single file, as `Backbone.from_single_file` takes them.
        prediction_type: what a single file's UNet predicts where it does not say so.

    Raises InputError on anything else than such a folder or file.
    """
    source = Path(source).expanduser()
    options: dict[str, Any] = {} if scaled else {"scaled": False}
    if picture != "given":
        options["picture"] = picture
    if source.is_file():
        backbone = Backbone.from_single_file(source, config_folder, prediction_type, narrow=True)
        found, where = released.read(source, "concat", options), source
    else:
        if config_folder is not None or prediction_type is not None:
            raise InputError(f"{source} is no file; --config and --prediction-type are for single files, which lack both")
        backbone, found = _split(source, options)
        where = source / "unet"
    host = Host(backbone, {"text": registry.load("text")()})
    settings = source if source.is_file() else where / "config.json"
    plugin = model.attach(host, NAME, found.cls, found.released.arguments, dict(found.released.state), where, settings)
    plugin.__dict__["_saved"] = {"kind": found.kind, "name": NAME, "training": dict(found.released.training)}
    return host.eval().requires_grad_(False)


def _split(folder: Path, options: dict[str, Any]) -> tuple[Backbone, released.Found]:
    """Split a diffusers folder into its networks with a plain UNet, and what the plugin is made of."""
    config = weights.read_json(folder / "unet" / "config.json")
    latents = config.get("out_channels", 4) if isinstance(config, dict) else None
    if not isinstance(latents, int) or not isinstance(config, dict) or config.get("in_channels", 4) == latents:
        raise InputError(
            f"{folder / 'unet' / 'config.json'} is of no UNet with more input channels than latents; a plain model needs no "
            "conversion: name it with --model"
        )
    found = released.read(folder / "unet", "concat", options)
    state = load_model(folder / "unet", "UNet2DConditionModel").state_dict()
    unet = build_model("UNet2DConditionModel", {**config, "in_channels": latents})
    narrow = {**state, "conv_in.weight": state["conv_in.weight"][:, :latents].clone()}
    weights.load_strict(unet, narrow, str(folder / "unet"))
    return Backbone.from_folder(folder, unet=unet), found


def convert(host: Host, out: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write such a model to a folder that is new or empty.

    Guidance nulls the text alone: both halves get the joined channels, as in diffusers' pipelines.

    Args:
        host: of `read`.
        out: the model folder.
        dtype: of the weights; None keeps theirs.
    """
    return model.save(host, out, Sampling(guidance=7.5, null=("text",)), dtype)

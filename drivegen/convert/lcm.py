"""Latent consistency models, whose UNet takes the scale of guidance, as a plain UNet and the plugin `guidance_embedding`."""

from __future__ import annotations

from pathlib import Path

import torch

from drivegen.backbones.networks import build_model, load_model
from drivegen.backbones.stable_diffusion import Backbone
from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.sampling import Sampling
from drivegen.saved import model, plugin_folder, released
from drivegen.support import weights
from drivegen.support.errors import InputError

NAME = "scale"
"""The plugin's name in the model."""
_CLASS = "UNet2DConditionModel"
_TAKES = "time_cond_proj_dim"


def read(folder: str | Path) -> Host:
    """Split a model of diffusers' folders, such as LCM_Dreamshaper_v7, into its UNet without the embedding and the plugins text
    and guidance_embedding; fp32.

    Raises InputError where its UNet takes no scale.
    """
    folder = Path(folder).expanduser()
    part = folder / "unet"
    config = weights.read_object(part / "config.json")
    if not config.get(_TAKES):
        raise InputError(f"{part / 'config.json'} has no {_TAKES}: the UNet takes no scale; a plain model needs no conversion")
    found = released.read(part, "guidance_embedding", {})
    state = load_model(part, _CLASS).state_dict()
    unet = build_model(_CLASS, {**config, _TAKES: None})
    own = unet.state_dict().keys()
    weights.load_strict(unet, {name: value for name, value in state.items() if name in own}, str(part))
    host = Host(Backbone.from_folder(folder, unet=unet), {"text": registry.load("text")()})
    told = found.released
    plugin = plugin_folder.attach(host, NAME, found.cls, told.arguments, dict(told.state), part, part / "config.json")
    plugin.__dict__["_saved"] = {"kind": found.kind, "name": NAME, "training": dict(told.training)}
    return host.eval().requires_grad_(False)


def convert(host: Host, out: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write such a model to a folder that is new or empty; it is sampled as LatentConsistencyModelPipeline does.

    Args:
        host: of `read`.
        out: the model folder.
        dtype: of the weights; None keeps theirs.
    """
    return model.save(host, out, Sampling("lcm", 4, 8.5, sampler_options={"original_inference_steps": 50}), dtype)

"""Single-file Stable Diffusion checkpoints: LDM's names of the weights, and the configurations that they lack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from drivegen.backbones.networks import current_clip_keys
from drivegen.support.errors import InputError

PREFIXES = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
"""What the names of the tensors begin with: one per network."""


def from_ldm(name: str, state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Pick a network's weights out of a single-file checkpoint, under the names that the network has here."""
    from diffusers.loaders import single_file_utils as ldm

    if name == "unet":
        found = ldm.convert_ldm_unet_checkpoint(state, model.config)
    elif name == "vae":
        found = ldm.convert_ldm_vae_checkpoint(state, model.config)
    else:
        is_open_clip = ldm.is_open_clip_model(state)
        found = ldm.convert_open_clip_checkpoint(model, state) if is_open_clip else ldm.convert_ldm_clip_checkpoint(state)
        # Some files keep CLIP's projection, which Stable Diffusion does not use.
        found = current_clip_keys({k: v for k, v in found.items() if not k.endswith("text_projection.weight")}, model)
    # The converters give None for some of the tensors that are not there; strict loading then names them.
    return {k: v for k, v in found.items() if v is not None}


def hub_folder(path: Path, state: Mapping[str, Tensor]) -> Path:
    """Fetch the configurations that diffusers would take for a single file; raises InputError when it cannot."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from huggingface_hub import snapshot_download

    name = fetch_diffusers_config(state)["pretrained_model_name_or_path"]
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt"]))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot fetch the configurations for {path} from the hub's {name} ({str(error).splitlines()[0]}); name a folder "
            "that has them with --config, or config_folder in Python"
        ) from error

"""Which families of denoising networks are hosted, by the class name of the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drivegen.backbones.compatibility import check_unet
from drivegen.backbones.family import Family
from drivegen.backbones.unets import StableDiffusion, StableDiffusionXL, StableDiffusionXLRefiner
from drivegen.support import weights
from drivegen.support.errors import InputError
from drivegen.support.weights import unwrapped

FAMILIES: Mapping[str, tuple[type[Family], ...]] = {
    "UNet2DConditionModel": (StableDiffusion, StableDiffusionXL, StableDiffusionXLRefiner),
}
"""Families by class name; of several the first takes the network that accepts its configuration."""

OTHER_NETWORKS: Mapping[str, str] = {
    "SD3Transformer2DModel": "Stable Diffusion 3", "FluxTransformer2DModel": "FLUX.1", "Flux2Transformer2DModel": "FLUX.2",
    "PixArtTransformer2DModel": "PixArt", "Transformer2DModel": "DiT or PixArt-α", "DiTTransformer2DModel": "DiT",
    "HunyuanDiT2DModel": "Hunyuan-DiT", "AuraFlowTransformer2DModel": "AuraFlow", "SanaTransformer2DModel": "Sana",
    "LuminaNextDiT2DModel": "Lumina-Next", "Lumina2Transformer2DModel": "Lumina 2", "ChromaTransformer2DModel": "Chroma",
    "QwenImageTransformer2DModel": "Qwen-Image", "HiDreamImageTransformer2DModel": "HiDream",
    "CogView3PlusTransformer2DModel": "CogView3-Plus", "CogView4Transformer2DModel": "CogView4",
    "ZImageTransformer2DModel": "Z-Image", "OmniGenTransformer2DModel": "OmniGen",
    "WanTransformer3DModel": "Wan", "CogVideoXTransformer3DModel": "CogVideoX", "MochiTransformer3DModel": "Mochi",
    "LTXVideoTransformer3DModel": "LTX-Video", "HunyuanVideoTransformer3DModel": "HunyuanVideo",
    "AllegroTransformer3DModel": "Allegro", "LatteTransformer3DModel": "Latte", "CosmosTransformer3DModel": "Cosmos",
    "UNetSpatioTemporalConditionModel": "Stable Video Diffusion", "UNetMotionModel": "AnimateDiff",
    "UNet3DConditionModel": "text-to-video (ModelScope)", "I2VGenXLUNet": "I2VGen-XL", "Kandinsky3UNet": "Kandinsky 3",
    "Kandinsky5Transformer3DModel": "Kandinsky 5", "StableCascadeUNet": "Stable Cascade", "WuerstchenDiffNeXt": "Würstchen",
    "UVit2DModel": "aMUSEd", "UNet2DModel": "unconditional", "PriorTransformer": "Kandinsky 2 prior",
}  # fmt: skip
"""What a model is whose denoising network is of a class that no family hosts."""


def family_class(network: str, config: Mapping[str, Any]) -> type[Family] | None:
    """Look up the family of a network by its class name and configuration; None = there is none."""
    return next((cls for cls in FAMILIES.get(network, ()) if cls.takes(config)), None)


def family_of(network: Any) -> Family:
    """Return the family of a network, as it is or wrapped by torch; raises InputError where it is of none."""
    plain = unwrapped(network)
    for base in type(plain).__mro__:
        found = family_class(base.__name__, plain.config) if base.__name__ in FAMILIES else None
        if found is not None:
            return found(network)
    raise InputError(f"the denoising network is a {type(plain).__name__}, of no family that is hosted ({_hosted()})")


def family_of_folder(folder: Path, index: Mapping[str, Any]) -> type[Family]:
    """Look up the family of a model folder; raises InputError that names the family where it is not hosted.

    Args:
        folder: the model's folder.
        index: its model_index.json.
    """
    part = next((name for name in ("unet", "transformer", "prior") if class_named(index.get(name))), "unet")
    network = class_named(index.get(part)) or ""
    if network and network not in FAMILIES:
        what = OTHER_NETWORKS.get(network)
        this = f"this is a {what} model: its" if what else "its"
        raise InputError(
            f"{folder}: {this} denoising network is a {network}, of a family that is not hosted; hosted are {_hosted()}"
        )
    config = weights.read_json(folder / part / "config.json") if network else {}
    if not isinstance(config, dict):
        return StableDiffusion  # building says what is wrong
    found = family_class(network or "UNet2DConditionModel", config)
    if found is not None:
        return found
    try:
        check_unet(config, int(config.get("in_channels", 4)))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    raise InputError(f"{folder}: its {network} is configured as none of the families that are hosted: {_hosted()}")


def class_named(entry: Any) -> str | None:
    """Return the class of an entry [library, class] of model_index.json, or None."""
    return entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else None


def _hosted() -> str:
    return ", ".join(cls.name for families in FAMILIES.values() for cls in families)

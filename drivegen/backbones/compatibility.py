"""Checks that networks, tokenizer and scheduler fit together and need no input that the host does not supply."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from drivegen.backbones.text_tower import TextTower
from drivegen.backbones.tokenizers import check_tokenizer
from drivegen.diffusion.training_facts import training_facts
from drivegen.support.errors import InputError
from drivegen.support.weights import unwrapped

ANY = object()
"""Any value that is set: not None, not False."""

NOT_HOSTED: Mapping[str, Mapping[Any, str]] = {
    "time_cond_proj_dim": {ANY: "an LCM-distilled UNet with a guidance embedding"},
    "addition_embed_type": {
        "text_time": "", "text": "a DeepFloyd IF UNet, which pools its text", "image": "a Kandinsky 2.2 UNet",
        "text_image": "a Kandinsky 2.1 UNet", "image_hint": "a Kandinsky 2.2 ControlNet UNet",
        ANY: "a UNet with an added embedding",
    },
    "class_embed_type": {
        "projection": "an unCLIP UNet with an image embedding", "simple_projection": "an AudioLDM UNet with an audio embedding",
        "timestep": "a UNet with a second timestep", "identity": "a UNet with a class embedding",
        ANY: "a UNet with a class embedding",
    },
    "num_class_embeds": {ANY: "a class-conditional UNet"},
    "encoder_hid_dim_type": {
        "text_proj": "a UNet that projects its text, as DeepFloyd IF", "image_proj": "an image-variation UNet of Kandinsky 2.2",
        "text_image_proj": "a Kandinsky 2.1 UNet", "ip_image_proj": "a UNet with an IP-Adapter built in",
        ANY: "a UNet that projects its context",
    },
    "encoder_hid_dim": {ANY: "a UNet that projects its context"},
    "dual_cross_attention": {ANY: "a UNet of two contexts, as Versatile Diffusion"},
    "attention_type": {
        "gated": "a GLIGEN UNet", "gated-text-image": "a GLIGEN UNet with pictures", "default": "",
        ANY: "a UNet with another attention",
    },
    "time_embedding_type": {"positional": "", ANY: "a UNet that takes noise levels in place of timesteps"},
    "class_embeddings_concat": {ANY: "a UNet with a class embedding beside its time"},
}  # fmt: skip
"""What a UNet2DConditionModel's configuration may ask for and no family here feeds, and what the UNet then is ("" = hosted).

A family that feeds one of these takes its entry out.
"""

_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def check_unet(config: Mapping[str, Any], latent_channels: int) -> None:
    """Refuse a UNet by what its configuration asks for; raises InputError that says what the UNet is.

    Args:
        config: the settings of a UNet2DConditionModel; what is missing is diffusers' default.
        latent_channels: C of the VAE.
    """
    for key, kinds in NOT_HOSTED.items():
        value = config.get(key)
        if value is None or value is False:
            continue
        what = next((name for kind, name in kinds.items() if kind is not ANY and kind == value), kinds.get(ANY, ""))
        if what:
            hint = "; `drivegen convert lcm FOLDER OUT` makes a model of it" if key == "time_cond_proj_dim" else ""
            raise InputError(f"this is {what} ({key} = {value!r}), which is not hosted{hint}")
    check_channels(config.get("in_channels", 4), config.get("out_channels", 4), latent_channels)
    width = config.get("cross_attention_dim", 1280)
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise InputError(f"the UNet's cross_attention_dim is {width!r}; hosted are UNets with one context of one width")
    size = config.get("sample_size")
    sides = size if isinstance(size, (list, tuple)) and len(size) == 2 else (size,)
    if size is not None and not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sides):
        raise InputError(f"the UNet's sample_size is {size!r}; needed is a whole number, or height and width, or null")


def check_channels(inputs: Any, outputs: Any, latents: int) -> None:
    """Raise InputError, saying what the UNet is, where its channels are not those of the latents.

    Args:
        inputs: in_channels of the UNet.
        outputs: its out_channels.
        latents: C, channels of the VAE's latents.
    """
    if inputs != latents:
        kinds = {
            2 * latents + 1: "an inpainting UNet", 2 * latents: "an instruct-pix2pix UNet",
            latents + 1: "a depth-to-image UNet", latents + 3: "an upscaling UNet",
        }  # fmt: skip
        count = _WORDS[inputs] if isinstance(inputs, int) and 0 <= inputs < len(_WORDS) else inputs
        what = f"{kinds.get(inputs, 'a UNet')} of {count} channels"
        raise InputError(f"this is {what} (in_channels = {inputs}; the VAE has {latents} latent channels), which is not hosted")
    if outputs != latents:
        what = "a UNet with learned variance (learned sigma)" if outputs == 2 * latents else "a UNet of other outputs"
        raise InputError(
            f"this is {what} (out_channels = {outputs}; the VAE has {latents} latent channels), which is not hosted"
        )


def check_vae(config: Mapping[str, Any]) -> int:
    """Return the channels of a VAE's latents; raises InputError for pictures or a scaling that the host does not support."""
    latents = config.get("latent_channels", 4)
    if isinstance(latents, bool) or not isinstance(latents, int) or latents < 1:
        raise InputError(f"the VAE's latent_channels is {latents!r}; needed is a whole number from 1")
    for key in ("in_channels", "out_channels"):
        if config.get(key, 3) != 3:
            raise InputError(f"the VAE's {key} is {config[key]!r}; hosted are VAEs of pictures with 3 channels")
    scale, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor")
    if not _is_number(scale) or scale <= 0:
        raise InputError(f"the VAE's scaling_factor is {scale!r}; needed is a finite number above 0")
    if shift is not None and not _is_number(shift):
        raise InputError(f"the VAE's shift_factor is {shift!r}; needed is a finite number, or null")
    for key in ("latents_mean", "latents_std"):
        if config.get(key) is not None:
            raise InputError(f"the VAE scales each channel of its latents by itself ({key}), which is not hosted")
    return latents


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check(unet: Any, vae: Any, towers: Sequence[TextTower], scheduler: Any) -> None:
    """Check that the parts of a model fit together; raises InputError that says which does not, or what the model is.

    Args:
        unet: the denoising network, as it is, compiled or in another of torch's wrappers.
        vae: the first stage.
        towers: the text encoders with their tokenizers.
        scheduler: one of diffusers' schedulers, which states how the UNet was trained.
    """
    from diffusers import UNet2DConditionModel

    plain = unwrapped(unet)
    if not isinstance(plain, UNet2DConditionModel):
        raise InputError(f"the denoising network is a {type(plain).__name__}, and a UNet2DConditionModel is hosted")
    parts = [("vae", unwrapped(vae), ("config", "decode"))]
    for tower in towers:
        number = " 2" if tower.is_second else ""
        parts.append((f"text encoder{number}", unwrapped(tower.encoder), ("config", "get_input_embeddings")))
        parts.append((f"tokenizer{number}", tower.tokenizer, ("model_max_length", "eos_token_id")))
    for name, part, needed in parts:
        if not all(hasattr(part, attribute) for attribute in needed):
            raise InputError(f"a {type(part).__name__} is no {name} of a model")
    check_unet(plain.config, check_vae(unwrapped(vae).config))
    for tower in towers:
        check_tokenizer(tower.tokenizer, unwrapped(tower.encoder))
    training_facts(scheduler)


def check_widths(unet: Any, towers: Sequence[TextTower], vectors: Mapping[str, int]) -> None:
    """Check that the text encoders' tokens and pooled text are as wide as the UNet takes them.

    Args:
        unet: the denoising network.
        towers: the text encoders with their tokenizers.
        vectors: widths of what it is given besides tokens, by name.
    """
    width, tokens = int(unwrapped(unet).config.cross_attention_dim), sum(tower.width for tower in towers)
    if width != tokens:
        whose = "text encoder has" if len(towers) == 1 else "text encoders have"
        raise InputError(f"its {whose} width {tokens}, and the UNet attends to tokens of width {width}")
    wanted = vectors.get("text_embeds")
    if wanted is None:
        return
    config = unwrapped(towers[-1].encoder).config
    pooled = int(getattr(config, "projection_dim", 0) or 0)
    if not hasattr(unwrapped(towers[-1].encoder), "text_projection"):
        raise InputError(f"its {towers[-1].name} is a {type(unwrapped(towers[-1].encoder)).__name__}, which pools no text")
    if pooled != wanted:
        raise InputError(f"its {towers[-1].name} pools text to width {pooled}, and the UNet takes {wanted}")

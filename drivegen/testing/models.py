"""Builders of tiny random networks: every parameter is random and non-zero, so that no zero hides a path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.support.errors import InputError, nearest

WIDTH = 32
"""D: width of the cross-attention context."""


def randomize(module: nn.Module, seed: int = 0, std: float = 0.05) -> nn.Module:
    """Set every parameter to small random values, also those that are initialised to zero; norms' scales stay near one.

    Args:
        module: changed in place, and returned.
        seed: of the values.
        std: standard deviation of biases and norms.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 0
            if parameter.ndim > 1:
                parameter.copy_(noise * min(1.0, fan_in**-0.5))
            else:
                parameter.copy_((1.0 if "norm" in name and name.endswith("weight") else 0.0) + std * noise)
    return module


def tiny_tokenizer(length: int = 16) -> Any:
    """Make a CLIP tokenizer of single characters: one token per letter."""
    from transformers import CLIPTokenizer

    alphabet = byte_alphabet()
    words = [*alphabet, *(c + "</w>" for c in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=length)


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes in GPT-2's and CLIP's vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
    return [table[b] for b in range(256)]


@dataclass(frozen=True)
class _TinyFamily:
    towers: tuple[str, ...]
    unet: Callable[[int], dict[str, Any]]
    pooled: Callable[[int], int] | None = None


def _text_time(pooled: int, numbers: int) -> dict[str, Any]:
    """Settings of a UNet that is given vectors; as SDXL's it has no attention at its first level."""
    return {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2), "attention_head_dim": (2, 4), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": pooled + 8 * numbers,
    }  # fmt: skip


FAMILIES = {
    "sd": _TinyFamily(("text_encoder",), lambda width: {}),
    "sdxl": _TinyFamily(("text_encoder", "text_encoder_2"), lambda width: _text_time(12, 6), lambda width: 12),
    "sdxl_refiner": _TinyFamily(("text_encoder_2",), lambda width: _text_time(width, 5), lambda width: width),
}
"""What there are tiny networks of."""


def tiny_backbone(
    seed: int = 0, prediction_type: str = "epsilon", vae_factor: int = 4, latent_channels: int = 4,
    unet: dict[str, Any] | None = None, image_encoder: bool = False, width: int = WIDTH, family: str = "sd",
) -> Backbone:  # fmt: skip
    """Build a random backbone: UNet of two levels (32, 64), one-layer text encoders, an AutoencoderKL.

    Args:
        seed: which random weights.
        prediction_type: what the UNet predicts.
        vae_factor: pixels per latent: 2, 4 or 8.
        latent_channels: C.
        unet: settings of the UNet in place of these.
        image_encoder: whether there is a two-layer CLIP vision model on pictures of 32×32 too.
        width: D, a multiple of 16, and of the UNet's first level; its other levels grow alike.
        family: "sd", "sdxl" or "sdxl_refiner"; the text encoders of SDXL have half of D each.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    if family not in FAMILIES:
        raise InputError(f"there is no family {family!r}{nearest(family, FAMILIES)}; there are {', '.join(FAMILIES)}")
    given = FAMILIES[family]
    settings: dict[str, Any] = {
        "sample_size": 16, "in_channels": latent_channels, "out_channels": latent_channels, "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1, "cross_attention_dim": WIDTH, "attention_head_dim": 2, "norm_num_groups": 8,
    } | given.unet(width) | (unet or {})  # fmt: skip
    if width != WIDTH:
        settings["cross_attention_dim"] = width
        settings["block_out_channels"] = tuple(c * width // WIDTH for c in settings["block_out_channels"])
    net = UNet2DConditionModel(**settings)
    levels = {2: 2, 4: 3, 8: 4}[vae_factor]
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(8,) * levels, latent_channels=latent_channels, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels, layers_per_block=1,
        mid_block_add_attention=False, scaling_factor=0.5,
    )  # fmt: skip
    tower = width // len(given.towers)
    pooled = {given.towers[-1]: given.pooled(width) if given.pooled else None}
    layers = 1 if given.pooled is None else 2  # SDXL reads what enters the last one
    texts = {name: tiny_text_encoder(tower, layers, pooled.get(name)) for name in given.towers}
    for index, module in enumerate((net, vae, *texts.values())):
        # The image encoder has the number 3, whatever else there is.
        randomize(module, seed * 10 + index + (index > 2)).eval()
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction_type
    )
    extra = {"image_encoder": tiny_image_encoder(seed)} if image_encoder else {}
    tokenizers = {name.replace("text_encoder", "tokenizer"): tiny_tokenizer() for name in given.towers}
    own: dict[str, Any] = {name: texts.get(name) for name in ("text_encoder", "text_encoder_2")}
    own |= {name: tokenizers.get(name) for name in ("tokenizer", "tokenizer_2")}
    return Backbone(net, vae, scheduler=scheduler, components=extra, **own)


def tiny_text_encoder(width: int, layers: int = 1, pooled: int | None = None) -> nn.Module:
    """Build a CLIP text model of the words of `tiny_tokenizer`.

    Args:
        width: of its states.
        layers: of them, one or more.
        pooled: width of its projection; None = it has none.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tiny_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=64, num_hidden_layers=layers,
        num_attention_heads=2, max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, projection_dim=pooled or width,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if pooled else CLIPTextModel(config)


def tiny_image_encoder(seed: int = 0) -> nn.Module:
    """Build a random CLIP vision model of two layers: pictures of 32×32, patches of 8×8."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8,
        projection_dim=20,
    )  # fmt: skip
    return randomize(CLIPVisionModelWithProjection(config), seed * 10 + 3).eval()

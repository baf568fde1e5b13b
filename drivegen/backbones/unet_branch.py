"""A ControlNet branch for a UNet (Zhang 2023): a copy of its encoder, or a narrower one, behind zero convolutions."""

from __future__ import annotations

from typing import Any

from torch import nn

from drivegen.support.errors import InputError

SHARED = (
    "in_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "layers_per_block", "downsample_padding",
    "mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps", "cross_attention_dim", "attention_head_dim",
    "num_attention_heads", "use_linear_projection", "upcast_attention", "only_cross_attention", "resnet_time_scale_shift",
    "transformer_layers_per_block", "mid_block_type",
)  # fmt: skip
"""What a branch's configuration takes over from its UNet's."""

ADDED = ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim")
"""What it takes over besides from a UNet that is given vectors (SDXL)."""


def skip_channels(unet: Any) -> tuple[int, ...]:
    """Channels of the UNet's skip connections, the input's first."""
    channels = [int(unet.config.block_out_channels[0])]
    for block in unet.down_blocks:
        width = block.resnets[-1].out_channels
        channels += [width] * (len(block.resnets) + len(block.downsamplers or ()))
    return tuple(channels)


def branch_settings(unet: Any) -> dict[str, Any]:
    """Return what a branch's configuration takes over from its UNet's."""
    vectors = unet.config.get("addition_embed_type") is not None
    return {key: unet.config[key] for key in (*SHARED, *(ADDED if vectors else ())) if key in unet.config}


def zero(module: nn.Module) -> nn.Module:
    """Set a layer's parameters to zero, so that it adds nothing until it is trained."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def control_branch(unet: Any, width: float = 1.0) -> Any:
    """Build a ControlNetModel whose residuals fit the UNet and whose condition is an embedding (N, c0, h, w).

    width 1 copies the UNet's encoder; a smaller width builds a fresh one with that share of the channels.
    """
    from diffusers import ControlNetModel

    if not 0 < width <= 1:
        raise InputError(f"width {width} of a ControlNet branch is not in (0, 1]")
    groups = int(unet.config.norm_num_groups)
    channels = [max(groups, round(c * width / groups) * groups) for c in unet.config.block_out_channels]
    vectors = unet.config.get("addition_embed_type") is not None
    branch = ControlNetModel(**branch_settings(unet), block_out_channels=tuple(channels), conditioning_channels=1)
    branch.controlnet_cond_embedding = nn.Identity()
    if width == 1:
        branch.conv_in.load_state_dict(unet.conv_in.state_dict())
        for part in ("time_embedding", "down_blocks", "mid_block", *(("add_embedding",) if vectors else ())):
            getattr(branch, part).load_state_dict(getattr(unet, part).state_dict())
    else:
        outs = skip_channels(unet)
        ins = [conv.in_channels for conv in branch.controlnet_down_blocks]
        branch.controlnet_down_blocks = nn.ModuleList(
            zero(nn.Conv2d(i, o, kernel_size=1)) for i, o in zip(ins, outs, strict=True)
        )
        middle = branch.controlnet_mid_block.in_channels
        branch.controlnet_mid_block = zero(nn.Conv2d(middle, int(unet.config.block_out_channels[-1]), kernel_size=1))
    return branch

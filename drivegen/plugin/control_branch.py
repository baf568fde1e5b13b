"""What plugins with a control branch need: the branch (Zhang 2023), zero layers, and how it is run."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from drivegen.backbones.unet_branch import SHARED, control_branch, skip_channels, zero
from drivegen.plugin.signals import Context, Residuals
from drivegen.support.errors import InputError

__all__ = ["SHARED", "control_branch", "embedding_channels", "halvings", "run_branch", "skip_channels", "zero"]


def embedding_channels(branch: Any) -> int:
    """Channels of the embedding that a branch takes."""
    return int(branch.config.block_out_channels[0])


def run_branch(
    branch: Any, x: Tensor, t: Tensor, embedding: Tensor, context: Context, names: tuple[str, ...] | None
) -> Residuals:
    """Run a branch: the residuals for the UNet.

    Args:
        branch: of `control_branch`, or another ControlNetModel.
        x: noisy latents (N, C, h, w).
        t: timesteps (N,).
        embedding: its condition (N, c0, h, w).
        context: the current step.
        names: the plugins whose tokens it attends to; None = all.
    """
    added = dict(context.added) if branch.config.get("addition_embed_type") is not None else None
    with context.attend(names) as tokens:
        down, mid = branch(
            x, t, encoder_hidden_states=tokens, controlnet_cond=embedding, added_cond_kwargs=added, return_dict=False
        )
    return Residuals(tuple(down), mid)


def halvings(factor: int) -> int:
    """Number of halvings from an image to its latents; raises InputError when the VAE factor is not a power of two."""
    count = round(math.log2(factor))
    if 2**count != factor:
        raise InputError(f"VAE factor {factor} is not a power of two")
    return count

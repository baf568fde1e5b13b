"""Guidance embedding: the scale of guidance as an input of the network, which then needs no second pass."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from drivegen.plugin import Arrays, Input, Now, Plugin, Released, ReleasedFile, Signal, per_row, select_or_null
from drivegen.plugin.control_branch import zero
from drivegen.support.errors import InputError
from drivegen.support.values import number

_WEIGHT = "time_embedding.cond_proj.weight"
"""Where UNets of diffusers that were distilled with an embedding keep it."""


class GuidanceEmbedding(Plugin):
    """``time_proj(t) + proj(embed(s − 1))``: guided predictions in one pass, once it has been distilled (Meng et al. 2023;
    latent consistency models, Luo et al. 2023).

    The pipeline gives it the scale of guidance and runs no unconditional half. Null, like a fresh one, adds nothing.

    Args:
        width: of the embedding.
    """

    takes_guidance: ClassVar[bool] = True
    accepts = (Input("scale", "number", "the scale of guidance, in place of the generation's"),)

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise InputError(f"guidance_embedding: width {width} must be even, and at least 4")
        self.width = width

    @classmethod
    def read_released(cls, file: ReleasedFile) -> Released | None:
        weight = file.state.get(_WEIGHT)
        if weight is None or weight.ndim != 2:
            return None
        return Released({"width": weight.shape[1]}, {"proj.weight": weight.clone()}, {"drop": 0})

    def attach(self, backbone: Any) -> None:
        def build(site: Any) -> nn.Module:
            self.proj = zero(nn.Linear(self.width, site.width, bias=False))
            return Add()

        self.tap_sites("time_features", build)

    def prepare(self, frame: Any, user_input: Any = None) -> dict[str, np.ndarray]:
        """Give the scale; 1 is no guidance."""
        given = 1.0 if user_input is None else user_input
        return {"guidance": np.asarray(number(given, "the scale of guidance", 0, 100), dtype=np.float32)}

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        parameter = next(self.proj.parameters())
        added: Tensor = self.proj(embedded(arrays["guidance"].float() - 1, self.width).to(parameter.dtype))
        return Signal(data=select_or_null(keep, added, added.new_zeros(())))


class Add(nn.Module):
    """Adds the projected embedding to that of time."""

    def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
        """Return what is added for each row.

        Args:
            x: not read.
            y: the embedding of time (N, width).
            now: with the embedding of the scale.
        """
        return per_row(now.signal.data, now.grid).to(y.dtype)


def embedded(w: Tensor, width: int) -> Tensor:
    """Return the sinusoidal embedding (B, width) of w (B,), the scale less one, as latent consistency models have it."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=w.device)
    frequencies = torch.exp(steps * -(np.log(10000.0) / (half - 1)))
    angles = 1000.0 * w[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)

"""A layer with another weight than its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


def applied(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """Return what a linear layer or a convolution gives with another weight, and without bias.

    Args:
        layer: whose stride and padding hold.
        x: what it is given.
        weight: (out, in) or (out, in, k, k).
    """
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    made: Tensor = layer._conv_forward(x, weight, None)
    return made

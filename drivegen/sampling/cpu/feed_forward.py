"""Feed-forwards a few rows at a time, so that what lies between their two layers stays in the caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 2048
"""At one time; of a width of 320 the middle is then 10 MB in bf16, where six views of 28×50 have 43 MB."""


def by_rows(module: nn.Module, forward: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Compute a feed-forward, each row (position) of which depends on no other, in parts: the same numbers.

    Args:
        module: the feed-forward; where somebody listens to its layers, they see all rows at once.
        forward: its own.
        x: (N, L, C).
        args: of the call.
        kwargs: of the call.
    """
    plain = x.ndim == 3 and x.device.type == "cpu" and not args and not kwargs and not torch.is_grad_enabled()
    if not plain or x.shape[0] * x.shape[1] < 2 * ROWS or _heard(module):
        return forward(x, *args, **kwargs)
    parts = [forward(part) for part in x.reshape(1, -1, x.shape[-1]).split(ROWS, 1)]
    return torch.cat(parts, 1).view(*x.shape[:-1], -1)


def _heard(module: nn.Module) -> bool:
    return any(inner._forward_hooks or inner._forward_pre_hooks for inner in module.modules() if inner is not module)

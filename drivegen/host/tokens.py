"""Joining the tokens of several plugins into one cross-attention context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drivegen.plugin import Grid, Signal, per_row


@dataclass(frozen=True, eq=False)
class Tokens:
    """states (N, S, D), S >= 1, and an additive bias (N, 1, S) on attention logits, or None when nothing needs one."""

    states: Tensor
    bias: Tensor | None


def join_tokens(
    parts: Sequence[tuple[Signal, float]], grid: Grid, device: torch.device, dtype: torch.dtype, width: int
) -> Tokens:
    """Append the tokens of several signals; scale becomes log(scale) on the keys' logits, mask −∞.

    Rows that would attend to nothing get one zero token, whose key and value are zero: the sum over an empty set.

    Args:
        parts: (signal, scale) in order.
        grid: how the batch is laid out.
        device: of the result.
        dtype: of the states.
        width: D, the width of tokens.
    """
    given = [signal.tokens for signal, _ in parts if signal.tokens is not None]
    some = [(signal, scale) for signal, scale in parts if signal.tokens is not None and signal.tokens.shape[1] > 0]
    if not some:
        given = [*given, torch.zeros(grid.rows, 1, width, device=device, dtype=dtype)]
    # Tokens of length zero are joined too: a training step without boxes then has gradients for the boxes' weights, all zero.
    states = torch.cat([per_row(tokens, grid).to(dtype) for tokens in given], dim=1)
    if all(signal.mask is None and scale == 1 for signal, scale in some):
        return Tokens(states, None)
    biases = []
    for signal, scale in some:
        rows = torch.full((grid.rows, _tokens(signal).shape[1]), math.log(scale), device=device, dtype=torch.float32)
        if signal.mask is not None:
            rows = rows.masked_fill(~per_row(signal.mask, grid), -math.inf)
        biases.append(rows)
    bias = torch.cat(biases, dim=1)
    empty = torch.isinf(bias).all(dim=1, keepdim=True)
    if bool(empty.any()):
        states = torch.cat([states, states.new_zeros(grid.rows, 1, width)], dim=1)
        bias = torch.cat([bias, torch.where(empty, 0.0, -math.inf)], dim=1)
    return Tokens(states, bias[:, None])


def _tokens(signal: Signal) -> Tensor:
    assert signal.tokens is not None
    return signal.tokens

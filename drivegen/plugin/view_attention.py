"""Attention between the views of a scene: which are neighbours, and each view's queries to its neighbours' keys and values."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from drivegen.plugin.attention import attention
from drivegen.scene import Camera, ring_neighbours


def neighbour_table(cameras: tuple[Camera, ...]) -> np.ndarray:
    """Give each camera the indices of its neighbours in the ring: (V, 2), -1 = none."""
    table = np.full((len(cameras), 2), -1, dtype=np.int64)
    for i, others in enumerate(ring_neighbours(cameras)):
        table[i, : len(others)] = others
    return table


def attend_to_neighbours(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, heads: int, whole: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Sum over neighbours of attention to each: (N, heads, L, d); 0 for a view without any.

    Args:
        q: queries of every view (N, L, C).
        k: keys of every view (N, S, C), projected once however many views attend to them.
        v: values of every view (N, S, C).
        table: (B, V, K) which views each attends to, -1 = none.
        heads: of the attention.
        whole: promises that no neighbour is missing.
        mask: (N, S) bool, True = may be attended to, at least one per row; None = all.
    """
    scenes, views, _ = table.shape
    first = views * torch.arange(scenes, device=q.device)[:, None]
    present = (table >= 0).to(q.dtype)
    queries = rearrange(q, "n l (h d) -> n h l d", h=heads)
    total: Tensor | None = None
    for each, there in zip(table.clamp(min=0).unbind(2), present.unbind(2), strict=True):
        # Whole rows are gathered before heads are told apart: that is a plain copy.
        rows = (first + each).flatten()
        keys, values = (rearrange(z.index_select(0, rows), "n l (h d) -> n h l d", h=heads) for z in (k, v))
        one = attention(queries, keys, values, None if mask is None else mask.index_select(0, rows)[:, None, None])
        one = one if whole else one * there.view(-1, 1, 1, 1)
        total = one if total is None else total + one
    return torch.zeros_like(queries) if total is None else total

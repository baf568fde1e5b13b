"""Attention by the quickest kernel for where it runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 256
"""Below this length torch's fused CPU kernel costs two to six times as much as its parts, forward and backward in bf16."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of q (N, H, L, d) over k and v (N, H, S, d), without a mask: (N, H, L, d)."""
    learns = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if not learns or q.device.type != "cpu" or q.dtype != torch.bfloat16 or max(q.shape[-2], k.shape[-2]) > SHORT:
        return F.scaled_dot_product_attention(q, k, v)
    flat = [z.flatten(0, 1) for z in (q, k, v)]
    weights = torch.bmm(flat[0] * q.shape[-1] ** -0.5, flat[1].transpose(1, 2)).softmax(-1)
    return torch.bmm(weights, flat[2]).unflatten(0, q.shape[:2])

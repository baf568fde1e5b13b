"""Attention by the fastest kernel for the device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 256
"""Below this length torch's fused CPU kernel costs two to six times as much as its parts, forward and backward in bf16."""

SCORES_BYTES = 2**25
"""Scores that `attention_by_parts` computes at one time; more of them leave a processor's caches."""

LONG = 256
"""Keys from which `attention_by_parts` in bfloat16 exponentiates without a softmax; of fewer the scores are no great part."""

_LEAST, _MOST = 2.0**-60, 2.0**100
"""Between these a sum of exponentials says that none has overflown, and that none which matters has vanished."""


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention: (N, H, L, d).

    Args:
        q: queries (N, H, L, d).
        k: keys (N, H, S, d).
        v: values (N, H, S, d).
        mask: (N, 1, 1, S) bool, True = attended to, at least one per row; None = all.
    """
    learns = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if not learns or q.device.type != "cpu" or q.dtype != torch.bfloat16 or max(q.shape[-2], k.shape[-2]) > SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    flat = [z.flatten(0, 1) for z in (q, k, v)]
    scores = torch.bmm(flat[0] * q.shape[-1] ** -0.5, flat[1].transpose(1, 2))
    if mask is not None:
        scores = scores.masked_fill(~mask.expand(*q.shape[:2], 1, -1).flatten(0, 1), -torch.inf)
    return torch.bmm(scores.softmax(-1), flat[2]).unflatten(0, q.shape[:2])


def attention_by_parts(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention a few rows at a time: (N, H, L, d).

    Args:
        q: queries (N, H, L, d).
        k: keys (N, H, S, d).
        v: values (N, H, S, d).
        mask: added to the logits, broadcast to (N, H, L, S); None for none.
    """
    rows, heads, length, width = q.shape
    if mask is None and q.dtype == torch.bfloat16 and k.shape[2] >= LONG and not torch.is_grad_enabled():
        return _by_heads(q, k, v)
    size = max(1, SCORES_BYTES // (heads * length * k.shape[2] * q.element_size()))
    bias = q.new_zeros(()) if mask is None else mask.to(q.dtype).expand(rows, heads, -1, -1)
    parts = []
    for i in range(0, rows, size):
        a, b, c = (x[i : i + size].flatten(0, 1) for x in (q, k, v))
        under = bias if mask is None else bias[i : i + size].flatten(0, 1)
        scores = torch.baddbmm(under, a, b.transpose(1, 2), beta=0 if mask is None else 1, alpha=width**-0.5)
        parts.append(torch.bmm(scores.softmax(-1), c).unflatten(0, (-1, heads)))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _by_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of long bfloat16 sequences (N, H, L, d), a head for each thread at a time: its scores stay in the caches.

    A softmax goes over the scores three times. Here they are exponentiated as they are, which bfloat16's range allows, and
    their sum is one more column of values; where it says that the range was not enough, the softmax takes its place.
    """
    rows, heads, length, width = q.shape
    a, b = q.flatten(0, 1), k.flatten(0, 1)
    values = torch.cat([v, torch.ones_like(v[..., :1])], -1).flatten(0, 1)
    out, zero = q.new_empty(rows * heads, length, width), q.new_zeros(())
    together = torch.get_num_threads()
    for i in range(0, rows * heads, together):
        part = slice(i, i + together)
        keys = b[part].transpose(1, 2)
        scores = torch.baddbmm(zero, a[part], keys, beta=0, alpha=width**-0.5 / math.log(2))
        sums = torch.bmm(scores.exp2_(), values[part])
        total = sums[..., -1:]
        if bool(((total > _LEAST) & (total < _MOST)).all()):
            torch.div(sums[..., :-1], total, out=out[part])
        else:
            scores = torch.baddbmm(zero, a[part], keys, beta=0, alpha=width**-0.5)
            out[part] = torch.bmm(scores.softmax(-1), values[part][..., :-1])
    return out.unflatten(0, (rows, heads))

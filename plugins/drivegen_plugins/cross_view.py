"""Cross-view attention: each view attends to its neighbours, between cross-attention and feed-forward (MagicDrive, eq. 8)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear

from drivegen.plugin import Arrays, Now, Plugin, Signal
from drivegen.plugin.control_branch import zero
from drivegen.plugin.view_attention import attend_to_neighbours, neighbour_table
from drivegen.scene import Frame
from drivegen.support.errors import InputError

Attention = Literal["add", "concat", "self"]
Connector = Literal["zero_linear", "gated", "none"]


class CrossView(Plugin):
    """``x += connector(Σ_neighbours attn(norm x))`` in every transformer block of the network; null adds nothing.

    Neighbours come from each frame's calibration, so any rig works. attention "add" sums one attention per neighbour, "concat"
    attends to both at once, "self" to all views; connector "zero_linear", "gated" (tanh(α)·x) or "none".
    """

    accepts = ()

    def __init__(self, attention: Attention = "add", connector: Connector = "zero_linear") -> None:
        super().__init__()
        if attention not in ("add", "concat", "self") or connector not in ("zero_linear", "gated", "none"):
            raise InputError(f"cross_view: attention {attention!r} or connector {connector!r} is unknown")
        self.attention, self.connector_kind = attention, connector

    def attach(self, backbone: Any) -> None:
        self.tap_sites("between", self._layer)

    def _layer(self, site: Any) -> CrossViewLayer:
        return CrossViewLayer(site.width, site.heads, self.attention, self.connector_kind)

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        if self.attention == "self":  # to all views
            return {"neighbours": np.zeros((len(frame.cameras), 0), dtype=np.int64)}
        return {"neighbours": neighbour_table(frame.cameras)}

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        neighbours = arrays["neighbours"]
        return Signal(data=Neighbours(neighbours, bool((neighbours >= 0).all()), None if bool(keep.all()) else keep))


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Which views attend to which: table (B, V, K), -1 = none; whether none is missing; keep (B,), None = all."""

    table: Tensor
    whole: bool
    keep: Tensor | None
    outputs: dict[nn.Module, Output] = field(default_factory=dict)
    """What layers have made of their weights: it is the same at every step."""


class Output(NamedTuple):
    """Output projection and connector in one: ``x ↦ weight·x + each·count + rest``, count the neighbours that were summed."""

    weight: Tensor
    each: Tensor
    rest: Tensor | None


class GatedConnector(nn.Module):
    """``tanh(α) · x`` with one α per channel, zero at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., C)."""
        return self.alpha.tanh() * x


class _Projections(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])


class CrossViewLayer(nn.Module):
    """The term of one transformer block; keys and values of a view are projected once, however many views attend to it.

    Args:
        width: C, channels of the stream.
        heads: of the attention.
        attention: "add", "concat" or "self", as in `CrossView`.
        connector: "zero_linear", "gated" or "none".
    """

    def __init__(self, width: int, heads: int, attention: Attention, connector: Connector) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.norm4 = nn.LayerNorm(width)
        self.attn4 = _Projections(width)
        self.connector: nn.Module = {
            "zero_linear": lambda: zero(nn.Linear(width, width)),
            "gated": lambda: GatedConnector(width),
            "none": nn.Identity,
        }[connector]()

    def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
        """Return the term (N, L, C) for the stream after cross-attention.

        Args:
            x: the stream (N, L, C).
            y: the cross-attention's part of it (N, L, C).
            now: the current step.
        """
        seen: Neighbours = now.signal.data
        stream = self.norm4(x)
        mixed, count = self._mixed(stream, seen.table, seen.whole)
        if torch.is_grad_enabled():
            term = self.connector(self._projected(mixed, count))
        else:
            weight, each, rest = seen.outputs.get(self) or seen.outputs.setdefault(self, self._output())
            bias = each * count if rest is None else each * count + rest
            term = linear(mixed, weight, bias) if bias.ndim == 1 else linear(mixed, weight) + bias
        if seen.keep is not None:
            term = torch.where(seen.keep.view(-1, 1, 1, 1), term, 0.0)
        return rearrange(term, "b v l c -> (b v) l c")

    def attend(self, stream: Tensor, neighbours: Tensor) -> Tensor:
        """Let each view of a normalised stream (N, L, C) attend to its neighbours (B, V, K), -1 = none: (B, V, L, C)."""
        return self._projected(*self._mixed(stream, neighbours, False))

    def _projected(self, mixed: Tensor, count: Tensor | int) -> Tensor:
        # One output projection for the sum over neighbours: its bias counts once for each of them.
        out: Any = self.attn4.to_out[0]
        return linear(mixed, out.weight) + count * out.bias

    def _output(self) -> Output:
        """Merge connector and output projection: one product per token instead of two."""
        out: Any = self.attn4.to_out[0]
        connector: Any = self.connector
        if isinstance(connector, nn.Linear):
            return Output(connector.weight @ out.weight, connector.weight @ out.bias, connector.bias)
        return Output(connector(out.weight.T).T, connector(out.bias), None)

    def _mixed(self, stream: Tensor, neighbours: Tensor, whole: bool) -> tuple[Tensor, Tensor | int]:
        """Attention before its output projection (B, V, L, C), and how often its bias counts: (B, V, 1, 1), or a number."""
        q, k, v = (f(stream) for f in (self.attn4.to_q, self.attn4.to_k, self.attn4.to_v))
        how = self._add if self.attention == "add" else self._mix
        mixed, count = how(q, k, v, neighbours, whole)
        return rearrange(mixed, "b v h l d -> b v l (h d)"), count

    def _add(self, q: Tensor, k: Tensor, v: Tensor, neighbours: Tensor, whole: bool) -> tuple[Tensor, Tensor | int]:
        """Sum over neighbours of attention to each (B, V, H, L, d)."""
        total = attend_to_neighbours(q, k, v, neighbours, self.heads, whole)
        count = neighbours.shape[2] if whole else (neighbours >= 0).to(q.dtype).sum(2)[..., None, None]
        return total.unflatten(0, neighbours.shape[:2]), count

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, neighbours: Tensor, whole: bool) -> tuple[Tensor, Tensor | int]:
        """Attention to all that are seen at once (B, V, H, L, d)."""
        views = neighbours.shape[1]
        q, k, v = (rearrange(z, "(b v) l (h d) -> b v h l d", v=views, h=self.heads) for z in (q, k, v))
        if self.attention == "self":
            q, k, v = (rearrange(z, "b v h l d -> b h (v l) d") for z in (q, k, v))
            out = nn.functional.scaled_dot_product_attention(q, k, v)
            return rearrange(out, "b h (v l) d -> b v h l d", v=views), 1
        present = neighbours >= 0
        index = neighbours.clamp(min=0)
        scenes = torch.arange(q.shape[0], device=q.device)[:, None, None]
        k, v = (rearrange(z[scenes, index], "b v n h l d -> b v h (n l) d") for z in (k, v))
        if whole:
            return nn.functional.scaled_dot_product_attention(q, k, v), 1
        some = present.any(2)
        # A view without neighbours attends to anything and is set to zero after.
        mask = (present | ~some[..., None]).repeat_interleave(q.shape[-2], dim=2)[:, :, None, None]
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        weights = some[..., None, None, None].to(q.dtype)
        return out * weights, weights[..., 0]

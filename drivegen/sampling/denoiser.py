"""A host and a batch as a denoiser that computes whatever is constant over the steps once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from drivegen.data import Batch
from drivegen.host import Conditions, Host
from drivegen.plugin import Signal

MAX_CONTEXTS = 16
"""Contexts (combinations of known and null plugins) whose projections are kept at one time."""


class HostDenoiser:
    """``denoise(x, t, known={})`` of a host for one batch.

    scales by plugin name (0 = absent); `without` names plugins that are null throughout. Each (plugin, known) pair is encoded
    once, tokens are joined once a combination; `progress` is the fraction of steps done, set by whoever runs the loop.
    """

    def __init__(
        self, host: Host, batch: Batch, scales: Mapping[str, float] | None = None, without: Iterable[str] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.host, self.batch, self.dtype = host, batch, dtype
        self.scales, self.without = dict(scales or {}), frozenset(without)
        for name in (*self.scales, *self.without):
            host.plugin(name)
        self.progress = 0.0
        self._signals: dict[tuple[str, bool], Signal] = {}
        self._conditions: dict[frozenset[str], Conditions] = {}

    def __call__(self, x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
        """Predict from x (N, C, h, w), whose dtype the prediction gets back; known maps a plugin to False for null."""
        for name in known or {}:
            self.host.plugin(name)
        nulls = self.without | {name for name, value in (known or {}).items() if not value}
        with self._autocast():
            out = self.host(x.to(self.dtype), t, self._conditions_for(nulls), self.progress)
        return out.to(x.dtype)

    def _conditions_for(self, nulls: frozenset[str]) -> Conditions:
        if nulls not in self._conditions:
            signals = {name: self._signal(name, name not in nulls) for name in self.host.plugins}
            self._conditions[nulls] = Conditions(self.batch.grid, signals, self.scales)
        return self._conditions[nulls]

    def _signal(self, name: str, known: bool) -> Signal:
        if self.scales.get(name, 1.0) == 0:
            return Signal()  # absent: nothing of it is used, so nothing is computed
        if (name, known) not in self._signals:
            self._signals[name, known] = self.host.encode_one(name, self.batch.arrays[name], self.batch.grid, known)
        return self._signals[name, known]

    def _autocast(self) -> torch.autocast:
        device = next(self.host.backbone.unet.parameters()).device
        return torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


@contextmanager
def remembered_projections(host: Host) -> Iterator[None]:
    """Compute the keys and values of every cross-attention once for each context instead of once a step.

    Only the projection itself is remembered: hooks on it (a tap, say) still run at each step.
    """
    from diffusers.models.attention_processor import Attention

    networks: list[Any] = [host.backbone.unet, *(n for name in host.plugins for n in host.plugin(name).networks)]
    attentions = [m for network in networks for m in network.modules() if isinstance(m, Attention) and m.is_cross_attention]
    changed = [m for a in attentions for m in (a.to_k, a.to_v) if "forward" not in vars(m)]
    try:
        for module in changed:
            module.forward = _remember(module.forward)
        yield
    finally:
        for module in changed:
            vars(module).pop("forward", None)


def _remember(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def remembering(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # The context of a combination is one tensor object for the whole generation, and keeping it here keeps its id.
        found = seen.get(id(x))
        if found is None or torch.is_grad_enabled():
            found = (x, forward(x, *args, **kwargs))
            if len(seen) >= MAX_CONTEXTS:
                seen.clear()  # contexts that change at every step: nothing to remember
            seen[id(x)] = found
        return found[1]

    return remembering

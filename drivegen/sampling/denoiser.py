"""A host and a batch as a denoiser that computes whatever is constant over the steps once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from drivegen.host.batch import Batch
from drivegen.host.confined import Reach, check_confined
from drivegen.host.evaluation import Conditions
from drivegen.host.host import Host
from drivegen.host.regions import Region
from drivegen.plugin import Signal
from drivegen.sampling.temporary import temporary_forward
from drivegen.support.errors import InputError
from drivegen.support.values import fractions

MAX_CONTEXTS = 16
"""Contexts (combinations of known and null plugins) whose projections are kept at one time."""


class HostDenoiser:
    """``denoise(x, t, known={})`` of a host for one batch.

    Each (plugin, known) pair is encoded once, tokens are joined once per combination. The sampling loop sets which `step` of
    how many `steps` is next.

    Args:
        host: networks and plugins.
        batch: arrays of the frames.
        scales: by plugin name, 0 = absent; None leaves all at 1.
        without: plugins that are null throughout.
        dtype: of the computation.
        ranges: by name of a plugin or tuner, the (start, end) fractions of the steps outside of which it is absent; None for
            none.
        regions: by name of a plugin or tuner, the part of the picture in which it acts; None for none.
    """

    def __init__(
        self, host: Host, batch: Batch, scales: Mapping[str, float] | None = None, without: Iterable[str] = (),
        dtype: torch.dtype = torch.float32, ranges: Mapping[str, tuple[float, float]] | None = None,
        regions: Mapping[str, Region] | None = None,
    ) -> None:  # fmt: skip
        self.host, self.batch, self.dtype = host, batch, dtype
        self.scales, self.without = dict(scales or {}), frozenset(without)
        self.ranges = dict(ranges or {})
        self.regions = {name: region for name, region in (regions or {}).items() if name not in host.tuners}
        found = {name: Reach.of(host.tuner(name)) for name in (*self.ranges, *(regions or {})) if name in host.tuners}
        self.tuner_regions = {name: region for name, region in (regions or {}).items() if name in found}
        self._nowhere = frozenset(name for name, region in self.tuner_regions.items() if not bool(region.mask.any()))
        self._readers = frozenset(name for name, reach in found.items() if reach.reads)
        for name in (*self.scales, *self.without, *(name for name in self.ranges if name not in found), *self.regions):
            host.plugin(name)
        for name, ends in self.ranges.items():
            fractions(ends, f"range of {name!r}")
        for name in self.regions:
            check_region(host, name)
        for name, reach in found.items():
            check_confined(host.backbone.unet, name, reach, name in self.tuner_regions)
        self.step, self.steps = 0, 1
        self.conditions: Conditions | None = None
        """Those of the last prediction: one object for each combination of known and null plugins."""
        self._signals: dict[tuple[str, bool, frozenset[str]], Signal] = {}
        self._conditions: dict[tuple[frozenset[str], frozenset[str]], Conditions] = {}

    @property
    def progress(self) -> float:
        """The fraction of steps done."""
        return self.step / self.steps

    def within(self, start: float, end: float) -> bool:
        """Tell whether this step lies between two fractions of the steps, by the rule of diffusers' control_guidance_start."""
        return self.step / self.steps >= start and (self.step + 1) / self.steps <= end

    def __call__(self, x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
        """Predict from x (N, C, h, w), whose dtype the prediction gets back; known maps a plugin to False for null."""
        for name in known or {}:
            self.host.plugin(name)
        absent = self._absent()
        nulls = (self.without | {name for name, value in (known or {}).items() if not value}) - absent
        with self._autocast():
            self.conditions = self._conditions_for(nulls, absent)
            out = self.host(x.to(self.dtype), t, self.conditions, self.progress)
        return out.to(x.dtype)

    def _absent(self) -> frozenset[str]:
        """Name the plugins and tuners that are not there at this step."""
        late = {name for name, ends in self.ranges.items() if not self.within(*ends)}
        return frozenset(late | {name for name, scale in self.scales.items() if scale == 0}) | self._nowhere

    def _conditions_for(self, nulls: frozenset[str], absent: frozenset[str]) -> Conditions:
        if (nulls, absent) not in self._conditions:
            # Nothing is used of what is absent, so nothing of it is computed.
            scales = {**self.scales, **{name: 0.0 for name in absent if name in self.host.plugins}}
            regions = {name: region for name, region in self.tuner_regions.items() if name not in absent}
            unread = self._readers & (absent | regions.keys())

            def read(unread: frozenset[str]) -> dict[str, Signal]:
                here = self.host.plugins
                return {n: Signal() if n in absent else self._signal(n, n not in nulls, unread) for n in here}

            read_with = {
                name: Conditions(self.batch.grid, read(unread - {name}), scales) for name in regions if name in self._readers
            }
            self._conditions[nulls, absent] = Conditions(
                self.batch.grid, read(unread), scales, self.regions, absent & self.host.tuners.keys(), regions, read_with
            )
        return self._conditions[nulls, absent]

    @torch.no_grad()  # a gradient with respect to x, where one is wanted, does not reach what is constant over the steps
    def _signal(self, name: str, known: bool, unread: frozenset[str]) -> Signal:
        unread = unread if self.host.plugin(name).takes_prompt else frozenset()
        if (name, known, unread) not in self._signals:
            with self.host.runtime.reading_without(unread):
                found = self.host.encode_one(name, self.batch.arrays[name], self.batch.grid, known)
            self._signals[name, known, unread] = found
        return self._signals[name, known, unread]

    def _autocast(self) -> torch.autocast:
        device = next(self.host.backbone.unet.parameters()).device
        return torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def check_region(host: Host, name: str) -> None:
    """Raise InputError where a plugin adds nothing that a region of the picture could hold."""
    if not host.plugin(name).sites and "residuals" not in host.plugin(name).overridden():
        raise InputError(f"a region is given for {name!r}, which adds nothing that has a place in the picture")


@contextmanager
def remembered_projections(host: Host) -> Iterator[None]:
    """Compute the keys and values of every cross-attention once per context instead of once per step.

    Only the projection itself is remembered: hooks on it (a tap, say) still run at each step.
    """
    from diffusers.models.attention_processor import Attention

    networks: list[Any] = [host.backbone.unet, *(n for name in host.plugins for n in host.plugin(name).networks)]
    attentions = [m for network in networks for m in network.modules() if isinstance(m, Attention) and m.is_cross_attention]
    with temporary_forward([m for a in attentions for m in (a.to_k, a.to_v)], lambda module: _remember(module.forward)):
        yield


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

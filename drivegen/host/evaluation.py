"""One evaluation of the network: what hooks see of it, and the hooks through which taps, masks and scales act."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from drivegen.host import boundary
from drivegen.host.regions import Region
from drivegen.host.tokens import Tokens, join_tokens
from drivegen.plugin import Grid, Now, Plugin, Signal
from drivegen.support.errors import InputError, nearest


@dataclass(frozen=True, eq=False)
class Conditions:
    """A batch's signals by instance name, in config order, with the scale of each; scale 0 = the plugin is absent.

    A plugin with a region acts in that part of the picture only; tokens have no place, so a plugin that appends some has no
    region.
    """

    grid: Grid
    signals: Mapping[str, Signal]
    scales: Mapping[str, float] = field(default_factory=dict)
    regions: Mapping[str, Region] = field(default_factory=dict)
    tuners_absent: frozenset[str] = frozenset()
    """Names of the tuners that are not there."""
    tuner_regions: Mapping[str, Region] = field(default_factory=dict)
    """By tuner name, the part of the picture that it changes."""
    read_with: Mapping[str, Conditions] = field(default_factory=dict)
    """By name of a tuner with a region that changes how prompts are read, the conditions as they are read with it."""
    joined: dict[tuple[str, ...] | None, Tokens] = field(default_factory=dict)
    """Tokens that have been joined already, by the names asked for: they are the same at every step."""

    def __post_init__(self) -> None:
        for name in self.regions:
            if name in self.signals and self.signals[name].tokens is not None:
                raise InputError(f"{name!r} appends tokens, which a region of the picture does not hold; use its scale")

    def scale(self, name: str) -> float:
        """Scale of a plugin; 1 is as trained."""
        return self.scales.get(name, 1.0)

    def present(self) -> list[str]:
        """Names of the plugins that are not absent."""
        return [name for name in self.signals if self.scale(name) != 0]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that hooks read during one evaluation of the UNet; frozen, so that a recomputation can restore it."""

    conditions: Conditions
    t: Tensor
    progress: float
    latent_size: tuple[int, int]
    bias: Tensor | None = None
    attended: Tensor | None = None
    """The tokens that a branch was given, while it runs."""
    scratch: dict[str, dict[str, Any]] = field(default_factory=dict)
    read_with: Mapping[str, Tensor] = field(default_factory=dict)
    """By tuner name, the tokens as they are read with it."""
    streams: dict[str, Tensor] = field(default_factory=dict)
    """The stream of the present transformer block, by the name of the module that reads it."""


class Runtime:
    """The current evaluation of the UNet; shared by every hook of one host."""

    def __init__(self) -> None:
        self.evaluation: Evaluation | None = None
        self.unread: frozenset[str] = frozenset()
        """Names of the tuners without which prompts are read at present."""
        self.confined: str | None = None
        """The tuner whose changes without places act at present, where tuners have regions."""

    def __getstate__(self) -> dict[str, Any]:
        return {"evaluation": None, "unread": frozenset(), "confined": None}

    @contextmanager
    def reading_without(self, names: frozenset[str]) -> Iterator[None]:
        """Read prompts without what some tuners change, within the block."""
        before, self.unread = self.unread, names
        try:
            yield
        finally:
            self.unread = before

    @contextmanager
    def during(self, evaluation: Evaluation | None) -> Iterator[None]:
        """Make an evaluation the present one."""
        before, self.evaluation = self.evaluation, evaluation
        try:
            yield
        finally:
            self.evaluation = before

    def checkpoint(self, module: nn.Module, *args: Any) -> Any:
        """Checkpoint a block so that its recomputation sees what its forward saw, even under another later evaluation."""
        return checkpoint(module.__call__, *args, use_reentrant=False, context_fn=self._restoring)

    def _restoring(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self.during(self.evaluation)


class Tap:
    """Forward hook that adds ``scale · layer(x, y, now)`` at one site; an object, so that copies of a host copy it.

    Args:
        runtime: of the host.
        name: the plugin's instance name.
        plugin: the plugin.
        site: name of the module that is tapped.
        layer: what the plugin built for it.
        stream: name of the module whose input the output is added to, so that the layer is given their sum; None for none.
    """

    def __init__(
        self, runtime: Runtime, name: str, plugin: Plugin, site: str, layer: nn.Module, stream: str | None = None
    ) -> None:
        self.runtime, self.name, self.plugin, self.site, self.layer = runtime, name, plugin, site, layer
        self.stream = stream

    def __call__(self, site: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        now = self.runtime.evaluation
        if now is None or self.name not in now.conditions.signals:
            return None
        scale = now.conditions.scale(self.name)
        if scale == 0:
            return None
        x = args[0] if args else next(iter(kwargs.values()))
        y = output if isinstance(output, Tensor) else output[0]
        if self.stream is not None:
            x = now.streams[self.stream] + y
        view = Now(
            now.conditions.grid, now.t, now.progress, now.latent_size, now.conditions.signals[self.name], site,
            now.scratch.setdefault(self.name, {}),
        )  # fmt: skip
        with boundary.calling(self.name, self.plugin, f"tap at {self.site!r}"):
            term = self.layer(x, y, view)
        if term is None:
            return None
        boundary.check_tap(self.name, self.plugin, self.site, term, y)
        term = term if scale == 1 else scale * term
        region = now.conditions.regions.get(self.name)
        if region is not None:
            term = region.on(term, y, now.latent_size)
        return with_first(output, y + term)


def with_first(output: Any, y: Tensor) -> Any:
    """Replace the first tensor of a module's output, a tensor, tuple or output object, by y."""
    if isinstance(output, Tensor):
        return y
    if isinstance(output, tuple):
        return (y, *output[1:])
    return type(output)(**{**output, next(iter(output)): y})


class Stream:
    """Pre-hook that keeps what enters a module, for the taps after it; the last one alone, so that memory does not grow."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self.runtime, self.name = runtime, name

    def __call__(self, site: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        now = self.runtime.evaluation
        if now is not None:
            now.streams.clear()
            now.streams[self.name] = args[0] if args else next(iter(kwargs.values()))


class Bias:
    """Pre-hook that hands the context's mask and scales to one cross-attention as an additive bias on its logits."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def __call__(self, site: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        now = self.runtime.evaluation
        states = kwargs.get("encoder_hidden_states")
        if now is None or now.bias is None or states is None:
            return None
        return args, {**kwargs, "attention_mask": now.bias.to(states.dtype)}


class Unnamed:
    """Pre-hook on a plugin's cross-attention that mask and scales do not reach: refuses the context's tokens.

    Args:
        runtime: of the host.
        name: the plugin's instance name.
        path: name of the cross-attention within the plugin.
    """

    def __init__(self, runtime: Runtime, name: str, path: str) -> None:
        self.runtime, self.name, self.path = runtime, name, path

    def __call__(self, site: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        now = self.runtime.evaluation
        states = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
        if now is not None and now.attended is not None and states is now.attended:
            raise InputError(
                f"plugin {self.name!r}: {self.path} is given the tokens of context.attend(), and is in no network named in "
                "attach: mask and scales would not reach it; call self.attends(network) there"
            )


class LacksPlugin(InputError):
    """A branch attends to a plugin that the model does not have; name is that plugin's."""

    def __init__(self, name: str, there: Iterable[str]) -> None:
        super().__init__(f"a branch attends to the plugin {name!r}, which is not in this model{nearest(name, there)}")
        self.name = name


class StepContext:
    """The `plugin.Context` of one evaluation.

    Args:
        runtime: of the host.
        evaluation: the current one.
        dtype: of the tokens.
        width: D, the width of tokens.
    """

    def __init__(self, runtime: Runtime, evaluation: Evaluation, dtype: torch.dtype, width: int) -> None:
        self.grid, self.progress = evaluation.conditions.grid, evaluation.progress
        self._runtime, self._evaluation, self._dtype, self._width = runtime, evaluation, dtype, width
        self.added: Mapping[str, Tensor] = {}
        self.caller: Plugin | None = None
        """The plugin whose `residuals` runs."""

    def join(self, names: tuple[str, ...] | None) -> Tokens:
        """Join the tokens of the present plugins (or of the named ones) in config order."""
        conditions = self._evaluation.conditions
        if names not in conditions.joined:
            for name in names or ():
                if name not in conditions.signals:
                    raise LacksPlugin(name, conditions.signals)
            chosen = [n for n in conditions.present() if names is None or n in names]
            parts = [(conditions.signals[n], conditions.scale(n)) for n in chosen]
            conditions.joined[names] = join_tokens(parts, self.grid, self._evaluation.t.device, self._dtype, self._width)
        return conditions.joined[names]

    @contextmanager
    def attend(self, names: tuple[str, ...] | None = None) -> Iterator[Tensor]:
        """See `plugin.Context.attend`."""
        if self.caller is not None and not self.caller.networks:
            raise InputError(
                f"{type(self.caller).__name__} calls context.attend() in residuals, and attach named no network with "
                "self.attends(network): mask and scales of the tokens would not reach it"
            )
        tokens = self.join(names)
        with self._runtime.during(replace(self._evaluation, bias=tokens.bias, attended=tokens.states)):
            yield tokens.states

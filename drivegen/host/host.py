"""The host: a network, a list of named plugins, and the places where plugins add to it; tuners, which change its layers.

No plugin and no tuner is known by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.host import boundary
from drivegen.host.added import added_vectors
from drivegen.host.attaching import attach
from drivegen.host.confined import Mixed
from drivegen.host.evaluation import Bias, Conditions, Evaluation, Runtime, StepContext, Stream, Tap, Unnamed
from drivegen.host.regions import Region
from drivegen.host.skip_shapes import SkipShapes, skip_shapes
from drivegen.host.tuned import Before, Changed, put_in
from drivegen.plugin import Arrays, Denoiser, Grid, Plugin, Residuals, Signal, ToX0
from drivegen.plugin.tuner import Tuner
from drivegen.plugin.unknown import known_and_kept, unmarked
from drivegen.support.errors import InputError, nearest
from drivegen.support.names import check_name

_HOOKS = (Tap, Stream, Bias, Unnamed, Changed, Before, Mixed)


class Host(nn.Module):
    """A backbone, named plugins and named tuners: ``host(x, t, conditions)`` predicts noise (or v).

    plugins are attached in the order given, which is the order of their tokens. The backbone is frozen unless told otherwise.
    """

    def __init__(self, backbone: Backbone, plugins: Mapping[str, Plugin] | None = None) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.tuners = nn.ModuleDict()
        self.plugins = nn.ModuleDict()
        self.runtime = Runtime()
        self._shapes: dict[tuple[int, int], SkipShapes] = {}
        try:
            for name, plugin in (plugins or {}).items():
                self.add_plugin(name, plugin)
        except BaseException:
            for name in list(self.plugins):  # so that another host may have them
                self.remove_plugin(name)
            raise
        self._hook()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Hook ids are unique in one process only: a copy or an unpickled host gets hooks of its own.
        super().__setstate__(state)
        self._hook()

    def add_plugin(self, name: str, plugin: Plugin) -> None:
        """Attach a plugin under an instance name.

        A plugin that was removed keeps its weights. Raises InputError when the name is taken or invalid, when the instance is
        in a host already, and for mistakes in its class (`host.attaching`).
        """
        check_name(name)
        if name in self.plugins:
            raise InputError(f"there is a plugin named {name!r} already; give this one another name")
        boundary.check_plugin(name, plugin)
        if plugin.__dict__.get("_hosted"):
            here = next((n for n in self.plugins if self.plugins[n] is plugin), None)
            where = f"is in this model as {here!r}" if here else "is in another model"
            raise InputError(
                f"plugin {name!r}: this instance of {type(plugin).__name__} {where} already; make another instance"
            )
        self._unhook()  # a plugin may copy layers of the UNet, and is to have them without what changes them
        try:
            attach(name, plugin, self.backbone)
            self.plugins[name] = plugin
            plugin.__dict__["_hosted"] = True
        finally:
            self._hook()

    def remove_plugin(self, name: str) -> Plugin:
        """Detach a plugin and leave the host as it was before; returns the plugin, which keeps its weights."""
        plugin = self.plugin(name)
        self._unhook()
        del self.plugins[name]
        plugin.__dict__["_hosted"] = False
        self._hook()
        return plugin

    def add_tuner(self, name: str, tuner: Tuner) -> None:
        """Attach a tuner under an instance name: it changes layers of the networks, which stay what they are.

        A tuner that was taken out keeps its numbers. Raises InputError where the name is taken or invalid, and where the tuner
        does not fit the networks; then nothing has changed.
        """
        check_name(name, "tuner")
        if name in self.tuners:
            raise InputError(f"there is a tuner named {name!r} already; give this one another name")
        if not isinstance(tuner, Tuner):
            raise InputError(f"tuner {name!r} is a {type(tuner).__name__}; a drivegen.plugin.tuner.Tuner is expected")
        if tuner.__dict__.get("_hosted"):
            raise InputError(f"tuner {name!r}: this {type(tuner).__name__} is in a model already; make another instance")
        tuner.bind(self.backbone)
        table = self.backbone.words.table
        for word in tuner.words:
            if word in table:
                raise InputError(f"there is a word {word!r} already; take that out, or choose another word for this tuner")
        for word, count in tuner.words.items():
            table.add(word, count)
        self.tuners[name] = tuner
        tuner.__dict__["_hosted"] = True
        self._hook()

    def remove_tuner(self, name: str) -> Tuner:
        """Take a tuner out, and leave the host as it was before; returns the tuner, which keeps its numbers."""
        tuner = self.tuner(name)
        self._unhook()
        del self.tuners[name]
        for word in tuner.words:
            self.backbone.words.table.remove(word)
        tuner.__dict__["_hosted"] = False
        self._hook()
        return tuner

    def tuner(self, name: str) -> Tuner:
        """Return a tuner by its instance name."""
        if name not in self.tuners:
            names = ", ".join(self.tuners) or "none"
            raise InputError(f"there is no tuner {name!r} in this model; it has {names}{nearest(name, self.tuners)}")
        found: Any = self.tuners[name]
        return found

    @contextmanager
    def without_tuners(self) -> Iterator[None]:
        """Take all tuners out within the block; they are back, in their order, after it."""
        out = {name: self.remove_tuner(name) for name in list(self.tuners)}
        try:
            yield
        finally:
            for name, tuner in out.items():
                self.add_tuner(name, tuner)

    def rehook(self) -> None:
        """Register taps and token biases again after modules of the networks were replaced by others."""
        self._hook()

    def _hook(self) -> None:
        """Put changes, taps and token biases in place: the only way in which anything reaches the inside of a network."""
        from diffusers.models.attention_processor import Attention

        self._unhook()
        prompts = tuple(name for name in self.plugins if self.plugin(name).takes_prompt)
        put_in(self.backbone, {name: self.tuner(name) for name in self.tuners}, self.runtime, prompts)
        networks: list[nn.Module] = [self.backbone.unet]
        kept: set[str] = set()
        for name in self.plugins:
            plugin = self.plugin(name)
            networks += plugin.networks
            for site, key in plugin.sites:
                stream = plugin.streams.get(key)
                if stream is not None and stream not in kept:
                    kept.add(stream)
                    keep = Stream(self.runtime, stream)
                    self.backbone.unet.get_submodule(stream).register_forward_pre_hook(keep, with_kwargs=True)
                tap = Tap(self.runtime, name, plugin, site, plugin.taps[key], stream)
                self.backbone.unet.get_submodule(site).register_forward_hook(tap, with_kwargs=True)
        reached = set()
        for network in networks:
            for module in network.modules():
                if isinstance(module, Attention):
                    module.register_forward_pre_hook(Bias(self.runtime), with_kwargs=True)
                    reached.add(module)
        for name in self.plugins:
            for path, module in self.plugin(name).named_modules():
                if isinstance(module, Attention) and module not in reached:
                    module.register_forward_pre_hook(Unnamed(self.runtime, name, path), with_kwargs=True)

    def _unhook(self) -> None:
        for module in self.modules():
            for hooks, with_kwargs in (
                (module._forward_hooks, module._forward_hooks_with_kwargs),
                (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
            ):
                for key in [key for key, hook in hooks.items() if isinstance(hook, _HOOKS)]:
                    del hooks[key]
                    with_kwargs.pop(key, None)

    def enable_gradient_checkpointing(self) -> None:
        """Trade time for memory in the UNet and in the plugins' branches; gradients stay exact."""
        for network in (self.backbone.unet, *(n for p in self.plugins for n in self.plugin(p).networks)):
            if hasattr(network, "enable_gradient_checkpointing"):
                network.enable_gradient_checkpointing(self.runtime.checkpoint)

    def plugin(self, name: str) -> Plugin:
        """Return a plugin by its instance name."""
        if name not in self.plugins:
            names = ", ".join(self.plugins) or "none"
            raise InputError(f"there is no plugin {name!r} in this model; it has {names}{nearest(name, self.plugins)}")
        found: Any = self.plugins[name]
        return found

    def encode(
        self, arrays: Mapping[str, Arrays], grid: Grid, keep: Mapping[str, Tensor | bool] | None = None,
        scales: Mapping[str, float] | None = None,
    ) -> Conditions:  # fmt: skip
        """Encode every plugin's arrays once per batch.

        Args:
            arrays: each plugin's arrays (B, …), by instance name.
            grid: how the batch is laid out.
            keep: (B,) bools or one bool per plugin, False = null; missing = kept.
            scales: scale per plugin; missing = 1.
        """
        for name in {**(keep or {}), **(scales or {})}:
            self.plugin(name)
        signals = {name: self.encode_one(name, arrays[name], grid, (keep or {}).get(name, True)) for name in self.plugins}
        return Conditions(grid, signals, dict(scales or {}))

    def encode_one(self, name: str, arrays: Arrays, grid: Grid, keep: Tensor | bool = True) -> Signal:
        """Encode one plugin's arrays; a frame that is unknown to it (`plugin.Unknown`) is null whatever keep says.

        Args:
            name: the plugin's instance name.
            arrays: its arrays (B, …).
            grid: how the batch is laid out.
            keep: (B,) bools or one for all; False = null.
        """
        if isinstance(keep, bool):
            device = next(self.backbone.unet.parameters()).device
            keep = torch.full((grid.scenes * grid.frames,), keep, device=device)
        keep = known_and_kept(arrays, keep)
        family = self.backbone.family
        return boundary.encode(name, self.plugin(name), unmarked(arrays), keep, grid, family.token_width, family.added)

    def guide(self, name: str, denoise: Denoiser, to_x0: ToX0) -> Denoiser:
        """Let a plugin wrap the denoiser for one generation; returns `denoise` itself where it does not.

        Args:
            name: the plugin's instance name.
            denoise: the denoiser.
            to_x0: gives the clean latents of its predictions.
        """
        return boundary.guide(name, self.plugin(name), denoise, to_x0)

    def skip_shapes(self, size: tuple[int, int]) -> SkipShapes:
        """Return the shapes of what can be added to the UNet, for latents of a size (h, w)."""
        if size not in self._shapes:
            self._shapes[size] = skip_shapes(self.backbone.unet, size)
        return self._shapes[size]

    def forward(self, x: Tensor, t: Tensor, conditions: Conditions, progress: float = 0.0) -> Tensor:
        """Predict noise, v or clean latents (N, C, h, w).

        Args:
            x: noisy latents (N, C, h, w).
            t: timesteps (N,) or ().
            conditions: of `encode`.
            progress: the fraction of steps done.
        """
        family = self.backbone.family
        t = t.expand(x.shape[0]) if t.ndim == 0 else t
        if x.shape[0] != conditions.grid.rows:
            raise InputError(f"{x.shape[0]} rows of latents do not fit the grid {conditions.grid}")
        evaluation = Evaluation(conditions, t, progress, (x.shape[-2], x.shape[-1]))
        context = StepContext(self.runtime, evaluation, x.dtype, family.token_width)
        context.added = added_vectors(family, conditions, x, self.backbone.vae_factor)
        total = self._residuals(x, t, context, conditions)
        tokens = context.join(None)
        others = {name: replace(evaluation, conditions=one) for name, one in conditions.read_with.items()}
        read = {
            name: StepContext(self.runtime, one, x.dtype, family.token_width).join(None).states for name, one in others.items()
        }
        with self.runtime.during(replace(evaluation, bias=tokens.bias, read_with=read)):
            return family.predict(x, t, tokens.states, total, context.added)

    def _residuals(self, x: Tensor, t: Tensor, context: StepContext, conditions: Conditions) -> Residuals:
        down: tuple[Tensor, ...] | None = None
        mid: Tensor | None = None
        intrablock: tuple[Tensor, ...] | None = None
        for name in conditions.present():
            plugin, signal = self.plugin(name), conditions.signals[name]
            context.caller = plugin
            term = boundary.residuals(name, plugin, x, t, context, signal, lambda: self.skip_shapes((x.shape[-2], x.shape[-1])))
            if term is None:
                continue
            scale, region = conditions.scale(name), conditions.regions.get(name)
            down = _sum(down, _scaled(term.down, scale, region))
            intrablock = _sum(intrablock, _scaled(term.intrablock, scale, region))
            total = _sum(None if mid is None else (mid,), _scaled(None if term.mid is None else (term.mid,), scale, region))
            mid = None if total is None else total[0]
        # diffusers wants both or none: one alone is ignored, or taken for the old T2I-Adapter place.
        if (down is None) != (mid is None):
            zero = torch.zeros((), device=x.device, dtype=x.dtype)
            down = (zero,) * len(self.backbone.family.skip_channels) if down is None else down
            mid = zero if mid is None else mid
        return Residuals(down, mid, intrablock)


def _scaled(term: tuple[Tensor, ...] | None, scale: float, region: Region | None) -> tuple[Tensor, ...] | None:
    if term is None or (scale == 1 and region is None):
        return term
    scaled = term if scale == 1 else tuple(scale * x for x in term)
    return scaled if region is None else tuple(region.on(x, x, (0, 0)) for x in scaled)


def _sum(total: tuple[Tensor, ...] | None, term: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    if term is None or total is None:
        return total if term is None else term
    return tuple(a + b for a, b in zip(total, term, strict=True))

"""Tuners in a host: their changes are called around layers, which stay what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.host.confined import Mixed, cross_attentions, holder
from drivegen.host.evaluation import Conditions, Evaluation, Runtime, with_first
from drivegen.plugin.tuner import NETWORKS, Site, Tuner, own_layers
from drivegen.support.errors import InputError


class Changed:
    """The hooks of one change at one layer; an object, so that copies of a host copy it.

    Args:
        runtime: of the host.
        name: the tuner's instance name.
        tuner: whose change it is.
        where: (network, layer).
        change: what is called.
        prompts: names of the plugins that take prompts.
        placed: whether what the layer gives has places in the picture.
    """

    def __init__(
        self, runtime: Runtime, name: str, tuner: Tuner, where: tuple[str, str], change: Any, prompts: tuple[str, ...],
        placed: bool,
    ) -> None:  # fmt: skip
        self.runtime, self.name, self.tuner, self.where = runtime, name, tuner, where
        self.change, self.prompts, self.placed = change, prompts, placed

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        scale, x = self.tuner.scale, self.change.__dict__.pop("_given", None)
        if scale == 0 or absent(self.runtime, self.name, self.where[0]):
            return None
        now = self.runtime.evaluation
        region = None if now is None or self.where[0] != "unet" else now.conditions.tuner_regions.get(self.name)
        if region is not None and not self.placed:
            if self.runtime.confined != self.name:
                return None
            region = None  # the module around it is mixed
        if x is None:
            x = args[0] if args else next(iter(kwargs.values()))
        y = output if isinstance(output, Tensor) else output[0]
        new = self.change(x, y, Site(layer, () if now is None else _spans(now.conditions, self.prompts)))
        if not isinstance(new, Tensor) or new.shape != y.shape:
            what = f"shape {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
            where = ".".join(self.where)
            raise InputError(f"{type(self.tuner).__name__} gives {what} at {where}, and {tuple(y.shape)} is expected")
        new = new.to(y.dtype)
        if region is None:
            return with_first(output, new if scale == 1 else torch.lerp(y, new, scale))
        assert now is not None
        return with_first(output, y + region.on(scale * (new - y), y, now.latent_size))


class Before:
    """The hook that lets a change replace what its layer is given; see `Changed`.

    Args:
        runtime: of the host.
        name: the tuner's instance name.
        network: whose layer it is.
        change: what is called.
    """

    def __init__(self, runtime: Runtime, name: str, network: str, change: Any) -> None:
        self.runtime, self.name, self.network, self.change = runtime, name, network, change

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.network == "unet" and absent(self.runtime, self.name, self.network):
            return None
        x = args[0] if args else next(iter(kwargs.values()))
        self.change.__dict__["_given"] = x
        given = self.change.before(x)
        if args:
            return (given, *args[1:]), kwargs
        return args, {**kwargs, next(iter(kwargs)): given}


def absent(runtime: Runtime, name: str, network: str) -> bool:
    """Whether a tuner is out of its range at this step, in the UNet or in how prompts are read.

    Args:
        runtime: of the host.
        name: the tuner's instance name.
        network: where its change is.
    """
    if network != "unet":
        return name in runtime.unread
    now: Evaluation | None = runtime.evaluation
    return now is not None and name in now.conditions.tuners_absent


def _spans(conditions: Conditions, names: tuple[str, ...]) -> tuple[slice, ...]:
    """Say where the tokens of some plugins are in the context that all of them make."""
    spans, start = [], 0
    for name in conditions.present():
        tokens = conditions.signals[name].tokens
        if tokens is not None:
            if name in names:
                spans.append(slice(start, start + tokens.shape[1]))
            start += tokens.shape[1]
    return tuple(spans)


def put_in(backbone: Backbone, tuners: Mapping[str, Tuner], runtime: Runtime, prompts: tuple[str, ...]) -> None:
    """Register the hooks of tuners; those that were there before are gone already.

    Args:
        backbone: the networks.
        tuners: by name; of two changes at a layer the later sees what the earlier gives.
        runtime: of the host.
        prompts: names of the plugins that take prompts.
    """
    changes: dict[str, list[nn.Module]] = {network: [] for network in NETWORKS}
    there = [network for network in NETWORKS if tuners and getattr(backbone, network) is not None]
    layers = {network: dict(own_layers(getattr(backbone, network))) for network in there}
    around: dict[str, dict[str, None]] = {}
    for own, tuner in tuners.items():
        if any(network != "unet" for network, _, _ in tuner.sites):
            for attention in cross_attentions(backbone.unet):
                around.setdefault(attention, {})[own] = None
        for network, name, key in tuner.sites:
            change: Any = tuner.changes[key]
            changes[network].append(change)
            held = holder(backbone.unet, name) if network == "unet" else ""
            if held:
                around.setdefault(held, {})[own] = None
            hook = Changed(runtime, own, tuner, (network, name), change, prompts, held == "")
            layers[network][name].register_forward_hook(hook, with_kwargs=True)
            if hasattr(change, "before"):
                before = Before(runtime, own, network, change)
                layers[network][name].register_forward_pre_hook(before, with_kwargs=True)
    for name, names in around.items():
        backbone.unet.get_submodule(name).register_forward_hook(Mixed(runtime, tuple(names)), with_kwargs=True)
    backbone.__dict__["changes"] = changes

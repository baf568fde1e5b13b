"""Tuners in a host: their changes are called around layers, which stay what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.host.evaluation import Conditions, Runtime, with_first
from drivegen.plugin.tuner import NETWORKS, Site, Tuner, own_layers
from drivegen.support.errors import InputError


class Changed:
    """The hooks of one change at one layer; an object, so that copies of a host copy it.

    Args:
        runtime: of the host.
        tuner: whose change it is.
        where: the layer, for errors.
        change: what is called.
        prompts: names of the plugins that take prompts.
    """

    def __init__(self, runtime: Runtime, tuner: Tuner, where: str, change: Any, prompts: tuple[str, ...]) -> None:
        self.runtime, self.tuner, self.where, self.change, self.prompts = runtime, tuner, where, change, prompts

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        scale, x = self.tuner.scale, self.change.__dict__.pop("_given", None)
        if scale == 0:
            return None
        if x is None:
            x = args[0] if args else next(iter(kwargs.values()))
        y = output if isinstance(output, Tensor) else output[0]
        now = self.runtime.evaluation
        new = self.change(x, y, Site(layer, () if now is None else _spans(now.conditions, self.prompts)))
        if not isinstance(new, Tensor) or new.shape != y.shape:
            what = f"shape {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
            raise InputError(f"{type(self.tuner).__name__} gives {what} at {self.where}, and {tuple(y.shape)} is expected")
        return with_first(output, new.to(y.dtype) if scale == 1 else torch.lerp(y, new.to(y.dtype), scale))


class Before:
    """The hook that lets a change replace what its layer is given; see `Changed`."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0] if args else next(iter(kwargs.values()))
        self.change.__dict__["_given"] = x
        given = self.change.before(x)
        if args:
            return (given, *args[1:]), kwargs
        return args, {**kwargs, next(iter(kwargs)): given}


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
    for tuner in tuners.values():
        for network, name, key in tuner.sites:
            change: Any = tuner.changes[key]
            changes[network].append(change)
            hook = Changed(runtime, tuner, f"{network}.{name}", change, prompts)
            layers[network][name].register_forward_hook(hook, with_kwargs=True)
            if hasattr(change, "before"):
                layers[network][name].register_forward_pre_hook(Before(change), with_kwargs=True)
    backbone.__dict__["changes"] = changes

"""Which plugins of a model are told what a generation is asked for: prompts, the scale of guidance, the mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drivegen.plugin import Plugin
from drivegen.saved.model import Model


def told_guidance(plugins: Mapping[str, Plugin], without: Sequence[str] = ()) -> list[str]:
    """Name the plugins that are told the scale of guidance, so that no second pass is needed.

    Args:
        plugins: those that are present, by name.
        without: of them, the null ones.
    """
    return [name for name, plugin in plugins.items() if plugin.takes_guidance and name not in without]


def prompted(model: Model) -> list[str]:
    """Name the plugins that take prompts."""
    return [name for name in model.host.plugins if getattr(model.host.plugin(name), "takes_prompt", False)]


def told_mask(plugins: Mapping[str, Plugin], without: Sequence[str] = ()) -> list[str]:
    """Name the plugins that are told what is drawn anew, so that the known latents need not be put back.

    Args:
        plugins: those that are present, by name.
        without: of them, the null ones.
    """
    return [name for name, plugin in plugins.items() if plugin.takes_mask and name not in without]


def inpaints(model: Model) -> bool:
    """Tell whether a model, or its refiner, is told what is drawn anew of which pictures; without that it generates nothing."""
    there = [one for one in (model, model.refiner) if one is not None]
    return any(one.host.plugin(name).takes_mask for one in there for name in one.host.plugins)


def takers(model: Model, key: str) -> list[str]:
    """Name the plugins that take prompts and declare an input of a name, or declare nothing."""
    accepted = {name: model.host.plugin(name).accepts for name in prompted(model)}
    return [name for name, inputs in accepted.items() if inputs is None or any(one.name == key for one in inputs)]

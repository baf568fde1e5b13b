"""Attaching a plugin to a backbone: mistakes in its class are found here, before anything is computed with it."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from torch import nn

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.host.boundary import calling, check_plugin, label
from drivegen.plugin import Plugin
from drivegen.plugin.hooks import HOOKS
from drivegen.plugin.inputs import described
from drivegen.support.errors import InputError

_ARGUMENTS = {
    "prepare": ("frame", "user_input"), "collate": ("items",), "attach": ("backbone",), "encode": ("arrays", "keep"),
    "precompute": ("arrays",), "residuals": ("x", "t", "context", "signal"), "weight": ("arrays", "step"),
    "loss": ("pred", "target", "t", "arrays"), "guide": ("denoise", "to_x0"),
}  # fmt: skip
"""What each hook is called with, by position."""

_READ_ARRAYS = ("encode", "weight", "loss")
"""The hooks that are given what `prepare` gave."""


def attach(name: str, plugin: Plugin, backbone: Backbone) -> None:
    """Check a plugin's class, attach it, and check that it took nothing of the backbone for its own.

    Raises InputError with plugin, class and hook in front.
    """
    check_plugin(name, plugin)
    _check_hooks(name, plugin)
    with calling(name, plugin, "attach"):
        plugin.bind(backbone)
    networks = {"UNet": backbone.unet, "VAE": backbone.vae, "text encoder": backbone.text_encoder, **backbone.components}
    theirs = {id(part): what for what, network in networks.items() for part in _parts(network)}
    for path, module in plugin.named_modules():
        for part in (module, *module.parameters(recurse=False)):
            if id(part) in theirs:
                plugin.unbind()
                raise InputError(
                    f"{label(name, plugin, 'attach')}: self.{path} holds a part of the backbone's {theirs[id(part)]}, which "
                    "would be trained and saved as the plugin's own; copy it, or reach it through self.backbone"
                )


def _parts(network: Any) -> list[Any]:
    return [*network.modules(), *network.parameters()] if isinstance(network, nn.Module) else []


def _check_hooks(name: str, plugin: Plugin) -> None:
    """Raise InputError for hooks that would never be called, or cannot be."""
    cls, own = type(plugin), set(plugin.overridden())
    where = f"plugin {name!r} ({cls.__name__})"
    if not isinstance(plugin.requires, (tuple, list)):
        raise InputError(f"{where}.requires is {described(plugin.requires)}; expected a tuple of components' names")
    for method in _methods(cls):
        plain = method.lower().replace("_", "")
        close = difflib.get_close_matches(plain, HOOKS, n=1, cutoff=0.8)
        if method not in HOOKS and close and close[0] not in own:
            raise InputError(
                f"{where}: {method} is no hook, and never called (did you mean '{close[0]}'?); there are {', '.join(HOOKS)}; "
                "a helper's name may begin with an underscore"
            )
    if "prepare" in own and not own & set(_READ_ARRAYS):
        raise InputError(f"{where}: it has prepare and none of {', '.join(_READ_ARRAYS)}, so nothing reads what it prepares")
    for hook in ("collate", "precompute"):
        if hook in own and "prepare" not in own:
            raise InputError(f"{where}: it has {hook} and no prepare, so there is nothing that it could be called with")
    for hook in own:
        try:
            inspect.signature(getattr(plugin, hook)).bind(*_ARGUMENTS[hook])
        except TypeError as error:
            takes = ", ".join(("self", *_ARGUMENTS[hook]))
            raise InputError(f"{where}.{hook}: expected {hook}({takes}), and it differs: {error}") from error
        except ValueError:  # no signature to be read
            pass


def _methods(cls: type) -> list[str]:
    """Names of the methods that a plugin's classes define beside the contract's."""
    known = set(dir(Plugin))
    classes = [each for each in cls.__mro__ if issubclass(each, Plugin) and each is not Plugin]
    return [
        key
        for each in classes
        for key, value in vars(each).items()
        if inspect.isfunction(value) and not key.startswith("_") and key not in known
    ]

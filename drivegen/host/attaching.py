"""Attaching a plugin to a backbone: mistakes in its class are found here, before anything is computed with it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.host.batch import neighbours_wanted
from drivegen.host.boundary import calling, check_plugin, label
from drivegen.plugin import Plugin
from drivegen.plugin.hooks import HOOKS
from drivegen.plugin.inputs import described
from drivegen.support.errors import InputError

_ARGUMENTS = {
    "prepare": ("frame", "user_input"), "collate": ("items",), "attach": ("backbone",), "encode": ("arrays", "keep"),
    "precompute": ("arrays",), "augment": ("arrays",), "residuals": ("x", "t", "context", "signal"),
    "weight": ("arrays", "step"), "loss": ("pred", "target", "t", "arrays"), "guide": ("denoise", "to_x0"),
}  # fmt: skip
"""What each hook is called with, by position."""

_TAKE_PART = ("encode", "residuals", "weight", "loss", "guide")
"""The hooks through which a plugin takes part in a prediction or a loss; the other way is a tap."""

_ATTRIBUTES = ("requires", "takes_prompt", "takes_guidance", "takes_mask", "accepts", "training_input", "neighbours")
_PLAIN = {name.replace("_", ""): name for name in _ATTRIBUTES}
"""Attributes that a class may set, as they are looked for when a name is nearly one."""

_MACHINERY = {*vars(nn.Module()), "_backbone", "networks"}
"""What torch and the contract keep on a module themselves."""

_READ_ARRAYS = ("encode", "weight", "loss")
"""The hooks that are given what `prepare` gave."""


def attach(name: str, plugin: Plugin, backbone: Backbone) -> None:
    """Check a plugin's class, attach it, and check that it does not own any of the backbone's layers.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        backbone: the networks.

    Raises InputError that begins with plugin, class and hook.
    """
    check_plugin(name, plugin)
    _check_hooks(name, plugin)
    with calling(name, plugin, "attach"):
        plugin.bind(backbone)
    try:
        _check_attributes(name, plugin)
        _check_effect(name, plugin)
        _check_layers(name, plugin, backbone)
    except InputError:
        plugin.unbind()
        raise


def _check_layers(name: str, plugin: Plugin, backbone: Backbone) -> None:
    """Raise InputError where layers are not the plugin's own, or where torch does not see them."""
    said = {"unet": "UNet", "vae": "VAE", "text_encoder": "text encoder", "text_encoder_2": "second text encoder"}
    networks = {said.get(name, name): network for name, network in backbone.networks.items()}
    theirs = {id(part): what for what, network in networks.items() for part in _parts(network)}
    seen = {id(part) for part in _parts(plugin)} | theirs.keys()
    where = label(name, plugin, "attach")
    for path, module in plugin.named_modules():
        for part in (module, *module.parameters(recurse=False)):
            if id(part) in theirs:
                raise InputError(
                    f"{where}: self.{path} holds a part of the backbone's {theirs[id(part)]}, which "
                    "would be trained and saved as the plugin's own; copy it, or reach it through self.backbone"
                )
        for key, value in vars(module).items():
            hidden = [layer for layer in _trainable(value) if id(layer) not in seen and key not in _MACHINERY]
            if hidden:
                raise InputError(
                    f"{where}: self.{f'{path}.{key}' if path else key} holds a {type(hidden[0]).__name__} where torch does not "
                    "see it, so that it would be neither trained nor saved; use nn.ModuleList, nn.ModuleDict or nn.Parameter"
                )


def _parts(network: Any) -> list[Any]:
    return [*network.modules(), *network.parameters()] if isinstance(network, nn.Module) else []


def _trainable(value: Any, depth: int = 3) -> Iterator[Any]:
    """Find layers, and tensors that want gradients, in a plain attribute: as it is, or in lists, tuples, sets and dicts."""
    if isinstance(value, nn.Module) or (isinstance(value, Tensor) and value.requires_grad and value.is_leaf):
        yield value
    elif depth and isinstance(value, (Mapping, list, tuple, set, frozenset)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _trainable(item, depth - 1)


def _check_attributes(name: str, plugin: Plugin) -> None:
    """Raise InputError for attributes that the host would not read."""
    where = f"plugin {name!r} ({type(plugin).__name__})"
    for attribute in (*_attributes(type(plugin)), *(key for key in vars(plugin) if not key.startswith("_"))):
        close = difflib.get_close_matches(attribute.lower().replace("_", ""), _PLAIN, n=1, cutoff=0.85)
        if close and attribute != _PLAIN[close[0]]:
            raise InputError(f"{where}: {attribute} is no attribute that the host reads; did you mean {_PLAIN[close[0]]!r}?")
    for hook in HOOKS:
        if hook in vars(plugin):
            raise InputError(f"{where}: self.{hook} is set on the instance, and would not be called; make {hook} a method")


def _check_effect(name: str, plugin: Plugin) -> None:
    """Raise InputError for a plugin without effect: none of its methods is called by the host."""
    idle = [*_methods(type(plugin)), *(["forward"] if "forward" in vars(type(plugin)) else [])]
    if idle and not plugin.sites and not set(_TAKE_PART) & set(plugin.overridden()):
        raise InputError(
            f"plugin {name!r} ({type(plugin).__name__}): it has none of {', '.join(_TAKE_PART)} and taps nothing, so it has no "
            f"effect; nothing calls {', '.join(idle)}"
        )


def _check_hooks(name: str, plugin: Plugin) -> None:
    """Raise InputError for hooks that would never be called, or cannot be."""
    cls, own = type(plugin), set(plugin.overridden())
    where = f"plugin {name!r} ({cls.__name__})"
    if not isinstance(plugin.requires, (tuple, list)):
        raise InputError(f"{where}.requires is {described(plugin.requires)}; expected a tuple of components' names")
    for attribute in ("takes_prompt", "takes_guidance", "takes_mask"):
        if not isinstance(value := getattr(plugin, attribute), bool):
            raise InputError(f"{where}.{attribute} is {described(value)}; expected True or False")
    neighbours_wanted({name: plugin})
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


def _attributes(cls: type) -> list[str]:
    """Names of the plain attributes that a plugin's classes set."""
    classes = [each for each in cls.__mro__ if issubclass(each, Plugin) and each is not Plugin]
    return [key for each in classes for key, value in vars(each).items() if not key.startswith("_") and not callable(value)]

"""The contract of tuners: small things that train inside frozen networks, and ship alone."""

from __future__ import annotations

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from drivegen.plugin.arguments import named_arguments, needs_arguments
from drivegen.support.errors import InputError, nearest

if TYPE_CHECKING:
    from drivegen.backbones.stable_diffusion import Backbone

NETWORKS = ("unet", "text_encoder", "text_encoder_2")
"""Those that a tuner may change."""


@dataclass(frozen=True, eq=False)
class Site:
    """A layer of a frozen network, as a change of it is called.

    Args:
        layer: the layer itself, whose weights are read and never written.
        prompt: where the tokens of prompts are in the context that a UNet's cross-attentions attend to, one slice per plugin
            that takes a prompt; nothing in other networks.
    """

    layer: Any
    prompt: tuple[slice, ...] = ()


class Tuner(nn.Module, ABC):
    """A small thing that trains inside frozen networks, found by entry point (``drivegen.tuners``).

    Its options are the arguments of its constructor, JSON values that are recorded as `config`. In `attach` it names the layers
    that it changes; the host calls the changes, so that no layer is ever replaced or written to, and a tuner that is taken out
    leaves the very networks that were there. Its parameters are its own: no model folder and no plugin has them.
    """

    patterns: ClassVar[tuple[str, ...]] = ()
    """Options that may be regular expressions: a saved tuner has none there, since none from a file is run."""

    saved_kind: ClassVar[str | None] = None
    """The kind whose layout and options `save` and `saved_options` have, where it is another's."""

    config: dict[str, Any]
    changes: nn.ModuleDict
    sites: tuple[tuple[str, str, str], ...] = ()
    """(network, name of the layer, key in `changes`) of each change."""
    words: Mapping[str, int] = {}
    """Words that prompts may have while it is attached, with the number of their vectors; `attach` may set them."""
    parts: tuple[str, ...] = ()
    """Names of what it is made of, each of which can act `alone`; nothing for most tuners."""
    sources: Mapping[str, str] = {}
    """The sha256 of each file that it is made of, by the file's name; `attach` may set it. It begins as what they are."""
    scale: float = 1.0
    """How much of every change counts; 0 is as if it were not there, 1 as trained."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Tuner:
        self = super().__new__(cls)
        named = args or kwargs or not needs_arguments(cls)
        self.__dict__["config"] = named_arguments(cls, args, kwargs) if named else {}
        return self

    def __init__(self) -> None:
        super().__init__()
        self.add_module("changes", nn.ModuleDict())

    @abstractmethod
    def attach(self, backbone: Backbone) -> None:
        """Name what it changes by `change`, and build the parameters; called once, with networks that are only read.

        Raises InputError where the networks do not fit the options.
        """

    @abstractmethod
    def save(self, folder: Path, dtype: torch.dtype | None = None) -> Path:
        """Write a file in the layout that the field exchanges, and nothing else; returns it.

        Args:
            folder: a new one.
            dtype: number format of the weights; None keeps theirs.
        """

    @abstractmethod
    def load(self, source: Path) -> None:
        """Take the numbers of a file that `save` wrote, or of another of that layout; it is attached already.

        Raises InputError where the file is damaged, of another layout, or does not fit the options.
        """

    @classmethod
    def read_options(cls, source: Path) -> dict[str, Any] | None:
        """Return the options that a file of this tuner's layout was made with, or a folder with one; None where it is none.

        So a file that others made is loaded without saying what it is; the default recognises none. Raises InputError where it
        is of this layout and damaged.
        """
        return None

    def saved_options(self) -> dict[str, Any]:
        """Return the options that the description beside the file says, with which it is made again; `config` by default."""
        return self.config

    def penalty(self) -> Tensor | None:
        """Return what it adds to the loss of a training step (), for its own numbers' sake; None for nothing."""
        return None

    def alone(self, part: str) -> AbstractContextManager[None]:
        """Let one of its `parts` act as it was, and no other, within a block."""
        raise InputError(f"{type(self).__name__} has no part {part!r}{nearest(part, self.parts)}")

    def change(self, network: str, pattern: str, build: Callable[[str, nn.Module], nn.Module]) -> None:
        """Change the layers of a network whose names match a glob (``*`` spans dots): ``change(x, y, site)`` replaces y.

        x is the first thing that the layer is given, y the first tensor that it gives, site a `Site`. A change may have a
        method ``before(x)``: the layer is then given what that returns, and the change the original. A fresh one returns y.

        Args:
            network: one of `NETWORKS`.
            pattern: of names, or one name.
            build: ``build(name, layer)`` makes the change of one layer.

        Raises InputError where nothing matches.
        """
        who = type(self).__name__
        if "_attaching" not in self.__dict__:
            raise InputError(f"{who}: self.change is called outside of attach, where the networks are known")
        backbone = self.__dict__["_attaching"]
        if network not in NETWORKS:
            raise InputError(f"{who}: changes are of {' or '.join(NETWORKS)}, not of {network!r}{nearest(network, NETWORKS)}")
        if getattr(backbone, network) is None:
            raise InputError(f"{who} changes {network}, which this model does not have")
        layers = dict(own_layers(getattr(backbone, network)))
        found = [name for name in layers if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise InputError(f"{who}: no layer of {network} matches {pattern!r}{nearest(pattern, layers)}")
        for name in found:
            key = f"{network}-{name.replace('.', '-')}"
            if key in self.changes:
                raise InputError(f"{who} changes {network}.{name} twice; one change may do both")
            made: Any = build(name, layers[name])
            if not isinstance(made, nn.Module):
                raise InputError(f"{who}: the change of {network}.{name} is a {type(made).__name__}, and no nn.Module")
            self.changes[key] = made
            self.__dict__["sites"] = (*self.sites, (network, name, key))

    def bind(self, backbone: Backbone) -> None:
        """Attach to a backbone; called by the host, also when a tuner that was taken out is put in again.

        Raises InputError for another backbone than the first one, for which the parameters were built.
        """
        if "_backbone" in self.__dict__:
            if self.__dict__["_backbone"][0] is not backbone:
                raise InputError(
                    f"this {type(self).__name__} was attached to another model before; make a new one, and load its file"
                )
            return
        self.__dict__["_attaching"] = backbone
        try:
            self.attach(backbone)
            if not self.sites:
                raise InputError(f"{type(self).__name__} changes nothing; attach names what it changes by self.change")
        except BaseException:
            self.add_module("changes", nn.ModuleDict())
            self.__dict__["sites"] = ()
            raise
        finally:
            del self.__dict__["_attaching"]
        self.__dict__["_backbone"] = (backbone,)  # a tuple keeps it out of this module's parameters


def own_layers(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name the layers of a network as it was built: a layer that PEFT wraps is the one within."""
    for name, module in network.named_children():
        path = f"{prefix}{name}"
        inner: Any = module
        while isinstance(getattr(inner, "base_layer", None), nn.Module):
            inner = inner.base_layer
        yield path, inner
        if inner is module:
            yield from own_layers(module, f"{path}.")

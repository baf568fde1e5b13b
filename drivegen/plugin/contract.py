"""The contract: what a condition is, and all that the host knows of it.

A condition *appends tokens* to the cross-attention context or *adds a term* somewhere. Shapes: B scenes (times T frames),
V views, N = B·T·V rows, S tokens, D width, C×h×w latents.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor, nn

from drivegen.plugin.arguments import named_arguments, needs_arguments
from drivegen.plugin.hooks import HOOKS
from drivegen.plugin.inputs import Input
from drivegen.plugin.released import Released, ReleasedFile
from drivegen.plugin.signals import Arrays, Context, Denoiser, Residuals, Signal
from drivegen.plugin.training_step import ToX0, TrainingStep
from drivegen.plugin.unknown import Unknown
from drivegen.scene import Frame
from drivegen.support.errors import InputError

if TYPE_CHECKING:
    from drivegen.backbones.family import Site
    from drivegen.backbones.stable_diffusion import Backbone

_CONTRACTS_OWN = (
    "config", "taps", "sites", "streams", "networks", "backbone", "tap", "tap_sites", "attends", "bind", "unbind",
)  # fmt: skip
"""What the contract keeps on a plugin, and an author's attribute of the same name would silently replace."""


@dataclass(eq=False)
class _Attaching:
    backbone: Backbone
    sites: list[tuple[str, str]] = field(default_factory=list)
    streams: dict[str, str] = field(default_factory=dict)
    networks: list[nn.Module] = field(default_factory=list)


class Plugin(nn.Module):
    """A condition: a handful of optional hooks; override those that it needs.

    Constructor arguments must be JSON values; they are recorded as `config` and saved. Layers are built in `attach`, when
    the backbone's widths are known.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    """Backbone components (by folder name) that the plugin cannot work without."""
    takes_prompt: ClassVar[bool] = False
    """Whether a negative prompt is for this plugin: it is then given {"negative": str}."""
    takes_guidance: ClassVar[bool] = False
    """Whether it tells the network the scale of guidance, which then needs no second pass: it is given the scale, and its array
    ``guidance`` (B,) holds it.
    """
    takes_mask: bool = False
    """Whether its network is told which part of which pictures is drawn anew, and keeps the rest by itself: its input is then
    {camera: {"image": picture, "mask": mask}}, and the known latents are not put back at each step. An instance may set it.
    """
    accepts: tuple[Input, ...] | None = None
    """What a caller may give: () = nothing; None = not declared, and `prepare` gets what is given as it is."""
    training_input: Any = None
    """What is given in training for a frame whose extras have nothing for this plugin; an instance may set its own."""

    neighbours: tuple[float, float] = (0.0, 0.0)
    """Seconds before and after a frame whose moments `prepare` reads (`frame.neighbours`); an instance may set its own."""

    config: dict[str, Any]
    taps: nn.ModuleDict
    sites: tuple[tuple[str, str], ...] = ()
    streams: Mapping[str, str] = MappingProxyType({})
    networks: tuple[nn.Module, ...] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Plugin:
        self = super().__new__(cls)
        if cls.__init__ is not Plugin.__init__ and (args or kwargs or not needs_arguments(cls)):
            self.__dict__["config"] = named_arguments(cls, args, kwargs)
        else:
            self.__dict__["config"] = {}
        return self

    def __init__(self) -> None:
        super().__init__()
        self.add_module("taps", nn.ModuleDict())

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (nn.Module, nn.Parameter)) and "_modules" not in self.__dict__:
            raise InputError(f"{type(self).__name__}.__init__ makes the layer {name!r} before it calls super().__init__()")
        if name in _CONTRACTS_OWN:
            raise InputError(f"{type(self).__name__} sets self.{name}, which is the contract's own; use another name")
        if isinstance(value, (nn.Module, nn.Parameter)) and "_learns" in self.__dict__ and not hasattr(self, name):
            raise InputError(
                f"{type(self).__name__} makes the layer {name!r} after attach, so that nothing would train it and no saved "
                "plugin would load it; build it in attach"
            )
        super().__setattr__(name, value)

    @classmethod
    def read_released(cls, file: ReleasedFile) -> Released | None:
        """Read weights that were released in a layout which this class knows; None = another layout.

        Raises InputError where they are of this class's kind and cannot be used, saying what they are: for another base, say.
        """
        return None

    # -- per frame, in the data workers ------------------------------------------------------------------------------

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray] | Unknown:
        """Convert a frame to arrays by name, or to `Unknown`; runs on a weightless copy in the data workers.

        user_input is what the caller gave under this instance's name, checked and converted as `accepts` declares. Arrays are
        numbers or bools and keep their dtype. Those whose name begins with ``null_`` describe null itself (a negative prompt);
        all others must not be read when the condition is null.
        """
        return {}

    def collate(self, items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Join the arrays of B frames; the default stacks them."""
        return {key: np.stack([item[key] for item in items]) for key in items[0]}

    # -- once --------------------------------------------------------------------------------------------------------

    def attach(self, backbone: Backbone) -> None:
        """Build layers for this backbone (read-only) and name the taps."""

    def tap(self, pattern: str, build: Callable[[str, nn.Module], nn.Module]) -> None:
        """Run ``y + scale · layer(x, y, now)`` at the UNet modules whose name matches the glob (``*`` spans dots).

        build(name, site) makes the layer of one site; a layer that returns None only reads. Raises InputError when nothing
        matches.
        """
        attaching = self._attaching("tap")
        modules = {n: m for n, m in attaching.backbone.unet.named_modules() if n}
        found = [(n, m) for n, m in modules.items() if fnmatch.fnmatchcase(n, pattern)]
        if not found:
            raise InputError(
                f"{type(self).__name__}: no module of the UNet matches the tap {pattern!r}{_near(pattern, modules)}"
            )
        for name, module in found:
            self._put(attaching, name, lambda name=name, module=module: build(name, module), pattern)  # type: ignore[misc]

    def tap_sites(self, kind: str, build: Callable[[Site], nn.Module]) -> None:
        """Run ``y + scale · layer(x, y, now)`` at the network's places of a kind (`backbones.family.KINDS`).

        build(site) makes the layer of one place. Where the place is in the middle of a stream ("between"), x is the stream
        there, in which y is already. Raises InputError where the network has no such places.
        """
        attaching = self._attaching("tap_sites")
        try:
            found = attaching.backbone.family.need(kind)
        except InputError as error:
            raise InputError(f"{type(self).__name__} cannot be attached: {error}") from error
        for site in found:
            key = self._put(attaching, site.name, lambda site=site: build(site), kind)  # type: ignore[misc]
            if site.stream is not None:
                attaching.streams[key] = site.stream

    def _put(self, attaching: _Attaching, name: str, build: Callable[[], Any], asked: str) -> str:
        """Build the layer of one place and keep it under the place's name; returns its key.

        Args:
            attaching: what is being attached to.
            name: of the tapped module.
            build: makes the layer.
            asked: the glob or kind that found it, for errors.
        """
        key = name.replace(".", "-")
        while key in self.taps:
            key += "+"
        layer = build()
        if not isinstance(layer, nn.Module):
            made = getattr(layer, "__name__", type(layer).__name__)
            raise InputError(f"{type(self).__name__}: the tap {asked!r} builds {made} at {name!r}, which is no nn.Module")
        self.taps[key] = layer
        attaching.sites.append((name, key))
        return key

    def attends(self, network: nn.Module) -> None:
        """Name a network of this plugin's own whose cross-attentions receive the context's tokens."""
        attaching = self._attaching("attends")
        if not isinstance(network, nn.Module):
            raise InputError(f"{type(self).__name__}: attends is given a {type(network).__name__}; give a network of its own")
        attaching.networks.append(network)

    def _attaching(self, method: str) -> _Attaching:
        """Return what is being attached to; raises InputError outside of `attach`."""
        if "_now_attaching" not in self.__dict__:
            raise InputError(f"{type(self).__name__}: self.{method} is called outside of attach, where the UNet is known")
        found: _Attaching = self.__dict__["_now_attaching"]
        return found

    def bind(self, backbone: Backbone) -> None:
        """Attach to a backbone; called by the host, also when a removed plugin is added again with its weights.

        Raises InputError for another backbone than the first one, for which the layers were built.
        """
        if "_backbone" in self.__dict__:
            if self.backbone is not backbone:
                raise InputError(
                    f"{type(self).__name__} was attached to another model before, and its layers were built for that one; make "
                    "a new instance, and load the weights into it with load_state_dict"
                )
            return
        missing = [name for name in self.requires if backbone.component(name) is None]
        if missing:
            raise InputError(f"{type(self).__name__} requires {', '.join(missing)}, which the backbone does not have")
        attaching = _Attaching(backbone)
        # A tuple keeps the backbone out of this module's parameters and state dict.
        self.__dict__["_backbone"] = (backbone,)
        self.__dict__["_now_attaching"] = attaching
        try:
            self.attach(backbone)
        except BaseException:
            self.unbind()
            raise
        finally:
            del self.__dict__["_now_attaching"]
        self.__dict__["sites"], self.__dict__["networks"] = tuple(attaching.sites), tuple(attaching.networks)
        self.__dict__["streams"] = dict(attaching.streams)
        self.__dict__["_learns"] = frozenset(name for name, p in self.named_parameters() if p.requires_grad)

    def unbind(self) -> None:
        """Forget a backbone after attaching to it failed."""
        for name in ("_backbone", "_learns"):
            self.__dict__.pop(name, None)
        self.add_module("taps", nn.ModuleDict())
        for name, nothing in (("sites", ()), ("networks", ()), ("streams", {})):
            self.__dict__[name] = nothing

    def unfreeze(self) -> None:
        """Re-enable gradients of the parameters that were trainable after `attach`, unless some of this plugin's are enabled.

        Loading a model freezes all of it.
        """
        if not any(p.requires_grad for p in self.parameters()):
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name in self.__dict__["_learns"])

    @property
    def backbone(self) -> Backbone:
        """The backbone that this plugin is attached to, for reading; raises InputError before `attach`."""
        if "_backbone" not in self.__dict__:
            raise InputError(
                f"{type(self).__name__}: self.backbone is there from attach on, where layers are built, not in data workers"
            )
        return self.__dict__["_backbone"][0]

    # -- once per batch -----------------------------------------------------------------------------------------------

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        """Encode arrays (B, …) as a signal; where keep (B,) is False the result is null, whatever the arrays hold."""
        return Signal()

    def precompute(self, arrays: Arrays) -> Arrays | None:
        """Replace arrays (B, …) by the outputs of frozen backbone components, for the training cache; None = nothing to
        replace.
        """
        return None

    def augment(self, arrays: Arrays) -> Arrays:
        """Change arrays (B, …) at random for one training step, by torch's own generator; never in validation or generation.

        They are as `precompute` left them, and all networks of the step are given what this returns.
        """
        return arrays

    # -- every step --------------------------------------------------------------------------------------------------

    def residuals(self, x: Tensor, t: Tensor, context: Context, signal: Signal) -> Residuals | None:
        """Return terms to add inside the UNet; None for none.

        Args:
            x: noisy latents (N, C, h, w).
            t: timesteps (N,).
            context: the current step, and the tokens of all plugins.
            signal: the output of `encode`.
        """
        return None

    def weight(self, arrays: Arrays, step: TrainingStep) -> Tensor | None:
        """Give loss weights (N, 1, h, w) or (N, C, h, w), as the latents have it, that multiply the squared errors.

        Args:
            arrays: this plugin's arrays (B, …).
            step: the noise level, what was predicted and what should have been, without gradients.
        """
        return None

    def loss(self, pred: Tensor, target: Tensor, t: Tensor, arrays: Arrays) -> Tensor | None:
        """Return a scalar that is added to the training loss; None for none.

        Args:
            pred: the model's prediction (N, C, h, w).
            target: what it should be (N, C, h, w).
            t: timesteps (N,).
            arrays: this plugin's arrays (B, …).
        """
        return None

    def guide(self, denoise: Denoiser, to_x0: ToX0) -> Denoiser | None:
        """Wrap the denoiser for one generation; to_x0(x, t, prediction) gives the clean latents."""
        return None

    # -- copies ------------------------------------------------------------------------------------------------------

    def weightless(self) -> Plugin:
        """Return a copy without weights, layers or backbone, whose `prepare` and `collate` work; small to pickle."""
        light = type(self).__new__(type(self), **self.config)
        nn.Module.__init__(light)
        hidden = ("sites", "streams", "networks", *light.__dict__)
        kept = {k: v for k, v in self.__dict__.items() if k not in hidden and not k.startswith("_")}
        light.__dict__.update({k: v for k, v in kept.items() if not isinstance(v, (nn.Module, Tensor))})
        return light

    def overridden(self) -> Iterator[str]:
        """Name the hooks that this class implements."""
        return (name for name in HOOKS if getattr(type(self), name) is not getattr(Plugin, name))


def _near(pattern: str, names: Iterable[str]) -> str:
    """Name what a glob that matches nothing may have meant: a part of it that no module has, or whole names like it."""
    every = list(names)
    parts = sorted({part for name in every for part in name.split(".")})
    for part in pattern.split("."):
        close = difflib.get_close_matches(part, parts, n=3)
        if close and not fnmatch.filter(parts, part):
            return f"; no module is called {part!r} (did you mean {' or '.join(map(repr, close))}?)"
    close = difflib.get_close_matches(pattern, every, n=3)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""

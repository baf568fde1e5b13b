"""A plugin under test, with everything that a prediction needs, and how predictions are compared."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.host import batch as data
from drivegen.host.evaluation import Conditions
from drivegen.host.host import Host
from drivegen.plugin import Plugin
from drivegen.plugin.inputs import described
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from drivegen.testing.models import tiny_backbone

TOLERANCE = 1e-5
"""The relative difference that two computations of the same thing may have."""

WIDER = 48
"""D of the second backbone; the first has 32."""


@dataclass(frozen=True)
class Case:
    """A plugin under test: how it is made, what callers give it, and on which frames and backbone.

    Args:
        make: the plugin's class, or what makes one of the options.
        options: the constructor's arguments, JSON values.
        user_input: what a caller gives it for every frame, as in ``inputs={name: user_input}``; None = nothing.
        frames: two frames or more that differ in what the plugin reads, with the same number and size of cameras.
        backbone: makes the backbone; called for every host, and must give the same weights each time.
        wider: makes a backbone of other widths. None = where `backbone` is `tiny_backbone`, or a `functools.partial` of it, the
            same with another `width`; where it is another function, other widths are not tried.
        others: plugins that stand before it, by name, such as one whose tokens a branch attends to.
        others_inputs: what a caller gives those, by name.
        clips: whether it lets the frames of a clip (T > 1) see each other, so that a clip differs from its frames alone.
        name: its instance name.
    """

    make: Callable[..., Plugin]
    options: Mapping[str, Any] = field(default_factory=dict)
    user_input: Any = None
    frames: tuple[Frame, ...] = field(default_factory=lambda: (frame(0), frame(1)))
    backbone: Callable[[], Backbone] = tiny_backbone
    wider: Callable[[], Backbone] | None = None
    others: Mapping[str, Callable[[], Plugin]] = field(default_factory=dict)
    others_inputs: Mapping[str, Any] = field(default_factory=dict)
    clips: bool = False
    name: str = "mine"

    def __post_init__(self) -> None:
        for what, make in {"make": self.make, **{f"others[{name!r}]": each for name, each in self.others.items()}}.items():
            if isinstance(make, Plugin):
                made = type(make).__name__
                raise InputError(f"Case: {what} is an instance; give the class {made}: each check makes its own")
            if not callable(make):
                raise InputError(f"Case: {what} is {described(make)}; expected a plugin's class, or a function that makes one")
        if not isinstance(self.options, Mapping):
            raise InputError(f"Case: options is {described(self.options)}; expected the constructor's arguments by name")
        frames: Any = self.frames
        if not isinstance(frames, (tuple, list)) or not frames or not all(isinstance(each, Frame) for each in frames):
            raise InputError(f"Case: frames is {described(frames)}; expected a tuple of two frames or more")
        sizes = [(len(each.cameras), *(camera.image_size for camera in each.cameras)) for each in frames]
        if len(set(sizes)) > 1:
            raise InputError("Case: its frames have other numbers or sizes of cameras; they must be alike to make a batch")

    def plugin(self) -> Plugin:
        """Make the plugin."""
        return self.make(**self.options)

    def wider_backbone(self) -> Callable[[], Backbone] | None:
        """Return a function that builds a backbone of other widths; None where there is none to try."""
        given: Any = self.backbone
        base = given.func if isinstance(given, functools.partial) else given
        if self.wider is not None or base is not tiny_backbone:
            return self.wider
        return functools.partial(given, width=WIDER)

    def host(
        self, trained: bool = True, extra: Mapping[str, Callable[[], Plugin]] | None = None, first: bool = False,
        alone: bool = True, make: Callable[[], Plugin] | None = None, backbone: Callable[[], Backbone] | None = None,
    ) -> Host:  # fmt: skip
        """Attach the plugin, and those beside it, to a fresh backbone; each gets weights that depend on its name alone.

        Args:
            trained: whether every parameter of the plugin is moved off its initial value.
            extra: more plugins beside it.
            first: whether those come before it.
            alone: False leaves the plugin itself out.
            make: makes the plugin in another way.
            backbone: makes another backbone.
        """
        makers: dict[str, Callable[[], Plugin]] = dict(self.others)
        if alone:
            makers[self.name] = make or self.plugin
        added = dict(extra or {})
        host = Host((backbone or self.backbone)())
        for name, maker in ({**added, **makers} if first else {**makers, **added}).items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(zlib.crc32(name.encode()))
                host.add_plugin(name, maker())
        if trained and alone:
            disturb(host.plugin(self.name))
        return host.eval()

    def batch(self, host: Host, frames: tuple[Frame, ...] | None = None) -> data.Batch:
        """Prepare and collate the frames for the host's plugins."""
        frames = frames or self.frames
        plugins = {name: host.plugin(name) for name in host.plugins}
        given = {**self.others_inputs, self.name: self.user_input}
        inputs = {name: value for name, value in given.items() if value is not None and name in plugins}
        prepared = [data.prepare(f, {n: p.weightless() for n, p in plugins.items()}, inputs) for f in frames]
        return data.collate(prepared, plugins, len(frames[0].cameras))

    def latents(self, host: Host, rows: int) -> tuple[Tensor, Tensor]:
        """Noisy latents of the frames' image size, and a timestep per row."""
        width, height = self.frames[0].cameras[0].image_size
        factor = host.backbone.vae_factor
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(rows, host.backbone.latent_channels, height // factor, width // factor, generator=generator)
        return x, torch.full((rows,), 500)

    def run(self, host: Host, keep: Tensor | bool = True, scale: float = 1.0, batch: data.Batch | None = None) -> Tensor:
        """Predict once with the plugin kept or null, at a scale.

        Args:
            host: what predicts.
            keep: (B,) bools or one for all, False = null.
            scale: the plugin's scale.
            batch: the conditions; None = those of this case's frames.
        """
        batch = batch or self.batch(host)
        mine = self.name in host.plugins
        conditions = host.encode(
            batch.arrays, batch.grid, {self.name: keep} if mine else {}, {self.name: scale} if mine else {}
        )
        return self.predict(host, conditions)

    def predict(self, host: Host, conditions: Conditions, t: int = 500) -> Tensor:
        """Predict from this case's latents.

        Args:
            host: networks and plugins.
            conditions: of `Host.encode`.
            t: the timestep.
        """
        x, steps = self.latents(host, conditions.grid.rows)
        out: Tensor = host(x, torch.full_like(steps, t), conditions, 0.5)
        return out


def disturb(module: nn.Module, seed: int = 3) -> None:
    """Move every parameter off its initial value, so that no zero hides an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def close(a: Tensor, b: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Assert that two tensors agree to a relative norm.

    Args:
        a: the tensor under test.
        b: the reference.
        what: names them in the message.
        tolerance: largest relative difference.
    """
    error = float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-12))
    assert error <= tolerance, f"{what}: relative difference {error:.2e}, at most {tolerance:.0e} is allowed"


def refused(call: Callable[[], object], what: str) -> None:
    """Assert that a call raises InputError; what names in the message what it was given."""
    try:
        call()
    except InputError:
        return
    raise AssertionError(f"{what} is not refused by an InputError")


def same(a: Tensor, b: Tensor, what: str) -> None:
    """Assert that two tensors hold the same bits.

    Args:
        a: the tensor under test.
        b: the reference.
        what: names them in the message.
    """
    assert torch.equal(a, b), f"{what}: not the same bits, largest difference {float((a - b).abs().max()):.2e}"

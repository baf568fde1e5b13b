"""What every plugin promises, as checks that raise AssertionError; 1e-5 relative unless "the same bits"."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.host import batch as data
from drivegen.host.host import Conditions, Host
from drivegen.plugin import Arrays, Grid, Now, Plugin
from drivegen.scene import Frame
from drivegen.testing.frames import elsewhere, frame
from drivegen.testing.models import tiny_backbone

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """A plugin under test: how it is made, what callers pass it, and on which frames and backbone.

    others are plugins that it cannot work without (a branch that attends to named tokens, say), attached before it.
    """

    make: Callable[..., Plugin]
    options: Mapping[str, Any] = field(default_factory=dict)
    user_input: Any = None
    frames: tuple[Frame, ...] = field(default_factory=lambda: (frame(0), frame(1)))
    backbone: Callable[[], Backbone] = tiny_backbone
    others: Mapping[str, Callable[[], Plugin]] = field(default_factory=dict)
    name: str = "mine"

    def plugin(self) -> Plugin:
        """Make the plugin."""
        torch.manual_seed(0)
        return self.make(**self.options)

    def host(
        self, trained: bool = True, extra: Mapping[str, Plugin] | None = None, first: bool = False, alone: bool = True
    ) -> Host:
        """Attach the plugin to a fresh backbone; trained moves every parameter off its initial value."""
        plugins: dict[str, Plugin] = {name: make() for name, make in self.others.items()}
        if alone:
            plugins[self.name] = self.plugin()
        added = dict(extra or {})
        host = Host(self.backbone(), {**added, **plugins} if first else {**plugins, **added})
        if trained and alone:
            disturb(host.plugin(self.name))
        return host.eval()

    def batch(self, host: Host, frames: tuple[Frame, ...] | None = None) -> data.Batch:
        """Prepare and collate the frames for the host's plugins."""
        frames = frames or self.frames
        plugins = {name: host.plugin(name) for name in host.plugins}
        inputs = {self.name: self.user_input} if self.user_input is not None and self.name in plugins else {}
        prepared = [data.prepare(f, {n: p.weightless() for n, p in plugins.items()}, inputs) for f in frames]
        return data.collate(prepared, plugins, len(frames[0].cameras))

    def latents(self, host: Host, rows: int) -> tuple[Tensor, Tensor]:
        """Noisy latents of the frames' image size, and a timestep a row."""
        width, height = self.frames[0].cameras[0].image_size
        factor = host.backbone.vae_factor
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(rows, host.backbone.latent_channels, height // factor, width // factor, generator=generator)
        return x, torch.full((rows,), 500)

    def run(self, host: Host, keep: Tensor | bool = True, scale: float = 1.0, batch: data.Batch | None = None) -> Tensor:
        """Predict once with the plugin kept or null, at a scale."""
        batch = batch or self.batch(host)
        mine = self.name in host.plugins
        conditions = host.encode(
            batch.arrays, batch.grid, {self.name: keep} if mine else {}, {self.name: scale} if mine else {}
        )
        return self.predict(host, conditions)

    def predict(self, host: Host, conditions: Conditions, t: int = 500) -> Tensor:
        """Predict from this case's latents."""
        x, steps = self.latents(host, conditions.grid.rows)
        out: Tensor = host(x, torch.full_like(steps, t), conditions, 0.5)
        return out


def disturb(module: nn.Module, seed: int = 3) -> None:
    """Move every parameter off its initial value, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def close(a: Tensor, b: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Assert that two tensors agree to a relative norm."""
    error = float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-12))
    assert error <= tolerance, f"{what}: relative difference {error:.2e}, at most {tolerance:.0e} is allowed"


def same(a: Tensor, b: Tensor, what: str) -> None:
    """Assert that two tensors hold the same bits."""
    assert torch.equal(a, b), f"{what}: not the same bits, largest difference {float((a - b).abs().max()):.2e}"


@torch.no_grad()
def identity_at_initialisation(case: Case) -> None:
    """A fresh plugin changes nothing, but for the tokens that it appends: those enter the softmax."""
    bare, fresh = case.host(alone=False), case.host(trained=False)
    batch = case.batch(bare)
    conditions = bare.encode(batch.arrays, batch.grid)
    without = case.predict(bare, conditions)
    batch = case.batch(fresh)
    # The UNet is given the context of the bare host, so that all which remains of the plugin is what it adds elsewhere.
    unseen = replace(fresh.encode(batch.arrays, batch.grid), joined={None: conditions.joined[None]})
    close(case.predict(fresh, unseen), without, "a fresh plugin, tokens left out, against none")


@torch.no_grad()
def has_an_effect(case: Case) -> None:
    """A trained plugin that is present changes the prediction, or weighs or adds to the loss, or guides."""
    host = case.host()
    if {"weight", "loss", "guide"} & set(host.plugin(case.name).overridden()):
        return
    assert not torch.equal(case.run(host), case.run(case.host(alone=False))), (
        "the plugin has no effect: no test of it could fail"
    )


@torch.no_grad()
def null_leaks_nothing(case: Case) -> None:
    """With keep False the result is the same bits whatever the arrays hold, and ``null_`` arrays know nothing of the frame."""
    host = case.host()
    batch = case.batch(host)
    mixed = torch.tensor([False] + [True] * (len(case.frames) - 1))
    views = batch.grid.views
    null, first = case.run(host, keep=False, batch=batch), case.run(host, keep=mixed, batch=batch)[:views]
    mine = batch.arrays[case.name]
    for how, other in (("other", scramble(mine)), ("blank", blank(mine))):
        arrays = {**batch.arrays, case.name: other}
        same(case.run(host, keep=False, batch=data.Batch(batch.grid, arrays)), null, f"null with {how} arrays")
        arrays[case.name] = {k: torch.cat([other[k][:1], v[1:]]) for k, v in mine.items()}
        again = case.run(host, keep=mixed, batch=data.Batch(batch.grid, arrays))[:views]
        same(again, first, f"null in a mixed batch with {how} arrays")
    # Collated together, so that both have the same shapes.
    count = len(case.frames)
    pair = case.batch(host, (*case.frames, *map(elsewhere, case.frames))).arrays[case.name]
    here, there = ({k: v[rows] for k, v in pair.items()} for rows in (slice(count), slice(count, None)))
    swapped = {k: there[k] if k.startswith("null_") else v for k, v in here.items()}
    nulls = [
        case.run(host, keep=False, batch=data.Batch(batch.grid, {**batch.arrays, case.name: arrays}))
        for arrays in (here, swapped)
    ]
    same(nulls[1], nulls[0], "null with the `null_` arrays of another frame")


def scramble(arrays: Arrays) -> Arrays:
    """Replace every value by another of the same kind and range; ``null_`` arrays describe null itself and stay."""
    generator = torch.Generator().manual_seed(7)
    return {key: value if key.startswith("null_") else _others(value, generator) for key, value in arrays.items()}


def blank(arrays: Arrays) -> Arrays:
    """Replace every array by its least value, or a float one by zeros: nothing that counts or sums is left of it."""
    out = {}
    for key, value in arrays.items():
        fill = 0 if value.dtype == torch.bool or value.is_floating_point() or not value.numel() else int(value.min())
        out[key] = value if key.startswith("null_") else torch.full_like(value, fill)
    return out


def _others(value: Tensor, generator: torch.Generator) -> Tensor:
    """Draw for each element a value that it does not have; integers stay in the range seen, as they may be indices."""
    if not value.numel():
        return value
    if value.dtype == torch.bool:
        return ~value
    if value.is_floating_point():
        return torch.randn(value.shape, generator=generator).to(value.dtype)
    whole = value.long()
    low, high = int(whole.min()), int(whole.max())
    if low == high:  # a constant has no range: 0 and 1 are valid counts, labels and indices wherever it is one
        return torch.full_like(value, 1 if low == 0 else 0)
    step = torch.randint(1, high - low + 1, value.shape, generator=generator)
    return (low + (whole - low + step) % (high - low + 1)).to(value.dtype)


@torch.no_grad()
def scale_zero_is_absence(case: Case) -> None:
    """At scale 0 the plugin is not there; at 1 it is as trained."""
    host = case.host()
    close(case.run(host, scale=0.0), case.run(case.host(alone=False)), "scale 0 against no plugin")


def gradients_reach_the_plugin_only(case: Case) -> None:
    """Every trainable parameter gets a gradient from kept and null rows together; the backbone gets none."""
    host = case.host()
    plugin = host.plugin(case.name)
    if not any(p.requires_grad for p in plugin.parameters()):
        return
    mixed = torch.tensor([False] + [True] * (len(case.frames) - 1))
    batch = case.batch(host)
    prediction = case.run(host, keep=mixed, batch=batch)
    _, t = case.latents(host, batch.grid.rows)
    extra = plugin.loss(prediction, torch.zeros_like(prediction), t, batch.arrays[case.name])
    total = prediction.square().mean() + (0.0 if extra is None else extra)
    total.backward()
    got = [name for name, p in plugin.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)]
    assert got, "no parameter of the plugin gets a gradient"
    none = [name for name, p in plugin.named_parameters() if p.requires_grad and p.grad is None]
    assert not none, f"parameters outside of the graph: {none[:10]}"
    held = [name for name, p in host.backbone.named_parameters() if p.grad is not None]
    assert not held, f"gradients reached the backbone: {held[:10]}"


def state_holds_no_backbone(case: Case) -> None:
    """The plugin's parameters and state are its own."""
    host = case.host()
    mine = {p.data_ptr() for p in host.plugin(case.name).state_dict().values() if p.numel()}
    theirs = {p.data_ptr(): name for name, p in host.backbone.state_dict().items() if p.numel()}
    shared = sorted(theirs[p] for p in mine & theirs.keys())
    assert not shared, f"the plugin's state dict holds weights of the backbone: {shared[:10]}"


@torch.no_grad()
def survives_saving(case: Case) -> None:
    """Configuration through JSON and weights through a state dict give the same bits."""
    host = case.host()
    plugin = host.plugin(case.name)
    config = json.loads(json.dumps(plugin.config))
    other = Host(case.backbone(), {**{n: m() for n, m in case.others.items()}, case.name: type(plugin)(**config)}).eval()
    other.plugin(case.name).load_state_dict(plugin.state_dict(), strict=True)
    batch = case.batch(host)
    same(case.run(other, batch=batch), case.run(host, batch=batch), "saved and loaded")


@torch.no_grad()
def survives_copies(case: Case) -> None:
    """Pickle and deepcopy give the same bits, and a copy's layers are its own."""
    host = case.host()
    batch = case.batch(host)
    before = case.run(host, batch=batch)
    light = pickle.dumps(host.plugin(case.name).weightless())
    assert pickle.loads(light).config == host.plugin(case.name).config
    for how, twin in (("pickle", pickle.loads(pickle.dumps(host))), ("deepcopy", copy.deepcopy(host))):
        same(case.run(twin, batch=batch), before, how)
        disturb(twin.plugin(case.name), seed=9)
        same(case.run(host, batch=batch), before, f"the original after its {how} changed")
        if any(True for _ in twin.plugin(case.name).parameters()):
            fresh = case.host()
            fresh.plugin(case.name).load_state_dict(twin.plugin(case.name).state_dict())
            same(case.run(twin, batch=batch), case.run(fresh, batch=batch), f"the {how} after it changed")


def checkpointing_is_exact(case: Case) -> None:
    """Gradient checkpointing changes no gradient, also when two evaluations share one backward."""
    grads = []
    for checkpointed in (False, True):
        host = case.host().train()
        for parameter in host.backbone.unet.parameters():
            parameter.requires_grad_(True)
        if checkpointed:
            host.enable_gradient_checkpointing()
        batch = case.batch(host)
        kept = host.encode(batch.arrays, batch.grid)
        null = host.encode(batch.arrays, batch.grid, {case.name: False}, {case.name: 0.5})
        loss = case.predict(host, kept).square().mean() + 2 * case.predict(host, null, t=300).square().mean()
        loss.backward()
        parameters = {**dict(host.plugin(case.name).named_parameters()), **dict(host.backbone.unet.named_parameters())}
        grads.append({n: p.grad.clone() for n, p in parameters.items() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    scale = max(float(g.norm()) for g in grads[0].values())
    for name, gradient in grads[0].items():
        error = float((grads[1][name] - gradient).norm())
        assert error <= TOLERANCE * max(float(gradient.norm()), 1e-3 * scale), (
            f"gradient of {name} differs by {error:.2e} with checkpointing"
        )


class Witness(Plugin):
    """A second plugin that adds a term of its own at the UNet's input, to test order with."""

    def attach(self, backbone: Any) -> None:
        def build(name: str, site: nn.Module) -> nn.Module:
            torch.manual_seed(5)
            return _WitnessLayer(int(backbone.unet.config.block_out_channels[0]))

        self.tap("conv_in", build)


class _WitnessLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(1, width, 1, 1))

    def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
        return self.shift


@torch.no_grad()
def order_does_not_matter(case: Case) -> None:
    """Before or after another plugin, the prediction is the same."""
    after, before = (case.host(extra={"witness": Witness()}, first=first) for first in (True, False))
    # Layers are initialised in the order of attachment, so the same weights have to be put there.
    before.plugins.load_state_dict(after.plugins.state_dict())
    close(case.run(before), case.run(after), "before another plugin against after it")


@torch.no_grad()
def batch_equals_singles(case: Case) -> None:
    """A batch gives what its frames give alone, at equal padding."""
    host = case.host()
    batch = case.batch(host)
    whole = case.run(host, batch=batch)
    views = batch.grid.views
    x, t = case.latents(host, batch.grid.rows)
    for b in range(len(case.frames)):
        arrays = {n: {k: v[b : b + 1] for k, v in group.items()} for n, group in batch.arrays.items()}
        conditions = host.encode(arrays, Grid(1, 1, views))
        rows = slice(b * views, (b + 1) * views)
        close(host(x[rows], t[rows], conditions, 0.5), whole[rows], f"frame {b} alone against in a batch")


@torch.no_grad()
def bf16_is_near_fp32(case: Case) -> None:
    """bf16 stays within 2 % of fp32."""
    host = case.host()
    batch = case.batch(host)
    full = case.run(host, batch=batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = case.run(host, batch=batch)
    close(half, full, "bf16 against fp32", 0.02)


CHECKS: Mapping[str, Callable[[Case], None]] = {
    check.__name__: check
    for check in (
        identity_at_initialisation, has_an_effect, null_leaks_nothing, scale_zero_is_absence, gradients_reach_the_plugin_only,
        state_holds_no_backbone, survives_saving, survives_copies, checkpointing_is_exact, order_does_not_matter,
        batch_equals_singles, bf16_is_near_fp32,
    )
}  # fmt: skip
"""The battery, by name."""

"""The contract of every plugin, as checks that raise AssertionError; 1e-5 relative unless "the same bits"."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host import array_boundary, boundary
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.plugin import Arrays, Grid, TrainingStep
from drivegen.plugin.unknown import unmarked
from drivegen.support.errors import InputError
from drivegen.testing.case import TOLERANCE, Case, close, disturb, same
from drivegen.testing.frames import elsewhere
from drivegen.testing.surroundings import fits_other_widths, order_does_not_matter, others_scales_reach_it, works_on_clips


@torch.no_grad()
def identity_at_initialisation(case: Case) -> None:
    """A fresh plugin changes nothing, apart from the tokens that it appends, which enter the softmax, and its vectors."""
    bare, fresh = case.host(alone=False), case.host(trained=False)
    batch = case.batch(bare)
    conditions = bare.encode(batch.arrays, batch.grid)
    without = case.predict(bare, conditions)
    batch = case.batch(fresh)
    # The UNet is given the context of the bare host, so that all which remains of the plugin is what it adds elsewhere.
    encoded = fresh.encode(batch.arrays, batch.grid)
    mine = replace(encoded.signals[case.name], added={})
    unseen = replace(encoded, signals={**encoded.signals, case.name: mine}, joined={None: conditions.joined[None]})
    close(case.predict(fresh, unseen), without, "a fresh plugin, tokens left out, against none")


@torch.no_grad()
def has_an_effect(case: Case) -> None:
    """A trained plugin that is present changes the prediction, or weighs or adds to the loss, or guides."""
    host = case.host()
    if {"weight", "loss", "guide"} & set(host.plugin(case.name).overridden()):
        outcomes(case, host, case.batch(host))
        return
    assert not torch.equal(case.run(host), case.run(case.host(alone=False))), (
        "the plugin has no effect: no test of it could fail"
    )


def outcomes(case: Case, host: Host, batch: data.Batch) -> list[Tensor]:
    """Return everything that the plugin affects: the prediction, its weights for the loss, and its own loss.

    Args:
        case: the plugin under test.
        host: with the plugin.
        batch: prepared frames.
    """
    prediction = case.run(host, batch=batch)
    arrays, plugin = batch.arrays[case.name], host.plugin(case.name)
    noise, t = case.latents(host, batch.grid.rows)
    schedule, clean = NoiseSchedule.trained(host.backbone.scheduler), torch.zeros_like(noise)
    target = schedule.target(clean, noise, t)
    step = TrainingStep(t, clean, noise, schedule.add_noise(clean, noise, t), prediction, target, schedule)
    weight = boundary.weight(case.name, plugin, arrays, step)
    loss = boundary.loss(case.name, plugin, prediction, torch.zeros_like(prediction), t, arrays)
    return [part for part in (prediction, weight, loss) if part is not None]


@torch.no_grad()
def reads_its_arrays(case: Case) -> None:
    """Other arrays, of other frames or of other values, change the prediction, the weights or the loss."""
    host = case.host()
    batch = case.batch(host)
    mine = batch.arrays[case.name]
    if not any(value.numel() for value in mine.values()):
        return
    before = outcomes(case, host, batch)
    there = case.batch(host, tuple(map(elsewhere, case.frames))).arrays[case.name]
    for other in (there, scramble(mine)):
        changed = data.Batch(batch.grid, {**batch.arrays, case.name: other})
        try:
            after = outcomes(case, host, changed)
        except InputError:
            return  # values that prepare would never give are refused, so they are read
        if any(not torch.equal(a, b) for a, b in zip(after, before, strict=True)):
            return
    raise AssertionError(f"none of the arrays {', '.join(mine)} changes anything: they are prepared and not read")


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
    """Replace every array by its least value, or a float one by zeros, so that counts and sums are lost."""
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
    """At scale 0 the plugin is absent; at 1 it is as trained."""
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
    extra = boundary.loss(case.name, plugin, prediction, torch.zeros_like(prediction), t, batch.arrays[case.name])
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
    other = case.host(trained=False, make=lambda: type(plugin)(**config))
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


@torch.no_grad()
def batch_equals_singles(case: Case) -> None:
    """A batch gives the same results as its frames one by one, at equal padding."""
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
def unknown_is_null(case: Case) -> None:
    """A frame without the neighbours that the plugin needs may be unknown: null, without changing the frames beside it."""
    host = case.host()
    if not any(host.plugin(case.name).neighbours):
        return
    first, *others = case.frames
    batch = case.batch(host, (replace(first, neighbours=()), *others))
    if bool(batch.known[case.name][0]):  # it does without
        return
    keep = torch.tensor([False] + [True] * len(others))
    close(case.run(host, batch=batch), case.run(host, keep=keep), "a frame that is unknown against one that is null")


@torch.no_grad()
def precomputed_is_the_same(case: Case) -> None:
    """What `precompute` makes of each frame, kept and collated as the training cache does, gives what the frames give."""
    host = case.host()
    plugin = host.plugin(case.name)
    if "precompute" not in plugin.overridden():
        return
    kept = []
    for frame in case.frames:
        made = array_boundary.precompute(case.name, plugin, unmarked(case.batch(host, (frame,)).arrays[case.name]))
        if made is None:
            return
        kept.append({key: value[0].numpy() for key, value in made.items()})
    batch = case.batch(host)
    arrays = {key: torch.from_numpy(value) for key, value in array_boundary.collate(case.name, plugin, kept).items()}
    mine = data.Batch(batch.grid, {**batch.arrays, case.name: arrays})
    for keep in (torch.ones(len(kept)).bool(), torch.arange(len(kept)) > 0):
        close(case.run(host, keep, batch=mine), case.run(host, keep, batch=batch), "from the training cache against anew")


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
        identity_at_initialisation, has_an_effect, reads_its_arrays, null_leaks_nothing, scale_zero_is_absence,
        gradients_reach_the_plugin_only, state_holds_no_backbone, survives_saving, survives_copies, checkpointing_is_exact,
        order_does_not_matter, others_scales_reach_it, batch_equals_singles, works_on_clips, fits_other_widths,
        unknown_is_null, precomputed_is_the_same, bf16_is_near_fp32,
    )
}  # fmt: skip
"""The battery, by name."""

"""The battery on a plugin by its kind: which promises hold, which is broken, and where to look."""

from __future__ import annotations

import contextlib
import functools
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drivegen import datasets
from drivegen.backbones.stable_diffusion import Backbone
from drivegen.catalog import registry
from drivegen.catalog.construct import construct_plugin
from drivegen.host import array_boundary, boundary
from drivegen.plugin import Plugin
from drivegen.plugin.inputs import read_inputs
from drivegen.plugin.unknown import KNOWN
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from drivegen.testing.battery import CHECKS, Case
from drivegen.testing.models import tiny_backbone

LOOK: Mapping[str, str] = {
    "identity_at_initialisation": "attach: the last layer of what is added must begin at zero",
    "has_an_effect": "encode, residuals or a tap's layer: what they give must depend on the plugin's parameters",
    "reads_its_arrays": "encode, weight or loss: use every array that prepare gives, or do not prepare it",
    "null_leaks_nothing": "encode: choose with select_or_null(keep, …, null) after all that is computed from the arrays",
    "scale_zero_is_absence": "attach: the backbone is read and never changed",
    "gradients_reach_the_plugin_only": "attach and encode: a parameter that takes part in nothing, or a detached computation",
    "state_holds_no_backbone": "attach: a buffer or parameter that is the backbone's own memory; clone it",
    "survives_saving": "attach: what is drawn or computed there must be a parameter or a buffer, or follow from the options",
    "survives_copies": "layers and closures that are kept outside of the plugin",
    "checkpointing_is_exact": "a layer that counts its calls or keeps something between them",
    "order_does_not_matter": "a tap's layer that reads y, which other plugins change too",
    "others_scales_reach_it": "attach: name each branch with self.attends(branch), and use context.attend() as it is",
    "batch_equals_singles": "encode: something is computed over the frames of a batch, such as a mean over dimension 0",
    "works_on_clips": "per_row and now.grid: rows are B·T·V, and arrays (B·T, …)",
    "fits_other_widths": "attach: take widths from the backbone (token_width) and from the tapped site",
    "unknown_is_null": "prepare and encode: what Unknown holds must not be seen where keep is False",
    "precomputed_is_the_same": "precompute: it must give, per frame, arrays that encode reads as it reads prepare's",
    "bf16_is_near_fp32": "casts to the dtype of the plugin's weights, and differences of large numbers",
}
"""Where to look first when a check finds something."""

_THREE_LEVELS: Mapping[str, Any] = {
    "block_out_channels": (32, 64, 64), "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip

_SEARCHED = 200
"""Samples of a dataset among which two are looked for."""


@dataclass(frozen=True)
class Outcome:
    """What one check found: broken is empty where the promise holds; place is a line of the plugin's own source, or empty."""

    check: str
    broken: str = ""
    place: str = ""


def case_of(
    kind: str, options: Mapping[str, Any], user_input: Any = None, beside: Sequence[str] = (), root: Path | None = None
) -> Case:
    """Make the case of an installed plugin.

    Args:
        kind: its kind.
        options: its constructor's arguments.
        user_input: what a caller gives it for every frame.
        beside: kinds of plugins that stand before it, such as one whose tokens it attends to.
        root: a dataset whose frames are taken in place of the battery's own.

    Raises InputError where kind, options, input or data cannot be used.
    """
    cls = registry.load(kind)
    where = f"--options of {kind}"
    plugin = construct_plugin(cls, options, where)
    boundary.check_plugin(kind, plugin)
    case = Case(
        functools.partial(construct_plugin, cls, dict(options), where), user_input=user_input, name=kind,
        others={other: registry.load(other) for other in beside}, backbone=_backbone(kind, plugin, bool(options)),
    )  # fmt: skip
    if kind in case.others:
        raise InputError(f"--beside {kind} is the plugin under test itself; leave it out")
    for each in plugin.accepts or ():
        if each.required and user_input is None:
            raise InputError(f"{kind} needs {each.name}, {each.what} ({each.accepted}); give it with --input {kind}=…")
    if user_input is not None:
        read_inputs(kind, plugin.accepts, case.frames[0], user_input)
    return case if root is None else replace(case, frames=_recorded(root, case))


def _backbone(kind: str, plugin: Plugin, chosen: bool) -> Callable[[], Backbone]:
    """Choose the tiny backbone that a plugin can be attached to: with an image encoder, of three levels, where it needs it.

    Where it can be attached to none and options were chosen, raises InputError; without, the checks say what is wrong.
    """
    small = functools.partial(tiny_backbone, image_encoder="image_encoder" in plugin.requires)
    why = ""
    for backbone in (small, functools.partial(small, unet=dict(_THREE_LEVELS))):
        try:
            Case(functools.partial(type(plugin), **plugin.config), backbone=backbone, name=kind).host(trained=False)
        except Exception as error:
            why = why or " ".join(str(error).split())
        else:
            return backbone
    if chosen:
        raise InputError(f"--options of {kind}: with them it cannot be attached: {why}")
    return small


def _recorded(root: Path, case: Case) -> tuple[Frame, ...]:
    """Find two frames of a dataset of which the plugin knows something, of different scenes where there are several."""
    kind, plugin = case.name, case.plugin()
    with contextlib.suppress(InputError):  # where it cannot be attached, the checks say so
        plugin = case.host(trained=False).plugin(kind)
    source = datasets.open(root)
    scenes = [source.samples(scene) for scene in source.scenes]
    order = [token for row in zip(*scenes, strict=False) for token in row] + [t for tokens in scenes for t in tokens]
    found: list[Frame] = []
    for token in list(dict.fromkeys(order))[:_SEARCHED]:
        frame = source.frame_with_neighbours(token, *plugin.neighbours).resized(64, 48)
        if found and len(frame.cameras) != len(found[0].cameras):
            continue
        given = frame.extras.get(kind) if case.user_input is None else case.user_input
        if KNOWN not in array_boundary.prepare(kind, plugin.weightless(), frame, given):
            found.append(frame)
        if len(found) == 2:
            return tuple(found)
    raise InputError(
        f"{root} has no two frames, of equal numbers of cameras, of which {kind} knows something, among its first {_SEARCHED}"
    )


def run_checks(case: Case) -> Iterator[Outcome]:
    """Run the battery, one outcome after the other."""
    for name, check in CHECKS.items():
        try:
            check(case)
        except Exception as error:
            said = " ".join(str(error).split()) or "no reason given"
            known = isinstance(error, (AssertionError, InputError))
            yield Outcome(name, said if known else f"{type(error).__name__}: {said}", _place(error, case))
        else:
            yield Outcome(name)


def _place(error: BaseException | None, case: Case) -> str:
    """Name the innermost line of the plugin's own module that an error passed through, ``file:line``."""
    cls = type(case.plugin())
    own = getattr(sys.modules.get(cls.__module__), "__file__", None)
    found = ""
    while error is not None:
        lines = [entry for entry in traceback.extract_tb(error.__traceback__) if entry.filename == own]
        found = f"{lines[-1].filename}:{lines[-1].lineno} in {lines[-1].name}" if lines else found
        error = error.__cause__
    return found

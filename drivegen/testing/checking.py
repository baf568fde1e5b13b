"""The battery on a plugin by its kind: which promises hold, which is broken, and where to look."""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from drivegen import datasets
from drivegen.backbones.stable_diffusion import Backbone
from drivegen.catalog import registry
from drivegen.catalog.construct import construct_plugin
from drivegen.host import array_boundary, boundary
from drivegen.host.evaluation import LacksPlugin
from drivegen.plugin import Plugin
from drivegen.plugin.inputs import read_inputs
from drivegen.plugin.unknown import KNOWN
from drivegen.saved import model as models
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from drivegen.testing.battery import CHECKS, Case
from drivegen.testing.models import tiny_backbone, tiny_image_encoder

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


@dataclass(frozen=True)
class InstalledCase(Case):
    """A case made from a plugin's kind; said is what it is checked on, in words."""

    said: str = ""


def case_of(
    kind: str, options: Mapping[str, Any], user_input: Any = None, beside: Sequence[str] = (), root: Path | None = None,
    model: str = "tiny",
) -> InstalledCase:  # fmt: skip
    """Make the case of an installed plugin.

    Plugins that a branch of it attends to stand before it, and it is given made-up pictures where it changes nothing without
    any. Where it refuses the model's networks, they are small random ones.

    Args:
        kind: its kind.
        options: its constructor's arguments.
        user_input: what a caller gives it for every frame.
        beside: kinds of plugins that stand before it.
        root: a dataset whose frames are taken in place of the battery's own.
        model: whose networks it is attached to: "tiny", the embedded one, or a model folder.

    Raises InputError where kind, options, input, data or model cannot be used.
    """
    cls = registry.load(kind)
    where = f"--options of {kind}"
    plugin = construct_plugin(cls, options, where)
    boundary.check_plugin(kind, plugin)
    case = InstalledCase(
        functools.partial(construct_plugin, cls, dict(options), where), user_input=user_input, name=kind,
        others={other: registry.load(other) for other in beside},
    )  # fmt: skip
    if kind in case.others:
        raise InputError(f"--beside {kind} is the plugin under test itself; leave it out")
    for each in plugin.accepts or ():
        if each.required and each.type != "picture" and user_input is None and root is None:
            raise InputError(f"{kind} needs {each.name}, {each.what} ({each.accepted}); give it with --input {kind}=…")
    case, networks = _attached(case, plugin, model, bool(options))
    said = ["two built-in frames" if root is None else f"two frames of {root}", networks]
    if root is not None:
        case = replace(case, frames=_recorded(root, case))
    if user_input is not None:
        read_inputs(kind, plugin.accepts, case.frames[0], user_input)
    elif _needs_pictures(case, plugin):
        case, said = replace(case, user_input=_made_up(plugin, case.frames)), [*said, "made-up pictures"]
    case = _with_attended(case)
    if case.others:
        said.append(f"beside {', '.join(case.others)}")
    return replace(case, said=", ".join(said))


def _attached(case: InstalledCase, plugin: Plugin, model: str, chosen: bool) -> tuple[InstalledCase, str]:
    """Choose the networks: the model's, or, where the plugin refuses those in `attach`, the first small random ones that it
    takes; with their name.

    An image encoder that it requires and the model lacks is a small random one. Where it refuses all and options were chosen,
    raises InputError; without, the checks say what is wrong.
    """
    own = models.load(model).host.backbone
    lacking = [part for part in plugin.requires if own.component(part) is None]
    if "image_encoder" in lacking:
        own.components["image_encoder"] = tiny_image_encoder()
    for part in lacking:
        if part != "image_encoder":
            raise InputError(f"{case.name} requires {part!r}, which {model} lacks; give a --model that has it")
    factor = own.vae_factor if own.vae_factor in (2, 4, 8) else 8  # what is given at the latents' size fits both
    small = functools.partial(tiny_backbone, vae_factor=factor, image_encoder="image_encoder" in plugin.requires)
    others: dict[str, Callable[[], Backbone]] = {"two": small, "three": functools.partial(small, unet=dict(_THREE_LEVELS))}
    first = replace(case, backbone=functools.partial(copy.deepcopy, own), wider=small)
    refused = _refusal(first)
    if refused is None:
        return first, f"the networks of {model}"
    for levels, backbone in others.items():
        second = replace(case, backbone=backbone)
        if isinstance(refused, InputError) and _refusal(second) is None:
            said = " ".join(str(refused).split())
            return second, f"small random networks of {levels} levels (it refuses those of {model}: {said})"
    if chosen:
        said = " ".join(str(refused).split())
        raise InputError(f"--options of {case.name}: with them it cannot be attached: {said}") from refused
    return first, f"the networks of {model}"


def _refusal(case: Case) -> Exception | None:
    try:
        case.host(trained=False)
    except Exception as error:
        return error
    return None


def _with_attended(case: InstalledCase) -> InstalledCase:
    """Put those plugins before it whose tokens its branches ask for by name, where these are kinds that are installed."""
    while True:
        try:
            case.run(case.host())
        except Exception as error:  # the checks say what is wrong
            lacks = error if isinstance(error, LacksPlugin) else error.__cause__
            if not isinstance(lacks, LacksPlugin) or lacks.name in case.others or lacks.name not in registry.kinds():
                return case
            case = replace(case, others={**case.others, lacks.name: registry.load(lacks.name)})
        else:
            return case


def _needs_pictures(case: Case, plugin: Plugin) -> bool:
    """Tell whether a plugin that is given no pictures cannot work, or changes nothing."""
    pictures = [each for each in plugin.accepts or () if each.type == "picture"]
    if not pictures or any(case.name in frame.extras for frame in case.frames):
        return False
    if any(each.required for each in pictures):
        return True
    with contextlib.suppress(Exception):  # the checks say what is wrong
        return torch.equal(case.run(case.host()), case.run(case.host(alone=False)))
    return False


def _made_up(plugin: Plugin, frames: Sequence[Frame]) -> Any:
    """Make pictures for the inputs that are pictures; None where there are none."""
    inputs = plugin.accepts or ()
    pictures = {}
    for each in inputs:
        if each.type == "picture":
            channels = [channel for channel in frames[0].channels if all(channel in frame.channels for frame in frames)]
            size, random = frames[0].cameras[0].image_size, np.random.default_rng(0)
            drawn = [random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) for _ in channels]
            made = {channel: Image.fromarray(array) for channel, array in zip(channels, drawn, strict=True)}
            pictures[each.name] = made if each.per_camera else made[channels[0]]
    if not pictures:
        return None
    return pictures[inputs[0].name] if len(inputs) == 1 else pictures


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
        given = _made_up(plugin, (frame,)) if given is None else given
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

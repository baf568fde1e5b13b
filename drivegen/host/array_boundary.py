"""The boundary in the data workers: what `prepare`, `collate` and `precompute` of a plugin give is checked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivegen.host.boundary import calling, check_plugin, label
from drivegen.plugin import Arrays, Plugin
from drivegen.plugin.inputs import described, read_inputs
from drivegen.plugin.unknown import KNOWN, Unknown, marked, unmarked
from drivegen.scene import Frame
from drivegen.support.errors import InputError


def prepare(name: str, plugin: Plugin, frame: Frame, given: Any) -> dict[str, np.ndarray]:
    """Call `prepare` with what the caller gave, checked and converted, and check its arrays.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        frame: the frame.
        given: what the caller gave, None = nothing.

    Returns its arrays, with the mark of `plugin.unknown` where the frame is unknown to it.
    """
    check_plugin(name, plugin)
    user_input = read_inputs(name, plugin.accepts, frame, given)
    with calling(name, plugin, "prepare"):
        found = plugin.prepare(frame, user_input)
    where = label(name, plugin, "prepare")
    arrays = found.arrays if isinstance(found, Unknown) else found
    if not isinstance(arrays, dict):
        raise InputError(f"{where}: gave {described(arrays)}; expected a dict of numpy arrays, {{}} for none")
    _check_numpy(where, arrays)
    return marked(found)


def collate(
    name: str, plugin: Plugin, items: Sequence[Mapping[str, np.ndarray]], samples: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Call `collate` with the arrays of B frames, after checking that they go together, and check what it gives.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        items: arrays of each frame.
        samples: the frames' tokens, for messages.
    """
    check_plugin(name, plugin)
    tokens = [*samples, *(str(i) for i in range(len(samples), len(items)))]
    first = items[0]
    for token, item in zip(tokens, items, strict=False):
        if item.keys() != first.keys():
            what = f"{_keys(first)} for frame {tokens[0]!r} and {_keys(item)} for frame {token!r}"
            raise InputError(f"{label(name, plugin, 'prepare')}: gave {what}; expected the same arrays for every frame")
        if type(plugin).collate is Plugin.collate:
            _check_stackable(label(name, plugin, "prepare"), tokens[0], first, token, item)
    if not first:
        return {}
    with calling(name, plugin, "collate", first):
        found = plugin.collate([dict(item) for item in items])
    where = label(name, plugin, "collate")
    if not isinstance(found, dict):
        raise InputError(f"{where}: gave {described(found)}; expected a dict of numpy arrays")
    _check_numpy(where, found)
    _check_first(where, found, len(items))
    return found


def precompute(name: str, plugin: Plugin, arrays: Arrays) -> Arrays | None:
    """Call `precompute`, and check that it gives tensors (B, …), or None.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        arrays: its arrays (B, …).
    """
    with calling(name, plugin, "precompute", arrays):
        found = plugin.precompute(arrays)
    if found is None:
        return None
    where = label(name, plugin, "precompute")
    _check_tensors(where, found, arrays, ", or None")
    for key, value in found.items():
        if value.dtype == torch.bfloat16 or value.is_complex():
            raise InputError(f"{where}: {key!r} is {described(value)}, which numpy does not have; expected float32 or float16")
    return found


def augment(name: str, plugin: Plugin, arrays: Arrays) -> Arrays:
    """Call `augment` with a plugin's own arrays, and check that it gives tensors (B, …); the mark of unknown frames stays.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        arrays: its arrays (B, …), and the mark.
    """
    own = unmarked(arrays)
    if type(plugin).augment is Plugin.augment or not own:
        return arrays
    with calling(name, plugin, "augment", own):
        found = plugin.augment(own)
    _check_tensors(label(name, plugin, "augment"), found, own)
    return {**found, **{key: value for key, value in arrays.items() if key not in own}}


def _check_tensors(where: str, found: Any, arrays: Arrays, more: str = "") -> None:
    """Check that a hook gave tensors (B, …) by name.

    Args:
        where: which plugin and hook, for the error.
        found: what it gave.
        arrays: what it was given, (B, …).
        more: what else is expected, for the error.
    """
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InputError(f"{where}: gave {described(found)}; expected a dict of tensors by name{more}")
    for key, value in found.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{where}: {key!r} is {described(value)}; expected a torch tensor")
    _check_first(where, found, len(next(iter(arrays.values()))))


def _keys(arrays: Mapping[str, Any]) -> str:
    return f"the arrays {', '.join(arrays)}" if arrays else "no arrays"


def _check_numpy(where: str, arrays: Mapping[Any, Any]) -> None:
    for key, value in arrays.items():
        if not isinstance(key, str):
            raise InputError(f"{where}: an array has the name {key!r}, a {type(key).__name__}; expected text")
        if not isinstance(value, np.ndarray):
            raise InputError(
                f"{where}: {key!r} is {described(value)}; expected a numpy array, such as np.asarray(…, np.float32)"
            )
        if isinstance(value, np.ma.MaskedArray):
            raise InputError(f"{where}: {key!r} is a masked array, whose mask would be lost; give both as arrays")
        if key == KNOWN:
            raise InputError(f"{where}: an array has the name {key!r}, by which the host tells unknown frames; use another")
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise InputError(f"{where}: {key!r} is {described(value)}; expected an array of numbers or bools")


def _check_first(where: str, arrays: Mapping[str, Any], count: int) -> None:
    """Check that arrays are (B, …)."""
    for key, value in arrays.items():
        if not value.ndim or len(value) != count:
            raise InputError(f"{where}: {key!r} has shape {tuple(value.shape)}; expected (B, …) with B = {count}")


def _check_stackable(where: str, one: str, first: Mapping[str, np.ndarray], other: str, item: Mapping[str, np.ndarray]) -> None:
    for key, value in first.items():
        a, b = np.asarray(value), np.asarray(item[key])
        if a.shape != b.shape or a.dtype != b.dtype:
            what, ours, theirs = ("shape", a.shape, b.shape) if a.shape != b.shape else ("dtype", a.dtype, b.dtype)
            raise InputError(
                f"{where}: {key!r} has {what} {ours} for frame {one!r} and {theirs} for frame {other!r}, which the default "
                "collate cannot stack; expected one for all frames, or a collate of the plugin's own that pads"
            )

"""From frames to batches: each plugin's `prepare`, then its `collate`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivegen.host import array_boundary
from drivegen.plugin import Arrays, Grid, Plugin
from drivegen.plugin.unknown import KNOWN, unmarked
from drivegen.scene import Frame
from drivegen.support.errors import InputError, nearest

Prepared = dict[str, dict[str, np.ndarray]]
"""Arrays of one frame: instance name → array name → array."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Frames of equal view count as tensors: arrays[instance name][array name] is (B, …); samples are the frames' tokens."""

    grid: Grid
    arrays: Mapping[str, Arrays]
    samples: tuple[str, ...] = ()

    @property
    def known(self) -> dict[str, Tensor]:
        """Which frames (B,) each plugin has data for; the others are null for it (`plugin.Unknown`)."""
        every = torch.ones(self.grid.scenes * self.grid.frames, dtype=torch.bool)
        return {name: group.get(KNOWN, every) for name, group in self.arrays.items()}

    def to(self, device: torch.device | str) -> Batch:
        """Move every array to a device."""
        moved = {name: {k: v.to(device, non_blocking=True) for k, v in group.items()} for name, group in self.arrays.items()}
        return replace(self, arrays=moved)


def prepare(
    frame: Frame, plugins: Mapping[str, Plugin], inputs: Mapping[str, Any] | None = None, training: bool = False
) -> Prepared:
    """Prepare one frame for each plugin.

    Args:
        frame: the frame.
        plugins: the plugins by instance name.
        inputs: what the caller gives to each by name; what it leaves out is looked for in the frame's extras.
        training: whether a plugin that is given nothing gets its `training_input`.
    """
    for name in inputs or {}:
        if name not in plugins:
            names = ", ".join(plugins) or "none"
            raise InputError(f"inputs are given for {name!r}, but the model's plugins are {names}{nearest(name, plugins)}")
    user_input = {**frame.extras, **(inputs or {})}
    if training:
        user_input = {name: plugin.training_input for name, plugin in plugins.items()} | user_input
    return {name: array_boundary.prepare(name, plugin, frame, user_input.get(name)) for name, plugin in plugins.items()}


def collate(prepared: Sequence[Prepared], plugins: Mapping[str, Plugin], views: int, samples: Sequence[str] = ()) -> Batch:
    """Join prepared frames into a batch of tensors, which keep the arrays' dtypes.

    Args:
        prepared: arrays of each frame.
        plugins: the plugins by instance name.
        views: V, which all frames have.
        samples: the frames' tokens, for messages.
    """
    arrays: dict[str, dict[str, Tensor]] = {}
    for name, plugin in plugins.items():
        joined = array_boundary.collate(name, plugin, [unmarked(item[name]) for item in prepared], samples)
        arrays[name] = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in joined.items()}
        if any(KNOWN in item[name] for item in prepared):
            arrays[name][KNOWN] = torch.tensor([KNOWN not in item[name] for item in prepared])
    return Batch(Grid(len(prepared), 1, views), arrays, tuple(samples))


def neighbours_wanted(plugins: Mapping[str, Plugin]) -> tuple[float, float]:
    """Return the largest past and future in seconds that any of the plugins needs; raises InputError for an invalid one."""
    wanted = [(0.0, 0.0)]
    for name, plugin in plugins.items():
        pair = plugin.neighbours
        numbers = isinstance(pair, (tuple, list)) and all(isinstance(s, (int, float)) and 0 <= s < math.inf for s in pair)
        if not numbers or len(pair) != 2:
            what = f"plugin {name!r} ({type(plugin).__name__}).neighbours is {pair!r}"
            raise InputError(f"{what}; it must be two numbers of seconds, past and future, each 0 or above")
        wanted.append((float(pair[0]), float(pair[1])))
    return max(past for past, _ in wanted), max(future for _, future in wanted)

"""What formats for trainers over time have in common: a sample's place in its sequence, and times that keep scenes apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from drivegen.export import infos
from drivegen.export.part import Part
from drivegen.export.samples import Sample


def in_sequence(part: Part) -> Iterator[tuple[Sample, dict[str, Any]]]:
    """Read the samples of a split with the info of each: scene after scene, and still so when sorted by time.

    A scene's first sample has no sweeps and every other has one: StreamPETR's loader tells sequences apart by that.
    """
    shifts = part.shifts()
    if shifts:
        part.notes["scene moved in time, as it overlaps another one: loaders sort by time"] += len(shifts)
    for sample in part.read():
        one = sample.shifted(shifts.get(sample.scene, 0))
        if one.index == 0:
            one = replace(one, sweeps=())
        place = {"prev": one.previous, "next": one.next, "frame_idx": one.index, "scene_token": one.scene_token}
        yield one, infos.info(part, one) | place

"""Renders with their true labels, for training and checking a referee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivegen.evaluate.referee import GROUP_OF_CLASS
from drivegen.support.errors import InputError
from drivegen.support.progress import track
from drivegen.world.conditions import TIMES, WEATHERS


@dataclass(frozen=True, eq=False)
class Renders:
    """Pictures of the city: images (N, H, W, 3) uint8, groups (N, H, W) uint8, time and weather (N,) int64."""

    images: NDArray[np.uint8]
    groups: NDArray[np.uint8]
    time: NDArray[np.int64]
    weather: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)


def conditions_of(description: str) -> tuple[int, int]:
    """Read (index into TIMES, index into WEATHERS) from the first words of a city's description: `Night, rain. …`."""
    time, _, weather = description.split(".")[0].partition(", ")
    if time.lower() not in TIMES or weather not in WEATHERS:
        raise InputError(f"description {description[:60]!r} does not begin with a time of day and a weather, as the city's do")
    return TIMES.index(time.lower()), WEATHERS.index(weather)


def read_renders(roots: Sequence[str | Path], frames: int | None = None) -> Renders:
    """Read every picture of datasets that `drivegen world` wrote, or of the first `frames` frames of each root."""
    from drivegen import world
    from drivegen.datasets import nuscenes

    images, groups, conditions = [], [], []
    for root in roots:
        dataset = nuscenes.open(root)
        for token in track(dataset.samples()[:frames], f"reading {root}"):
            frame = dataset.frame(token)
            for channel in frame.channels:
                view = world.truth(root, frame, channel)
                images.append(view.rgb)
                groups.append(GROUP_OF_CLASS[view.classes])
                conditions.append(conditions_of(frame.description))
    sizes = {image.shape for image in images}
    if len(sizes) != 1:
        raise InputError(f"{', '.join(map(str, roots))}: pictures of one size are needed, there are {sorted(sizes)}")
    time, weather = np.array(conditions, dtype=np.int64).T
    return Renders(np.stack(images), np.stack(groups), time, weather)

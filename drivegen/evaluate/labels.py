"""Judged images of a measurement, and the counts per scene."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from drivegen.evaluate.images import Images
from drivegen.evaluate.metrics.scores import overlap
from drivegen.evaluate.referee import GROUP_OF_CLASS, Referee
from drivegen.evaluate.variants import Key
from drivegen.scene.geometry import Array

FLOOR_SHIFTS = 5
"""Each frame's truth is held against the images of this many other scenes."""

Place = tuple[Key, str]
"""A view: frame and camera channel."""

Labels = dict[Place, NDArray[np.uint8]]
"""Label images (H, W) of values in GROUPS."""


@dataclass(frozen=True, eq=False)
class Judged:
    """The referee's verdict on one set of images: labels, time, weather and features, by view."""

    labels: Labels = field(default_factory=dict)
    time: dict[Place, int] = field(default_factory=dict)
    weather: dict[Place, int] = field(default_factory=dict)
    features: dict[Place, Array] = field(default_factory=dict)

    def add(self, referee: Referee, key: Key, images: Images) -> None:
        """Judge one frame's images.

        Args:
            referee: the judge.
            key: the frame.
            images: by camera channel.
        """
        verdict = referee(images.values())
        for i, channel in enumerate(images):
            place = (key, channel)
            self.labels[place] = verdict.groups[i]
            self.time[place], self.weather[place] = int(verdict.time[i]), int(verdict.weather[i])
            self.features[place] = verdict.features[i]


def truth_labels(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn the city's class image into the referee's groups."""
    return GROUP_OF_CLASS[classes]


def scene_sums(rows: Iterable[tuple[Key, Array]], scenes: int, width: int) -> Array:
    """Sum counts for each scene: (S, width).

    Args:
        rows: frames with their counts (width,).
        scenes: S.
        width: number of counts.
    """
    sums = np.zeros((scenes, width))
    for key, counts in rows:
        sums[key.scene] += counts
    return sums


def overlaps(truth: Labels, predicted: Mapping[Place, NDArray[np.uint8]], group: int, scenes: int) -> Array:
    """Count intersection and union of a group over the views of both: (S, 2).

    Args:
        truth: the true labels.
        predicted: the referee's labels.
        group: index into GROUPS.
        scenes: S.
    """
    rows = ((place[0], overlap(predicted[place], truth[place], group)) for place in truth if place in predicted)
    return scene_sums(rows, scenes, 2)


def floor_overlaps(truth: Labels, predicted: Mapping[Place, NDArray[np.uint8]], group: int, scenes: int) -> Array:
    """Count intersection and union with images generated for other frames: (S, 2).

    A view is compared with those of the same camera and moment in the next FLOOR_SHIFTS scenes that have that camera.

    Args:
        truth: the true labels.
        predicted: the referee's labels.
        group: index into GROUPS.
        scenes: S.
    """
    sums = np.zeros((scenes, 2))
    for place, labels in truth.items():
        if place not in predicted:
            continue
        for other in other_places(place, predicted, scenes):
            sums[place[0].scene] += overlap(predicted[other], labels, group)
    return sums


def other_places(place: Place, there: Container[Place], scenes: int) -> list[Place]:
    """List the views that a view is compared with by chance: of its camera and moment, in the next FLOOR_SHIFTS scenes.

    Args:
        place: the view.
        there: the views that there are.
        scenes: S; after the last one comes the first.
    """
    key, channel = place
    others = ((Key((key.scene + shift) % scenes, key.frame), channel) for shift in range(1, scenes))
    return [other for other in others if other in there][:FLOOR_SHIFTS]


def right(truth: Mapping[Key, int], said: Mapping[Place, int], places: Iterable[Place], scenes: int) -> Array:
    """Count [right answers, answers] over views: (S, 2).

    Args:
        truth: the true index of each frame.
        said: the referee's index of each view.
        places: the views that count.
        scenes: S.
    """
    return scene_sums(((p[0], np.array([said[p] == truth[p[0]], 1.0])) for p in places), scenes, 2)

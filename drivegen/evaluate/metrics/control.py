"""Are the conditions in the pictures: overlap with the projected layout, evidence for each box, objects without a box."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from drivegen.evaluate.metrics.expected import GROUP_OF_BOX, HIDDEN, Expected
from drivegen.evaluate.metrics.scores import in_both_and_in_either
from drivegen.evaluate.referee import GROUPS
from drivegen.scene import Frame
from drivegen.scene.geometry import Array

FOUND_AT = 0.25
"""A box is found where this share of its pixels is said to be of its group: an object fills about 70 % of its box's outline."""

LEAST_PIXELS = 20
"""Boxes of fewer pixels are not looked for."""

INVENTED_SHARE = 0.002
"""Smallest invented object, as a share of the picture's pixels."""

_SLACK = 0.02
"""Around each box this share of the picture's width may be the box's object too: its shadow, its mirrors."""

DISTANCES_M = (15.0, 30.0, 50.0)
SIZES = (0.003, 0.015)
"""Where boxes are parted by distance from the ego vehicle and by size, the share of a picture that they fill."""

DISTANCE_NAMES = ("0-15 m", "15-30 m", "30-50 m", "over 50 m")
SIZE_NAMES = ("below 0.3 % of a picture", "0.3-1.5 % of a picture", "over 1.5 % of a picture")

BINS = (
    "all", *(f"class {name}" for name in GROUP_OF_BOX), *(f"distance {name}" for name in DISTANCE_NAMES),
    *(f"size {name}" for name in SIZE_NAMES),
)  # fmt: skip
"""Names of the counts of `recalls`, in order."""

Labels = Mapping[str, NDArray[np.uint8]]
"""The referee's labels (H, W) by camera channel, indices into GROUPS."""


@dataclass(frozen=True)
class BoxEvidence:
    """A box, how many of its pixels are seen, and the share of them that is said to be of its group.

    channel and rectangle (left, top, right, bottom, in pixels) are of the view that shows most of it; number is its index in
    the frame.
    """

    token: str
    instance: str
    number: int
    category: str
    distance_m: float
    pixels: int
    share_of_picture: float
    evidence: float
    channel: str
    rectangle: tuple[int, int, int, int]


@dataclass(frozen=True)
class Invented:
    """Pixels said to be of a vehicle where no box is: rectangle (left, top, right, bottom), number, share of a view."""

    channel: str
    rectangle: tuple[int, int, int, int]
    pixels: int
    share_of_picture: float


def overlaps(labels: Labels, views: Sequence[Expected]) -> dict[str, Array]:
    """Count [intersection, union] in pixels of vehicles with their boxes and of drivable ground with the map.

    Mostly hidden boxes are left out of both, all boxes out of the ground; without a map there is no "drivable".
    """
    found: dict[str, Array] = {}
    for view in views:
        said = labels[view.channel]
        pairs = [("vehicle", view.vehicle, ~view.hidden)]
        if view.drivable is not None:
            pairs.append(("drivable", view.drivable, ~view.boxes))
        for name, mask, counted in pairs:
            row = in_both_and_in_either((said == GROUPS.index(name)) & counted, mask & counted)
            found[name] = found.get(name, np.zeros(2)) + row
    return found


def box_evidence(frame: Frame, labels: Labels, views: Sequence[Expected], groups: Sequence[str] = GROUPS) -> list[BoxEvidence]:
    """Look for each box of a frame in all views together; boxes of which too little is seen are left out.

    Args:
        frame: at its generated size.
        labels: by channel.
        views: of the same frame.
        groups: those that the referee can tell.
    """
    pixels, hits = np.zeros((2, len(views), len(frame.boxes)))
    of_box = np.array([_group(box.detection_class) for box in frame.boxes] + [255])
    for i, view in enumerate(views):
        seen = view.numbers[view.numbers >= 0]
        right = view.numbers[(view.numbers >= 0) & (labels[view.channel] == of_box[view.numbers])]
        pixels[i] = np.bincount(seen, minlength=len(frame.boxes))
        hits[i] = np.bincount(right, minlength=len(frame.boxes))
    eye = frame.global_SE3_ego.translation
    found = []
    for number, box in enumerate(frame.boxes):
        total = pixels[:, number].sum()
        group = GROUP_OF_BOX.get(box.detection_class or "")
        if total < LEAST_PIXELS or box.visibility == HIDDEN or group not in groups:
            continue
        best = int(pixels[:, number].argmax())
        shape = views[best].numbers.shape
        found.append(BoxEvidence(
            box.token, box.instance, number, box.detection_class or "other",
            float(np.linalg.norm((box.global_SE3_object.translation - eye)[:2])), int(total),
            float(pixels[best, number] / (shape[0] * shape[1])), float(hits[:, number].sum() / total), views[best].channel,
            _rectangle(views[best].numbers == number),
        ))  # fmt: skip
    return found


def invented(labels: Labels, views: Sequence[Expected]) -> list[Invented]:
    """Find what is said to be of a vehicle in each view and is neither on a box nor close to one, the largest first."""
    found = []
    for view in views:
        said = labels[view.channel] == GROUPS.index("vehicle")
        reach = 2 * max(1, round(_SLACK * said.shape[1])) + 1
        near = cv2.dilate((view.numbers >= 0).astype(np.uint8), np.ones((reach, reach), np.uint8))
        left = cv2.morphologyEx((said & (near == 0)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        count, _, stats, _ = cv2.connectedComponentsWithStats(left, connectivity=8)
        for x, y, w, h, size in stats[1:count].tolist():
            if size >= max(INVENTED_SHARE * said.size, LEAST_PIXELS):
                found.append(Invented(view.channel, (x, y, x + w, y + h), size, size / said.size))
    return sorted(found, key=lambda each: -each.pixels)


def recalls(boxes: Iterable[BoxEvidence], found_at: float = FOUND_AT) -> dict[str, Array]:
    """Count [found, boxes] of all, and by class, distance and size: names such as ``class car`` or ``distance 0-15 m``.

    Args:
        boxes: of any number of frames.
        found_at: the evidence at which a box is found.
    """
    counts: dict[str, Array] = {}
    for box in boxes:
        row = np.array([float(box.evidence >= found_at), 1.0])
        for name in ("all", f"class {box.category}", f"distance {distance_bin(box.distance_m)}", f"size {size_bin(box)}"):
            counts[name] = counts.get(name, np.zeros(2)) + row
    return counts


def distance_bin(distance_m: float) -> str:
    """Name the range of a distance: ``15-30 m``."""
    return DISTANCE_NAMES[sum(distance_m >= edge for edge in DISTANCES_M)]


def size_bin(box: BoxEvidence) -> str:
    """Name the range of a box's size in its view."""
    return SIZE_NAMES[sum(box.share_of_picture >= edge for edge in SIZES)]


def _group(name: str | None) -> int:
    group = GROUP_OF_BOX.get(name or "")
    return 254 if group is None else GROUPS.index(group)


def _rectangle(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

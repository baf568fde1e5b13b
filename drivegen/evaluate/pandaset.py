"""Real scenes: how much of the projected boxes and drivable area the referee finds in images generated for them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from drivegen.evaluate.images import Images
from drivegen.evaluate.metrics.expected import expected
from drivegen.evaluate.referee import DRIVABLE_GROUP, VEHICLE_GROUP, Referee
from drivegen.scene import Frame
from drivegen.scene.geometry import Array


def recall_sums(referee: Referee, frame: Frame, images: Images) -> dict[str, Array]:
    """Count for each group [found, expected, said, pixels]: recall is the first ratio, and chance the second.

    Args:
        referee: judges the images.
        frame: at its generated size.
        images: by camera channel.
    """
    verdict = referee(images.values())
    out = {name: np.zeros(4) for name in ("drivable", "vehicle")}
    for said, channel in zip(verdict.groups, images, strict=True):
        view = expected(frame, channel)
        masks = {"drivable": np.zeros_like(view.boxes) if view.drivable is None else view.drivable, "vehicle": view.vehicle}
        for name, group in (("drivable", DRIVABLE_GROUP), ("vehicle", VEHICLE_GROUP)):
            hit = said == group
            out[name] += [(hit & masks[name]).sum(), masks[name].sum(), hit.sum(), hit.size]
    return out


def pooled(rows: Iterable[dict[str, Array]]) -> dict[str, dict[str, float]]:
    """Pool the counts of frames into recall, and into the share of all pixels that was assigned to the group."""
    total = {name: np.zeros(4) for name in ("drivable", "vehicle")}
    for row in rows:
        for name, counts in row.items():
            total[name] += counts
    return {name: {"recall": float(t[0] / t[1]), "said_of_all_pixels": float(t[2] / t[3])} for name, t in total.items() if t[1]}

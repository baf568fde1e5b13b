"""What a frame's boxes and map say about each pixel of a view, to hold against what is seen there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivegen.raster import box_numbers, layout
from drivegen.scene import BEV_CLASSES, Frame

GROUP_OF_BOX = {
    "car": "vehicle", "truck": "vehicle", "construction_vehicle": "vehicle", "bus": "vehicle", "trailer": "vehicle",
    "motorcycle": "vehicle", "bicycle": "vehicle", "pedestrian": "pedestrian", "barrier": "barrier", "traffic_cone": "barrier",
}  # fmt: skip
"""The referee's group for each detection class."""

HIDDEN = 1
"""Annotated visibility (0-40 %) of boxes that are not looked for."""


@dataclass(frozen=True, eq=False)
class Expected:
    """A view's arrays (H, W): the index of the box in front (-1 none) and its depth in metres (inf none); masks of vehicles'
    boxes, of mostly hidden boxes, of any box, and of drivable ground off all boxes (None where the frame has no map); the depth
    of box or ground (inf where there is neither).
    """  # fmt: skip

    channel: str
    numbers: NDArray[np.int32]
    box_depth_m: NDArray[np.float32]
    vehicle: NDArray[np.bool_]
    hidden: NDArray[np.bool_]
    boxes: NDArray[np.bool_]
    drivable: NDArray[np.bool_] | None
    depth_m: NDArray[np.float32]


def expected(frame: Frame, channel: str) -> Expected:
    """Project a frame, at its generated size, into one of its cameras."""
    camera = frame.camera(channel)
    view = layout(frame, camera)
    numbers, depth = box_numbers(frame, camera)
    groups = np.array([GROUP_OF_BOX.get(box.detection_class or "") == "vehicle" for box in frame.boxes] + [False])
    hidden = np.array([box.visibility == HIDDEN for box in frame.boxes] + [False])  # -1, no box, is the last
    drivable = (view.map_bits >> BEV_CLASSES.index("drivable_area")) & 1 == 1
    boxes = view.box_class > 0
    ground = view.depth_m.astype(np.float32)
    reach = np.where(boxes, depth, np.where(ground > 0, ground, np.inf)).astype(np.float32)
    return Expected(
        channel, numbers, depth, groups[numbers], hidden[numbers], boxes,
        None if frame.map is None else drivable & ~boxes, reach,
    )  # fmt: skip

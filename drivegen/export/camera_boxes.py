"""Boxes as the cameras see them, for trainers with 2D boxes or a single camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drivegen.datasets.nuscenes.recordings import Recording
from drivegen.export.classes import label
from drivegen.export.geometry import boxes_in
from drivegen.export.rectangles import Rectangle, rectangle_of_corners
from drivegen.export.samples import Sample
from drivegen.scene import Box3D
from drivegen.scene.geometry import project


@dataclass(frozen=True, eq=False)
class CameraBox:
    """A box of a picture, as mmdetection3d's converters describe it.

    rectangle is `rectangle_of_corners`; box3d is [x, y, z, length, height, width, yaw] in the camera's frame with the centre of
    gravity and a yaw about the axis that points down; velocity is (x, z) in m/s, NaN where unknown; center is the projected
    centre in pixels and depth_m its distance along the optical axis.
    """

    box: Box3D
    label: int
    rectangle: Rectangle
    box3d: list[float]
    velocity: list[float]
    center: list[float]
    depth_m: float


def camera_boxes(sample: Sample, camera: Recording) -> list[CameraBox]:
    """Return the boxes of the ten classes that a picture shows; those whose centre is behind the camera are left out."""
    shown, found = [box for box in sample.boxes if label(box) >= 0], []
    there = boxes_in(tuple(shown), camera)
    assert camera.K is not None
    for i, box in enumerate(shown):
        center, (width, length, height) = there.center[i], there.wlh[i].tolist()
        around = rectangle_of_corners(camera, box) if center[2] > 0 else None
        if around is None:
            continue
        pixel, depth = project(camera.K, center)
        box3d = [*center.tolist(), length, height, width, -float(there.yaw[i])]
        velocity = np.array(there.velocity[i][[0, 2]]).tolist()
        found.append(CameraBox(box, label(box), around, box3d, velocity, pixel.tolist(), float(depth)))
    return found

"""Which boxes are drawn where there are very many: the nearest ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drivegen.scene import Box3D, Camera
from drivegen.scene.geometry import SE3, Array

MOST_BOXES = 500
"""More of them in one picture are a blur, and take minutes to draw."""


def nearest_to(pose: SE3, boxes: Sequence[Box3D]) -> list[Box3D]:
    """Return the boxes nearest to the origin of a pose, at most `MOST_BOXES`, in their order."""
    return _nearest(pose, boxes, np.ones(len(boxes), bool))


def nearest_in_view(camera: Camera, boxes: Sequence[Box3D]) -> list[Box3D]:
    """Return the boxes nearest to a camera, at most `MOST_BOXES`, in their order; those behind it come last."""
    if len(boxes) <= MOST_BOXES:
        return list(boxes)
    reach = np.array([np.linalg.norm(box.size_wlh_m) / 2 for box in boxes])
    depth = camera.global_SE3_camera.inverse().transform(_middles(boxes))[:, 2]
    return _nearest(camera.global_SE3_camera, boxes, depth > -reach)


def _nearest(pose: SE3, boxes: Sequence[Box3D], able: NDArray[np.bool_]) -> list[Box3D]:
    if len(boxes) <= MOST_BOXES:
        return list(boxes)
    distances = np.linalg.norm(_middles(boxes) - pose.translation, axis=1)
    order = np.argsort(np.where(able, distances, np.inf), kind="stable")[: min(MOST_BOXES, int(able.sum()))]
    return [boxes[i] for i in sorted(order)]


def _middles(boxes: Sequence[Box3D]) -> Array:
    return np.array([box.global_SE3_object.translation for box in boxes])

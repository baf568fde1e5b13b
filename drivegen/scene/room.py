"""Room on the ground: which objects one would stand in, seen from above."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from drivegen.scene.boxes import Box3D
from drivegen.scene.geometry import SE3

EGO_SIZE_M = (1.73, 4.08, 1.56)
"""(width, length, height) of nuScenes' vehicle, a Renault Zoe, which nothing may be moved into."""

EGO_CENTRE_M = 1.3
"""How far its middle is before the rear axle, the origin of the ego frame."""


def ego_box(global_SE3_ego: SE3) -> Box3D:
    """Return the box of the vehicle that carries the cameras."""
    centre = SE3.from_yaw(0.0, (EGO_CENTRE_M, 0.0, EGO_SIZE_M[2] / 2))
    return Box3D("vehicle.ego", global_SE3_ego @ centre, np.array(EGO_SIZE_M))


def footprint(box: Box3D) -> BaseGeometry:
    """Return the area of a box seen from above."""
    return Polygon(box.corners()[[2, 3, 7, 6], :2])


def collisions(box: Box3D, before: Box3D | None, others: Sequence[Box3D]) -> list[Box3D]:
    """Return the boxes that a changed one overlaps, seen from above, and did not overlap before.

    Args:
        box: the changed box.
        before: what it was; None where it is new.
        others: all others.
    """
    shape, was = footprint(box), None if before is None else footprint(before)
    near = [(other, footprint(other)) for other in _near(box, others)]
    return [other for other, there in near if shape.intersects(there) and not (was is not None and was.intersects(there))]


def _near(box: Box3D, others: Sequence[Box3D]) -> list[Box3D]:
    """Keep boxes whose circle about them, seen from above, meets that of a box."""
    if not others:
        return []
    places = np.array([other.global_SE3_object.translation[:2] for other in others])
    radii = np.array([np.hypot(*other.size_wlh_m[:2]) / 2 for other in others])
    apart = np.linalg.norm(places - box.global_SE3_object.translation[:2], axis=1)
    close = apart <= radii + np.hypot(*box.size_wlh_m[:2]) / 2
    return [other for other, is_close in zip(others, close, strict=True) if is_close]

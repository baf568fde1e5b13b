"""Boxes in a picture: edges and faces in pixels, cut at the near plane."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from drivegen.scene import FACES, Box3D, Camera
from drivegen.scene.geometry import SE3, Array, clip_polygon, clip_segments, project

EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
"""Pairs of `Box3D.corners`; the first four are the front's."""


@dataclass(frozen=True, eq=False)
class Face:
    """One visible side of a box: its name (`FACES`), pixels (P, 2) and distance of its middle from the camera in metres."""

    side: str
    pixels: Array
    distance_m: float


def corners_in_camera(camera: Camera, box: Box3D) -> Array:
    """Return the (8, 3) corners in the camera's frame, with the ego pose of that camera's own moment."""
    return _camera_SE3_global(camera).transform(box.corners())


@lru_cache(maxsize=32)  # a rig's: cameras are told apart by identity, and do not change
def _camera_SE3_global(camera: Camera) -> SE3:
    return camera.global_SE3_camera.inverse()


def box_edges(camera: Camera, box: Box3D) -> Array:
    """Project the edges of a box: (E, 2, 2) segments in pixels of the generated image, E <= 12, not cut at its border.

    What is behind the near plane is cut off, so a box behind the camera has none.
    """
    segments = clip_segments(corners_in_camera(camera, box)[np.array(EDGES)])
    segments = segments[np.isfinite(segments).all((1, 2))]
    return project(camera.K_image, segments)[0]


def box_faces(camera: Camera, box: Box3D) -> tuple[Face, ...]:
    """Project the sides of a box that face the camera, furthest first; cut at the near plane, not at the image's border."""
    corners = corners_in_camera(camera, box)
    center = corners.mean(0)
    faces = []
    for side, indices in FACES.items():
        quad = corners[list(indices)]
        middle = quad.mean(0)
        if middle @ (middle - center) >= 0:  # the outward normal points away from the camera
            continue
        clipped = clip_polygon(quad)
        if len(clipped) >= 3:
            faces.append(Face(side, project(camera.K_image, clipped)[0], float(np.linalg.norm(middle))))
    return tuple(sorted(faces, key=lambda face: -face.distance_m))

"""Heat maps of what matters in a picture: each box's place in it, as strong as a rule says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from drivegen.raster.boxes import Face, box_faces
from drivegen.scene import Box3D, Camera, Frame
from drivegen.scene.geometry import NEAR_M, Array, project
from drivegen.support.errors import InputError

JOINT_M = 0.1
"""Standard deviation of the heat about a joint, in metres at its distance."""


@dataclass(frozen=True, eq=False)
class SeenBox:
    """A box as one camera sees it.

    Args:
        box: the box.
        distance_m: of its middle from the camera.
        heading_rad: between the object's heading and the ray on which it is seen, from above: 0 = from behind, π = head-on.
        size: the side of a square as large as its rectangle in the picture, as a share of the picture's height.
        faces: the sides that face the camera, furthest first.
    """

    box: Box3D
    distance_m: float
    heading_rad: float
    size: float
    faces: tuple[Face, ...]


def seen_boxes(frame: Frame, camera: Camera) -> list[SeenBox]:
    """List the boxes of which something lies in a camera's picture, furthest first; what hides them is not asked."""
    width, height = camera.image_size
    pose = camera.global_SE3_camera
    found = []
    for box in frame.boxes:
        faces = box_faces(camera, box)
        if not faces:
            continue
        pixels = np.concatenate([face.pixels for face in faces])
        low, high = (limit.clip(0, (width, height)) for limit in (pixels.min(0), pixels.max(0)))
        if (high <= low).any():
            continue
        ray = box.global_SE3_object.translation - pose.translation
        heading = box.global_SE3_object.rotation[:, 0]
        angle = np.arctan2(heading[1], heading[0]) - np.arctan2(ray[1], ray[0])
        size = float(np.sqrt(np.prod(high - low)) / height)
        found.append(SeenBox(box, float(np.linalg.norm(ray)), abs(float((angle + np.pi) % (2 * np.pi) - np.pi)), size, faces))
    return sorted(found, key=lambda seen: -seen.distance_m)


def heat_map(
    frame: Frame, camera: Camera, importance: Callable[[SeenBox], float], size: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Draw each box that a camera sees as strong as it is important, nearer ones over further ones: (h, w), 0 where none is.

    A person with joints has, in place of its sides, a Gaussian about each joint that is known, of JOINT_M there or a pixel; a
    vehicle whose rider has joints is drawn by its sides, which they lie within.

    Args:
        frame: the scene.
        camera: whose picture it is drawn for.
        importance: gives a box's strength.
        size: (h, w) of the map, of whose cells each holds the mean over its part of the picture; the picture's own when None.
    """
    width, height = camera.image_size
    if size is not None and min(size) < 1:
        raise InputError(f"heat map size {size} must be positive (height, width)")
    out = np.zeros((height, width), np.float32)
    for seen in seen_boxes(frame, camera):
        strength = float(importance(seen))
        joints = seen.box.joints() if seen.box.is_person else None
        if joints is not None:
            np.maximum(out, strength * _about(camera, joints, out.shape), out=out)
            continue
        for face in seen.faces:
            cv2.fillPoly(out, [_sixteenths(face.pixels)], strength, cv2.LINE_8, 4)
    return out if size is None else cv2.resize(out, size[::-1], interpolation=cv2.INTER_AREA)


def _about(camera: Camera, joints: Array, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw the strongest of Gaussians about joints (J, 3), the NaN ones left out: (H, W) of 0 to 1."""
    points = camera.global_SE3_camera.inverse().transform(joints)
    points = points[points[:, 2] > NEAR_M]
    pixels, depth = project(camera.K_image, points)
    spread = np.maximum(camera.K_image[0, 0] * JOINT_M / depth, 1.0)[:, None]
    # A Gaussian is the product of one over columns and one over rows.
    columns, rows = (
        np.exp(-((np.arange(count) + 0.5 - pixels[:, axis, None]) ** 2) / (2 * spread**2))
        for axis, count in enumerate(shape[::-1])
    )
    return (rows[:, :, None] * columns[:, None]).max(0, initial=0.0).astype(np.float32)


def _sixteenths(pixels: Array) -> NDArray[np.int32]:
    """Turn pixels (P, 2) into sixteenths for OpenCV, whose pixel centres are whole numbers; far outside is cut off."""
    return ((pixels - 0.5) * 16).clip(-(2**20), 2**20).round().astype(np.int32)

"""Where objects are in a picture, with the ground about them on which their shadows may fall."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from drivegen.raster.boxes import box_faces
from drivegen.scene import Box3D, Camera
from drivegen.scene.geometry import Array, clip_polygon, project

Mask = NDArray[np.bool_]

SHADOW_REACH = 1.0
"""How far from an object its shadow may fall, in its heights: that of a sun at 45°, whose direction a dataset does not say."""

MOST_SHADOW_M = 2.5
"""No shadow is taken to fall further than this."""

GROWN = 0.012
"""By how much of the picture's width what is drawn anew reaches beyond objects."""


def margin_px(width: int) -> int:
    """Return by how many pixels what is drawn anew reaches beyond objects, in a picture of a width."""
    return max(2, round(GROWN * width))


def ground_about(camera: Camera, box: Box3D) -> Mask:
    """Return where in a picture (H, W) the ground lies on which a box may stand and throw its shadow."""
    width, height = camera.image_size
    reach = min(SHADOW_REACH * float(box.size_wlh_m[2]), MOST_SHADOW_M)
    corners = box.corners()[[2, 3, 7, 6]]
    ring = np.array(shapely.Polygon(corners[:, :2]).buffer(reach, quad_segs=4).exterior.coords[:-1])
    ground = np.column_stack([ring, np.full(len(ring), corners[:, 2].mean())])
    out = np.zeros((height, width), np.uint8)
    clipped = clip_polygon(camera.global_SE3_camera.inverse().transform(ground))
    if len(clipped) >= 3:
        _fill(out, project(camera.K_image, clipped)[0])
    return out > 0


def object_mask(camera: Camera, boxes: Sequence[Box3D]) -> Mask:
    """Return where boxes and the ground about them are in a picture (H, W), grown by the margin; nothing hides them.

    Args:
        camera: whose generated picture it is.
        boxes: the objects.
    """
    width, height = camera.image_size
    out = np.zeros((height, width), np.uint8)
    for box in boxes:
        faces = box_faces(camera, box)
        for face in faces:
            _fill(out, face.pixels)
        if faces:
            out |= ground_about(camera, box).astype(np.uint8)
    margin = margin_px(width)
    return cv2.dilate(out, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1,) * 2)) > 0


def _fill(mask: NDArray[np.uint8], pixels: Array) -> None:
    """Set the pixels of a polygon (n, 2)."""
    near = pixels.clip(-(2.0**15), 2.0**15)
    cv2.fillPoly(mask, [((near - 0.5) * 16).round().astype(np.int32)], 1, cv2.LINE_8, 4)

"""The visible share of each box after an edit: boxes hide each other, as seen by the cameras of the edited rig."""

from __future__ import annotations

import cv2
import numpy as np

from drivegen.raster import box_faces
from drivegen.scene import Camera, Frame

WIDTH_PX = 400
"""Pictures in which pixels are counted have this width."""


def seen_shares(frame: Frame) -> list[float | None]:
    """Return, of each box, the share of its pixels in all cameras' pictures that no nearer box hides; None outside of all."""
    alone, seen = np.zeros(len(frame.boxes)), np.zeros(len(frame.boxes))
    for camera in frame.cameras:
        count, left = _pixels(frame, camera)
        alone += count
        seen += left
    return [float(s / a) if a else None for s, a in zip(seen, alone, strict=True)]


def level(share: float | None) -> int:
    """Return nuScenes' level of visibility, 1 (0-40 %) to 4 (80-100 %); what no camera sees has the lowest."""
    return 1 if share is None else 1 + sum(share >= least for least in (0.4, 0.6, 0.8))


def _pixels(frame: Frame, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Count each box's pixels in a picture: as if it stood alone, and with nearer boxes before it."""
    scale = WIDTH_PX / camera.image_size[0]
    shape = (max(1, round(camera.image_size[1] * scale)), WIDTH_PX)
    eye = camera.global_SE3_camera.translation
    nearest = np.full(shape, -1, np.int32)
    alone = np.zeros(len(frame.boxes))
    order = sorted(
        range(len(frame.boxes)), key=lambda i: -float(np.linalg.norm(frame.boxes[i].global_SE3_object.translation - eye))
    )
    for i in order:  # the furthest first, so that nearer ones are painted over it
        mask = np.zeros(shape, np.uint8)
        for face in box_faces(camera, frame.boxes[i]):
            corners = (face.pixels * scale).clip(-10_000, 10_000).round().astype(np.int32)
            cv2.fillConvexPoly(mask, corners, 1)
        alone[i] = mask.sum()
        nearest[mask > 0] = i
    found = np.bincount(nearest[nearest >= 0], minlength=len(frame.boxes))
    return alone, found

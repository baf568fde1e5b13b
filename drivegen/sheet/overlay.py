"""Boxes drawn into the views that they belong to."""

from __future__ import annotations

import numpy as np
from PIL import Image

from drivegen.raster import box_edges, box_faces
from drivegen.raster.boxes import corners_in_camera
from drivegen.scene import Camera, Frame
from drivegen.scene.geometry import NEAR_M, Array, project
from drivegen.sheet.canvas import Canvas
from drivegen.sheet.colours import CLASS_COLOURS
from drivegen.sheet.nearest import nearest_in_view

MAX_DISTANCE_M = 70.0
"""Boxes further from the camera than this are a few pixels in size and are left out of the pictures."""

BESIDE_PX = 8
"""Lines so far beside a picture are not seen in it, thick as they are."""


def draw_boxes(frame: Frame, camera: Camera, image: Image.Image, scale: float = 1.0) -> Image.Image:
    """Return a camera's picture with the frame's boxes: edges, and the front face filled.

    Far boxes are drawn first and thinner; the near plane cuts. Of very many boxes the nearest `MOST_BOXES` are drawn.

    Args:
        frame: whose boxes are drawn.
        camera: one of its cameras.
        image: its picture, of its `image_size`.
        scale: how many times as large the picture is drawn.
    """
    size = round(image.width * scale), round(image.height * scale)
    canvas = Canvas(size, image, factor=2)
    ratio = np.array(size) / np.array(camera.image_size)
    boxes = nearest_in_view(camera, frame.boxes)
    corners = [corners_in_camera(camera, box) for box in boxes]
    near = [i for i in range(len(boxes)) if _in_sight(camera, corners[i], size)]
    distances = {i: float(np.linalg.norm(corners[i].mean(0))) for i in near}
    for i in sorted(distances, key=lambda i: -distances[i]):
        if distances[i] > MAX_DISTANCE_M:
            continue
        box = boxes[i]
        colour = CLASS_COLOURS[box.detection_class or "other"]
        hidden = box.visibility == 1
        strength = 0.4 if hidden else 0.95
        width = float(np.interp(distances[i], (5, 50), (1.9, 0.8)))
        for face in box_faces(camera, box):
            canvas.fill([face.pixels * ratio], colour, (0.28 if face.side == "front" else 0.08) * strength)
        for edge in box_edges(camera, box):
            canvas.line(edge * ratio, colour, width, strength)
    return canvas.picture()


def _in_sight(camera: Camera, corners: Array, size: tuple[int, int]) -> bool:
    """Tell whether something of a box may be in the picture: most boxes are beside it or behind.

    Args:
        camera: the view.
        corners: (8, 3) of the box, in the camera's frame.
        size: (width, height) that the picture is drawn in.
    """
    if (corners[:, 2] < NEAR_M).any():
        return bool((corners[:, 2] >= NEAR_M).any())
    pixels = project(camera.K_image, corners)[0] * (np.array(size) / camera.image_size)
    return bool((pixels.max(0) >= -BESIDE_PX).all() and (pixels.min(0) <= np.array(size) + BESIDE_PX).all())

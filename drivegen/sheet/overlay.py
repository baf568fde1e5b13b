"""Boxes drawn into the views that they belong to."""

from __future__ import annotations

import numpy as np
from PIL import Image

from drivegen.raster import box_edges, box_faces
from drivegen.raster.boxes import corners_in_camera
from drivegen.scene import Camera, Frame
from drivegen.sheet.canvas import Canvas
from drivegen.sheet.colours import CLASS_COLOURS
from drivegen.sheet.nearest import nearest_in_view

MAX_DISTANCE_M = 70.0
"""Boxes further from the camera than this are a few pixels in size and are left out of the pictures."""


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
    distances = {i: float(np.linalg.norm(corners_in_camera(camera, box).mean(0))) for i, box in enumerate(boxes)}
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

"""The scene from above: map, boxes with their headings, and what each camera sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from drivegen.scene import Camera, Frame
from drivegen.scene.geometry import Array
from drivegen.sheet.canvas import Canvas
from drivegen.sheet.colours import AREA_COLOURS, CLASS_COLOURS, GROUND, LINE_COLOURS, RGB
from drivegen.sheet.nearest import nearest_to

ToPixels = Callable[[Array], Array]


def bird_eye(frame: Frame, size: tuple[int, int], colours: Mapping[str, RGB], extent_m: float = 40.0) -> Image.Image:
    """Draw a frame from above, ego forward up; of very many boxes the nearest `MOST_BOXES`.

    Args:
        frame: the frame.
        size: (width, height) of the picture in pixels.
        colours: of the cones of sight, by camera channel.
        extent_m: how far is shown ahead and behind.
    """
    canvas = Canvas(size, GROUND)
    scale = size[1] / (2 * extent_m)
    ego_SE3_global = frame.global_SE3_ego.inverse()

    def to_pixels(points_ego: Array) -> Array:
        return np.stack([size[0] / 2 - points_ego[..., 1] * scale, size[1] / 2 - points_ego[..., 0] * scale], axis=-1)

    def ground(points: Array) -> Array:
        return to_pixels(ego_SE3_global.transform(np.c_[points, np.full(len(points), frame.global_SE3_ego.translation[2])]))

    _draw_map(canvas, frame, ground, math.hypot(*size) / 2 / scale)
    for ring_m in (10, 20, 30):
        circle = np.array([[ring_m * math.cos(a), ring_m * math.sin(a)] for a in np.linspace(0, 2 * math.pi, 96)])
        canvas.line(to_pixels(circle), (255, 255, 255), 0.7, 0.07)
    for camera in frame.cameras:
        _draw_cone(canvas, camera, colours[camera.channel], to_pixels)
    boxes = nearest_to(frame.global_SE3_ego, frame.boxes)
    for box in sorted(boxes, key=lambda b: float(b.global_SE3_object.translation[2])):
        corners = ego_SE3_global.transform(box.corners())
        # front-left, front-right, rear-right, rear-left of the top face
        outline = to_pixels(corners[[0, 1, 5, 4]])
        colour = CLASS_COLOURS[box.detection_class or "other"]
        canvas.fill([outline], colour, 0.45)
        canvas.line(outline, colour, 1.6, closed=True)
        nose = outline[:2].mean(0)
        canvas.line(np.stack([outline.mean(0), nose]), colour, 1.6)
    _draw_ego(canvas, to_pixels)
    return canvas.picture()


def _draw_map(canvas: Canvas, frame: Frame, ground: ToPixels, radius_m: float) -> None:
    if frame.map is None:
        return
    near = frame.map.near(frame.global_SE3_ego.translation[:2], radius_m)
    for name, colour in AREA_COLOURS.items():
        for area in near.polygons.get(name, ()):
            rings = [ground(area.exterior), *(ground(hole) for hole in area.holes)]
            canvas.fill(rings, colour, 0.75 if name == "ped_crossing" else 1.0)
            if name in ("drivable_area", "carpark_area"):
                for ring in rings:
                    canvas.line(ring, (78, 84, 98), 1.0, closed=True)
    for name, colour in LINE_COLOURS.items():
        for line in near.lines.get(name, ()):
            canvas.line(ground(line.points), colour, 1.1, 0.8)


def _draw_cone(canvas: Canvas, camera: Camera, colour: RGB, to_pixels: ToPixels, length_m: float = 13.0) -> None:
    width, _ = camera.image_size
    K = camera.K_image
    columns = np.linspace(0, width, 25)
    rays = np.stack([(columns - K[0, 2]) / K[0, 0], np.zeros_like(columns), np.ones_like(columns)], axis=-1)
    rays = rays @ camera.ego_SE3_camera.rotation.T
    flat = rays[:, :2] / np.linalg.norm(rays[:, :2], axis=1, keepdims=True)
    origin = camera.ego_SE3_camera.translation[:2]
    # Fades outward: three cones of falling length over one another.
    for share in (1.0, 0.72, 0.44):
        arc = origin + flat * length_m * share
        canvas.fill([to_pixels(np.concatenate([origin[None], arc]))], colour, 0.13)
    arc = origin + flat * length_m
    canvas.line(to_pixels(arc), colour, 2.0, 0.9)
    for edge in (arc[0], arc[-1]):
        canvas.line(to_pixels(np.stack([origin, edge])), colour, 0.9, 0.45)


def _draw_ego(canvas: Canvas, to_pixels: ToPixels) -> None:
    front, rear, half = 3.7, -0.95, 0.92
    body = np.array([
        [front - 0.5, half], [front, half - 0.45], [front, -half + 0.45], [front - 0.5, -half], [rear, -half], [rear, half],
    ])  # fmt: skip
    canvas.fill([to_pixels(body)], (245, 247, 250))
    glass = np.array([[2.3, half - 0.18], [2.3, -half + 0.18], [1.5, -half + 0.25], [1.5, half - 0.25]])
    canvas.fill([to_pixels(glass)], (40, 44, 52))

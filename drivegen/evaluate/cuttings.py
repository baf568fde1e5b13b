"""Pictures of a report: what is cut out of the views, with the boxes drawn."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from drivegen.scene import Frame
from drivegen.scene.pictures import load_image
from drivegen.sheet import draw_boxes

CUT_PX = (200, 126)
"""(width, height) of a cutting."""

_AROUND = 2.2
"""A cutting shows this many times the object's rectangle."""

_QUALITY = 78
INVENTED_COLOUR = (255, 80, 80)


def jpeg(image: Image.Image) -> str:
    """Return an image as a data URI."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def window(rectangle: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the part of a picture that a cutting shows: the rectangle and what is around it, within the picture.

    Args:
        rectangle: (left, top, right, bottom) in pixels.
        size: (width, height) of the picture.
    """
    left, top, right, bottom = rectangle
    ratio = CUT_PX[0] / CUT_PX[1]
    width = max((right - left) * _AROUND, (bottom - top) * _AROUND * ratio, 0.16 * size[0])
    width = min(width, size[0], size[1] * ratio)
    height = width / ratio
    x = float(np.clip((left + right) / 2 - width / 2, 0, size[0] - width))
    y = float(np.clip((top + bottom) / 2 - height / 2, 0, size[1] - height))
    return x, y, x + width, y + height


def cut(
    frame: Frame, channel: str, rectangle: tuple[int, int, int, int], number: int | None = None, outlined: bool = False
) -> Image.Image:
    """Cut an object out of its view.

    Args:
        frame: with pictures.
        channel: of the view.
        rectangle: the object's (left, top, right, bottom) in pixels.
        number: of the box that is drawn; None draws none.
        outlined: outline the rectangle.
    """
    camera = frame.camera(channel)
    image = load_image(camera)
    part = window(rectangle, image.size)
    factor = CUT_PX[0] / (part[2] - part[0])
    if number is None:
        shown = image.resize(CUT_PX, Image.Resampling.LANCZOS, box=part)
    else:
        scale = max(1, round(factor))
        drawn = draw_boxes(replace(frame, boxes=(frame.boxes[number],)), camera, image, scale)
        larger = (part[0] * scale, part[1] * scale, part[2] * scale, part[3] * scale)
        shown = drawn.resize(CUT_PX, Image.Resampling.LANCZOS, box=larger)
    if outlined:
        corners = [(v - part[i % 2]) * factor for i, v in enumerate(rectangle)]
        ImageDraw.Draw(shown).rectangle((corners[0], corners[1], corners[2], corners[3]), outline=INVENTED_COLOUR, width=2)
    return shown


def view(frame: Frame, channel: str, width_px: int, boxes: bool = True) -> Image.Image:
    """Draw a whole view with all boxes, at a width in pixels.

    Args:
        frame: with pictures.
        channel: of the view.
        width_px: of the result.
        boxes: draw them.
    """
    camera = frame.camera(channel)
    image = load_image(camera)
    scale = width_px / image.width
    if boxes:
        return draw_boxes(frame, camera, image, scale)
    return image.resize((width_px, round(image.height * scale)), Image.Resampling.LANCZOS)

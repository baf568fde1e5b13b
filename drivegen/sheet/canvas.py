"""Antialiased drawing: everything is drawn larger and shrunk once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from drivegen.sheet.colours import BACKGROUND, RGB

_MARGIN = 1 << 14
_SHIFT = 4


class Canvas:
    """A picture that is drawn enlarged and shrunk at the end; coordinates are pixels of the small one.

    Args:
        size: (width, height) in pixels.
        background: a colour, or a picture that is drawn upon.
        factor: how many times as large it is drawn.
    """

    def __init__(self, size: tuple[int, int], background: RGB | Image.Image = BACKGROUND, factor: int = 3) -> None:
        self.size, self.factor = size, factor
        large = (size[0] * factor, size[1] * factor)
        if isinstance(background, Image.Image):
            self._pixels = np.array(background.convert("RGB").resize(large, Image.Resampling.BICUBIC))
        else:
            self._pixels = np.empty((large[1], large[0], 3), np.uint8)
            self._pixels[:1] = background
            self._pixels[1:] = self._pixels[:1]  # a row at a time, which is several times quicker than a pixel at a time

    def fill(self, rings: Sequence[ArrayLike], colour: RGB, alpha: float = 1.0) -> None:
        """Fill the inside of rings by the even-odd rule, so that later rings are holes of the first.

        Args:
            rings: each (P, 2) in pixels.
            colour: of the area.
            alpha: opacity, 0 to 1.
        """
        points = [fixed for ring in rings if len(fixed := self._fixed(ring)) >= 3]
        if points:
            self._blend(points, colour, alpha, lambda pixels, moved, c: cv2.fillPoly(pixels, moved, c, cv2.LINE_AA, _SHIFT))

    def line(self, points: ArrayLike, colour: RGB, width: float = 1.0, alpha: float = 1.0, closed: bool = False) -> None:
        """Draw a line through points.

        Args:
            points: (P, 2) in pixels.
            colour: of the line.
            width: in pixels.
            alpha: opacity, 0 to 1.
            closed: join the last point to the first.
        """
        fixed = self._fixed(points)
        if len(fixed) < 2:
            return
        thick = max(1, round(width * self.factor))
        self._blend(
            [fixed],
            colour,
            alpha,
            lambda pixels, moved, c: cv2.polylines(pixels, moved, closed, c, thick, cv2.LINE_AA, _SHIFT),
            thick,
        )

    def _fixed(self, points: ArrayLike) -> NDArray[np.int32]:
        array = np.asarray(points, dtype=np.float64).reshape(-1, 2) * self.factor
        array = array[np.isfinite(array).all(1)].clip(-_MARGIN, _MARGIN)
        return ((array - 0.5) * (1 << _SHIFT)).round().astype(np.int32)

    def _blend(self, points: list[NDArray[np.int32]], colour: RGB, alpha: float, draw: Any, margin: int = 0) -> None:
        if alpha >= 1:
            draw(self._pixels, points, colour)
            return
        joined = np.concatenate(points) >> _SHIFT
        height, width = self._pixels.shape[:2]
        x0, y0 = np.maximum(joined.min(0) - margin - 2, 0)
        x1, y1 = np.minimum(joined.max(0) + margin + 3, (width, height))
        if x0 >= x1 or y0 >= y1:
            return
        part = self._pixels[y0:y1, x0:x1]
        over = np.ascontiguousarray(part)
        over = over.copy()
        moved = [p - (np.array([x0, y0], dtype=np.int32) << _SHIFT) for p in points]
        draw(over, moved, colour)
        part[:] = cv2.addWeighted(over, alpha, np.ascontiguousarray(part), 1 - alpha, 0)

    def picture(self) -> Image.Image:
        """Return what was drawn, at its small size."""
        return Image.fromarray(cv2.resize(self._pixels, self.size, interpolation=cv2.INTER_AREA))


def rounded(picture: Image.Image, radius: int) -> Image.Image:
    """Return a mask (mode L) of the picture's size with rounded corners, which is not to be drawn on."""
    return _rounded(picture.size, radius)


@lru_cache(maxsize=32)
def _rounded(size: tuple[int, int], radius: int) -> Image.Image:
    large = Image.new("L", (size[0] * 4, size[1] * 4), 0)
    ImageDraw.Draw(large).rounded_rectangle((0, 0, large.width - 1, large.height - 1), radius * 4, fill=255)
    return large.resize(size, Image.Resampling.LANCZOS)

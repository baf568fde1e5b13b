"""The sheet of an edit: each view that changed before, after, and the difference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from drivegen.scene import Frame
from drivegen.sheet.canvas import rounded
from drivegen.sheet.colours import BACKGROUND, CAMERA_COLOURS, DIM
from drivegen.sheet.text import write

WIDTH, GAP, HEADER, CAPTION = 1600, 14, 62, 24
LEAST_SHOWN = 0.3
"""At least this share of a picture's width is shown about what changed, so that small objects are seen in their place."""

Bounds = tuple[int, int, int, int]


def before_after(
    frame: Frame, before: Mapping[str, Image.Image], after: Mapping[str, Image.Image], bounds: Mapping[str, Bounds | None]
) -> Image.Image:
    """Draw a row per view that changed: the part about what changed before, after, and twice the difference.

    Args:
        frame: the edited frame.
        before: recorded pictures, by camera.
        after: edited ones of the same size.
        bounds: left, top, right, bottom of what was drawn anew; None where nothing was.
    """
    changed = [channel for channel in frame.channels if bounds[channel] is not None]
    tile = (WIDTH - 4 * GAP) // 3
    heights = [round(tile * 9 / 16)] * len(changed)
    sheet = Image.new("RGB", (WIDTH, HEADER + sum(heights) + (CAPTION + GAP) * max(1, len(changed)) + GAP), BACKGROUND)
    write(sheet, (GAP, 14), frame.description or frame.token, 20, width=WIDTH - 2 * GAP)
    for i, word in enumerate(("before", "after", "difference, twice as strong")):
        write(sheet, (GAP + i * (tile + GAP), 42), word, 14, DIM)
    y = HEADER
    if not changed:
        write(sheet, (GAP, y), "nothing changed", 16, DIM)
    for channel, height in zip(changed, heights, strict=True):
        colour = CAMERA_COLOURS[frame.channels.index(channel) % len(CAMERA_COLOURS)]
        ImageDraw.Draw(sheet).rounded_rectangle((GAP, y + 5, GAP + 9, y + 14), 2, fill=colour)
        write(sheet, (GAP + 16, y + 2), channel.removeprefix("CAM_").replace("_", " ").lower(), 15)
        box = bounds[channel]
        assert box is not None
        part = _around(box, before[channel].size)
        old, new = (pictures[channel].convert("RGB").crop(part) for pictures in (before, after))
        changes = ImageChops.difference(old, new)
        twice = Image.fromarray((np.asarray(changes).astype(np.uint16) * 2).clip(0, 255).astype(np.uint8))
        for i, shown in enumerate((old, new, twice)):
            small = shown.resize((tile, height), Image.Resampling.LANCZOS)
            sheet.paste(small, (GAP + i * (tile + GAP), y + CAPTION), rounded(small, 6))
        y += CAPTION + height + GAP
    return sheet


def _around(bounds: Bounds, size: tuple[int, int]) -> Bounds:
    """Return a part of a picture of 16 to 9 (all of it where that is higher) about what changed, half as large again."""
    left, top, right, bottom = bounds
    width = max(1.5 * (right - left), 1.5 * (bottom - top) * 16 / 9, LEAST_SHOWN * size[0])
    width = min(width, size[0], size[1] * 16 / 9)
    height = width * 9 / 16
    x = min(max((left + right) / 2 - width / 2, 0), size[0] - width)
    y = min(max((top + bottom) / 2 - height / 2, 0), size[1] - height)
    return round(x), round(y), round(x + width), round(y + height)

"""What a plugin prepared of a frame: arrays that are pictures over the views that they belong to, others as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drivegen.sheet.canvas import rounded
from drivegen.sheet.colours import BACKGROUND, CAMERA_COLOURS, DIM, RGB
from drivegen.sheet.text import write

MOST_CHANNELS = 12
"""More channels of one array than this are not drawn, and said."""

_TILE, _GAP, _LINE = 240, 8, 24
_LEAST = 12
"""Pixels that each side of a picture has at least; what is smaller is a list of numbers."""

_LABELS = 24
"""Whole numbers of up to as many different values are labels, a colour each."""


@dataclass(frozen=True, eq=False)
class Channel:
    """One channel of an array: its pictures are (H, W), or (H, W, 3) of uint8 colours, one per view or one of the scene."""

    name: str
    pictures: tuple[NDArray[np.generic], ...]
    per_view: bool


def channels(name: str, array: NDArray[np.generic], views: int) -> tuple[Channel, ...]:
    """Take an array apart into channels that are pictures; () for one that is none.

    Pictures are (V, H, W), (V, C, H, W), (V, H, W, 3), (C, H, W) and (H, W) whose sides have 12 pixels or more.

    Args:
        name: what the array is called.
        array: the array of one frame.
        views: V.
    """
    if array.ndim == 4 and len(array) == views and array.shape[-1] == 3 and min(array.shape[1:3]) >= _LEAST:
        array = np.moveaxis(array, -1, 1)
    if array.ndim < 2 or array.ndim > 4 or min(array.shape[-2:]) < _LEAST:
        return ()
    per_view = array.ndim > 2 and len(array) == views
    if array.ndim == 4 and not per_view:
        return ()
    rows = array if per_view else array[None]  # (V or 1, [C,] H, W)
    if rows.ndim == 3:
        return (Channel(name, tuple(rows), per_view),)
    if rows.shape[1] == 3 and rows.dtype == np.uint8:
        return (Channel(name, tuple(np.moveaxis(rows, 1, -1)), per_view),)
    return tuple(Channel(f"{name}[{c}]", tuple(rows[:, c]), per_view) for c in range(min(rows.shape[1], MOST_CHANNELS)))


def prepared_sheet(pictures: Sequence[Image.Image], arrays: Mapping[str, NDArray[np.generic]]) -> Image.Image | None:
    """Draw the arrays that are pictures, a row per channel, over the recorded pictures; None where none is one.

    Labels (few whole numbers) get a colour each, other numbers a scale from dark to light over all views; 0 is left open.

    Args:
        pictures: of each view, in the cameras' order.
        arrays: what `prepare` gave for the frame.
    """
    found = [channel for name, array in arrays.items() for channel in channels(name, array, len(pictures))]
    if not found:
        return None
    heights = [round(_TILE * picture.height / picture.width) for picture in pictures]
    tall = max(heights)
    rows = [_LINE + (tall if channel.per_view else _TILE) + _GAP for channel in found]
    width = _GAP + len(pictures) * (_TILE + _GAP)
    sheet = Image.new("RGB", (max(width, 2 * _TILE), _LINE + tall + 2 * _GAP + sum(rows)), BACKGROUND)
    small = [picture.convert("RGB").resize((_TILE, height)) for picture, height in zip(pictures, heights, strict=True)]
    _row(sheet, 0, "recorded", small)
    y = _LINE + tall + 2 * _GAP
    for channel, height in zip(found, rows, strict=True):
        drawn = _coloured(channel)
        if channel.per_view:
            drawn = [_over(base, *each) for base, each in zip(small, drawn, strict=True)]  # type: ignore[misc]
        else:
            drawn = [_over(Image.new("RGB", (_TILE, _TILE)), *each) for each in drawn]  # type: ignore[misc]
        _row(sheet, y, f"{channel.name}   {_range(channel)}", drawn)  # type: ignore[arg-type]
        y += height
    return sheet


def _row(sheet: Image.Image, y: int, title: str, pictures: Sequence[Image.Image]) -> None:
    write(sheet, (_GAP, y + 4), title, 14, DIM, width=sheet.width - 2 * _GAP)
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (_GAP + i * (_TILE + _GAP), y + _LINE), rounded(picture, 4))


def _range(channel: Channel) -> str:
    shape = "x".join(map(str, channel.pictures[0].shape[:2]))
    return f"{shape} {channel.pictures[0].dtype}, {_least(channel):.4g} to {_most(channel):.4g}"


def _least(channel: Channel) -> float:
    return min(float(np.nanmin(each.astype(float))) for each in channel.pictures)


def _most(channel: Channel) -> float:
    return max(float(np.nanmax(each.astype(float))) for each in channel.pictures)


def _coloured(channel: Channel) -> list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Give each picture colours (H, W, 3), and where it says something (H, W)."""
    if channel.pictures[0].ndim == 3:
        return [(each.astype(np.uint8), each.any(-1)) for each in channel.pictures]
    whole = channel.pictures[0].dtype.kind in "biu"
    values = np.unique(np.concatenate([np.unique(each) for each in channel.pictures])) if whole else np.zeros(0)
    if whole and len(values) <= _LABELS:
        table: list[RGB] = [CAMERA_COLOURS[i % len(CAMERA_COLOURS)] for i in range(len(values))]
        palette = np.array(table, np.uint8)
        return [(palette[np.searchsorted(values, each)], each != 0) for each in channel.pictures]
    low, high = _least(channel), _most(channel)
    out = []
    for each in channel.pictures:
        level = np.nan_to_num((each.astype(float) - low) / max(high - low, 1e-12))[..., None]
        colours = (np.array((30, 40, 110)) * (1 - level) + np.array((255, 240, 150)) * level).astype(np.uint8)
        out.append((colours, each != 0))
    return out


def _over(base: Image.Image, colours: NDArray[np.uint8], said: NDArray[np.bool_]) -> Image.Image:
    """Lay colours over a picture where they say something."""
    top = Image.fromarray(colours).resize(base.size, Image.Resampling.NEAREST)
    mask = Image.fromarray((said * 190).astype(np.uint8)).resize(base.size, Image.Resampling.NEAREST)
    return Image.composite(top, base, mask)

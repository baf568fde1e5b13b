"""What makes a picture unusable: too many pixels, more than 8 bits per channel, a rotation, values that are no colours."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 50_000_000
"""A larger image is refused before it is decoded."""

Pixels = NDArray[Any]

_EIGHT_BITS = ("RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr", "HSV")
"""Pillow's modes of 8 bits per channel or less, which it converts to RGB without loss of range."""

_DEEP = re.compile(r";(12|16|24|32|64)[A-Z]")
"""In a raw mode of Pillow's: more than 8 bits per channel, which it would cut to 8 (``RGB;16B``, not ``BGR;16``)."""

_SAVE_8 = "save it with 8 bits per channel"
_ORIENTATION = 0x0112


def size_problem(width: int, height: int) -> str:
    """Say what is wrong with a picture's size, or nothing."""
    if width < 1 or height < 1:
        return f"has {width}x{height} pixels; it needs at least one"
    if width * height > MAX_PIXELS:
        return f"has {width}x{height} pixels, more than the {MAX_PIXELS:,} allowed; scale it down"
    return ""


def pixel_problem(image: Image.Image) -> str:
    """Say what is wrong with a PIL image, opened or in memory, without decoding it; or nothing."""
    if problem := size_problem(*image.size):
        return problem
    if image.mode not in _EIGHT_BITS:
        return f"has pixels of mode {image.mode!r}; {_SAVE_8}"
    # Not decoded yet, Pillow still knows how the file stores them: it cuts 16-bit colours to 8 without a warning.
    if deep := _DEEP.search(repr(getattr(image, "tile", ""))):
        return f"has {deep[1]} bits per channel; {_SAVE_8}"
    if orientation(image) in range(2, 9):
        return "has an EXIF rotation; store the pixels upright (PIL.ImageOps.exif_transpose) and remove it"
    return ""


def orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation, 1 where there is none; metadata that cannot be read say nothing, and turn no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if image.format == "TIFF":
                return image.getexif().get(_ORIENTATION, 1)
            if not image.info.get("exif"):
                return 1
            tags = Image.Exif()  # from the header: `getexif` of a PNG would decode it
            tags.load(image.info["exif"])
            return tags.get(_ORIENTATION, 1)
    except Exception:  # malformed metadata make Pillow raise SyntaxError, struct.error, KeyError and others
        return 1


def array_problem(array: Pixels, channels: int) -> str:
    """Say what is wrong with an array for (H, W, channels) of uint8, bool or floats from 0 to 1; or nothing."""
    shape = f"shape {array.shape}"
    if not (array.ndim == 3 and array.shape[2] == channels) and not (array.ndim == 2 and channels == 1):
        last = ", channels last" if array.ndim == 3 and array.shape[0] == channels else ""
        return f"has {shape}; (H, W{f', {channels}' if channels > 1 else ''}) is needed{last}"
    if not array.size:
        return f"has {shape}; it needs at least one pixel"
    kind = array.dtype.kind
    if array.dtype == np.uint8 or kind == "b":
        return ""
    if kind not in "fiu" or array.dtype == np.uint16:
        return f"has values of {array.dtype}; give uint8, or floats from 0 to 1"
    low, high = array.min(), array.max()  # NaN if any value is
    if not (low >= 0 and high <= 1):
        return f"has values of {array.dtype} from {low:g} to {high:g}; they must be from 0 to 1, or 0 to 255 as uint8"
    return ""

"""Pictures from outside: files, PIL images and arrays are all read here and pass the same checks."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from drivegen.scene.cameras import Camera, ResizeCrop
from drivegen.scene.picture_checks import Pixels, array_problem, pixel_problem, size_problem
from drivegen.support.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

_AFTER_HEADER = 33
"""Bytes of a PNG's signature and first chunk, the size of the picture."""

_MEND_SIZE = {
    "row": "correct the row or the file",
    "camera": "scale the picture, or correct the camera's width_px, height_px and K_native",
}


def open_image(path: Path, where: str, size: tuple[int, int] | None = None, sized_by: str = "row") -> Image.Image:
    """Open an image file without decoding it, after checking its header.

    Args:
        path: the file, of one of FORMATS.
        where: what the picture is for, at the beginning of messages.
        size: (width, height) in pixels that it must have; None = any.
        sized_by: who says that size, the table's "row" or the "camera".

    Raises InputError for a missing or non-image file, more than MAX_PIXELS pixels, another size, more than 8 bits per channel,
    and an EXIF rotation: calibrations hold for the pixels as stored, so a viewer that turned them would show another camera.
    """
    try:
        if not path.is_file():
            raise InputError(f"{where}: image {path} {_absence(path)}")
        image = Image.open(path, formats=FORMATS)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{where}: {path} is not an image ({', '.join(FORMATS)}); replace the file") from error
    except Exception as error:  # Pillow lets through whatever a damaged header makes its readers raise
        raise InputError(f"{where}: {path} cannot be read: {_reason(error)}; replace the file") from error
    problem = pixel_problem(image)
    if not problem and size is not None and image.size != tuple(size):
        problem = f"has {image.width}x{image.height} pixels and its {sized_by} says {size[0]}x{size[1]}; {_MEND_SIZE[sized_by]}"
    if problem:
        image.close()
        raise InputError(f"{where}: image {path} {problem}")
    return image


def decode(image: Image.Image, where: str, mode: str = "RGB") -> Image.Image:
    """Convert an opened image to a mode: grey, palette and CMYK are converted, alpha is dropped.

    Args:
        image: of `open_image`.
        where: what the picture is for, at the beginning of messages.
        mode: "L", "RGB" or "RGBA".

    Raises InputError when the file is truncated.
    """
    with image:
        return _converted(image, where, mode)


def _converted(image: Image.Image, where: str, mode: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of metadata, which are not used
            image.load()
            if not (problem := pixel_problem(image)):  # again: metadata may come after the pixels
                return image if image.mode == mode else image.convert(mode)
    except Exception as error:  # as in `open_image`
        raise InputError(f"{where}: image is damaged or cut short: {_reason(error)}; replace the file") from error
    raise InputError(f"{where}: image {problem}")


def _absence(path: Path) -> str:
    """Say why there is no file of that name."""
    link = next((part for part in (path, *path.parents) if part.is_symlink() and not part.exists()), None)
    if link is not None:
        return f"is missing: {link} is a link to {os.readlink(link)}, which is not there; mend the link"
    if path.exists():
        return "is missing: what has its name is no file; put the picture there, or correct what names it"
    hint = "; names have '/' between folders, not '\\'" if "\\" in path.name else ""
    return f"is missing; restore the file, or correct what names it{hint}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def user_image(value: Any, where: str, mode: str = "RGB") -> Image.Image:
    """Return a user's picture as an 8-bit PIL image.

    Args:
        value: a PIL image, the path of a file, or an array (H, W) or (H, W, channels of the mode) of uint8 or from 0 to 1.
        where: what the picture is for, at the beginning of messages.
        mode: "L", "RGB" or "RGBA".

    Raises InputError for anything else, and for what `open_image` would refuse of a file: 16-bit pixels, say.
    """
    if isinstance(value, np.ndarray):
        array = user_array(value, where, Image.getmodebands(mode))
        if array.dtype != np.uint8:
            array = (array.astype(np.float64) * 255).round().astype(np.uint8)
        return Image.fromarray(array[..., 0] if mode == "L" else array, mode)
    if isinstance(value, (str, os.PathLike)):
        path = Path(os.fsdecode(value))
        return decode(open_image(path, where), f"{where}: {path}", mode)
    if not isinstance(value, Image.Image):
        raise InputError(f"{where}: {_named(value)} is not a picture; give a PIL image, an array, or the path of a file")
    if problem := pixel_problem(value):
        raise InputError(f"{where}: the picture {problem}")
    image = _converted(value, where, mode)
    return image.copy() if image is value else image


def user_array(value: Any, where: str, channels: int) -> Pixels:
    """Return a user's picture as an array (H, W, channels), of uint8 or of bool or floats from 0 to 1.

    Args:
        value: as for `user_image`; an array (H, W) has one channel.
        where: what the picture is for, at the beginning of messages.
        channels: number of channels; 1, 3 or 4 for a PIL image or a file.

    Raises InputError as `user_image` does, and for numbers that are neither bytes nor from 0 to 1, NaN among them.
    """
    if not isinstance(value, np.ndarray):
        mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
        if mode is None:
            raise InputError(f"{where}: a PIL image has 1, 3 or 4 channels, and {channels} are needed; give an array")
        return user_array(np.asarray(user_image(value, where, mode)), where, channels)
    if problem := array_problem(value, channels) or size_problem(value.shape[1], value.shape[0]):
        raise InputError(f"{where}: the picture {problem}")
    array = value[..., None] if value.ndim == 2 else value
    return array.astype(np.float32) if array.dtype.kind in "iu" and array.dtype != np.uint8 else array


def _named(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"


def fitted(image: Image.Image, size: tuple[int, int], camera: Camera | None = None) -> Image.Image:
    """Scale and crop a picture as a camera's own pictures are (Lanczos, antialiased).

    Args:
        image: the picture.
        size: (width, height) in pixels of the result.
        camera: a picture of its native shape is cropped where its `resize` crops; None, and any other shape, covers the size
            (`ResizeCrop.cover`).
    """
    crop = ResizeCrop.cover(image.size, size)
    own = None if camera is None else camera.resize
    if camera is not None and own is not None and image.width * camera.height_px == image.height * camera.width_px:
        factor = camera.width_px / image.width
        if own != ResizeCrop.cover((camera.width_px, camera.height_px), size):
            crop = ResizeCrop(own.scale * factor, own.left_px, own.top_px, own.width_px, own.height_px)
    box = (crop.left_px, crop.top_px, crop.left_px + crop.width_px, crop.top_px + crop.height_px)
    return image.resize(size, Image.Resampling.LANCZOS, box=_within([v / crop.scale for v in box], image))


def _within(box: list[float], image: Image.Image) -> tuple[float, float, float, float]:
    """Take the rounding off a box's edges."""
    left, top, right, bottom = box
    return max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height)


def load_image(camera: Camera) -> Image.Image:
    """Return the camera's picture as RGB, scaled and cropped as `camera.resize` says (Lanczos, antialiased).

    Its size is `camera.image_size`. Raises InputError when there is no picture or `open_image` refuses it.
    """
    where = f"camera {camera.channel!r}"
    if camera.image_path is None:
        raise InputError(f"{where} has no picture (image_path is None); use a recorded frame, or generate one")
    path = camera.image_path
    image = decode(open_image(path, where, (camera.width_px, camera.height_px), "camera"), f"{where}: {path}")
    crop = camera.resize
    if crop is None:
        return image
    # The cut in native pixels: the resampling filter then sees exactly the geometry of `ResizeCrop.matrix`.
    left, top = crop.left_px / crop.scale, crop.top_px / crop.scale
    right, bottom = left + crop.width_px / crop.scale, top + crop.height_px / crop.scale
    slack = 1e-6 * max(image.size)
    if left < -slack or top < -slack or right > image.width + slack or bottom > image.height + slack:
        size = f"{image.width}x{image.height}"
        raise InputError(f"{where}: {crop} reaches outside of the {size} image; use ResizeCrop.cover")
    return image.resize((crop.width_px, crop.height_px), Image.Resampling.LANCZOS, _within([left, top, right, bottom], image))


def png(image: Image.Image, text: Mapping[str, str] | None = None) -> bytes:
    """Return an image as a PNG file; other threads run meanwhile, which Pillow's writer does not let them.

    Repeated bytes are looked for alone (zlib's Z_RLE): after PNG's own filters that gives files of the same size as a search
    for longer repetitions, in a third of the time.

    Args:
        image: of mode "L", "RGB" or "RGBA".
        text: what the file says of itself, by keyword; ASCII, None for nothing.
    """
    import cv2

    array = np.asarray(image)
    if array.ndim == 3:
        array = cv2.cvtColor(array, cv2.COLOR_RGB2BGR if array.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    strategy = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
    data = cv2.imencode(".png", array, strategy)[1].tobytes()
    said = b"".join(_chunk(b"tEXt", f"{key}\0{value}".encode("ascii")) for key, value in (text or {}).items())
    return data[:_AFTER_HEADER] + said + data[_AFTER_HEADER:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file (its specification, section 5.3)."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def grey_png(width_px: int, height_px: int) -> bytes:
    """Return an even grey PNG, the stand-in for a camera that has no picture."""
    return png(Image.new("RGB", (width_px, height_px), (128, 128, 128)))

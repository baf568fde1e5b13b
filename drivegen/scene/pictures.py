"""Reading camera images: sizes are checked before decoding, every mode becomes RGB or is refused."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from drivegen.scene.cameras import Camera
from drivegen.support.errors import InputError

MAX_PIXELS = 50_000_000
"""A larger image is refused before it is decoded."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

_CONVERTED = ("RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr")
_ORIENTATION = 0x0112
_MEND_SIZE = {
    "row": "correct the row or the file",
    "camera": "scale the picture, or correct the camera's width_px, height_px and K_native",
}


def open_image(path: Path, where: str, size: tuple[int, int] | None = None, sized_by: str = "row") -> Image.Image:
    """Open an image without decoding it, after checking its header.

    size (width, height) is what the table's row, or the camera (`sized_by`), says, in pixels. Raises InputError for a missing
    or non-image file, more than MAX_PIXELS pixels, another size than that, 16-bit or floating-point pixels, and an EXIF
    rotation: calibrations hold for the pixels as stored, so a viewer that turned them would show another camera.
    """
    if not path.is_file():
        raise InputError(f"{where}: image {path} is missing; restore the file, or correct what names it")
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise InputError(f"{where}: {path} is not an image ({', '.join(FORMATS)}); replace the file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: {path} cannot be read: {error}; replace the file") from error
    problem = _header_problem(image, size, sized_by)
    if problem:
        image.close()
        raise InputError(f"{where}: image {path} {problem}")
    return image


def _header_problem(image: Image.Image, size: tuple[int, int] | None, sized_by: str) -> str:
    width, height = image.size
    if width * height > MAX_PIXELS:
        return f"has {width}x{height} pixels, more than the {MAX_PIXELS:,} allowed; scale it down"
    if image.mode not in _CONVERTED:
        return f"has pixels of mode {image.mode!r}; save it with 8 bits a channel"
    if size is not None and (width, height) != tuple(size):
        return f"has {width}x{height} pixels and its {sized_by} says {size[0]}x{size[1]}; {_MEND_SIZE[sized_by]}"
    if _orientation(image) not in (0, 1):
        return "has an EXIF rotation; store the pixels upright and remove it"
    return ""


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return int(image.getexif().get(_ORIENTATION, 1))
    tags = Image.Exif()  # from the header: `getexif` of a PNG would decode it
    tags.load(image.info.get("exif", b""))
    return int(tags.get(_ORIENTATION, 1))


def decode(image: Image.Image, where: str) -> Image.Image:
    """Return the opened image as RGB (grey, palette, CMYK and alpha are converted); InputError when it is cut short."""
    try:
        with image:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(f"{where}: image is damaged or cut short: {error}; replace the file") from error


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
    box = (max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height))
    return image.resize((crop.width_px, crop.height_px), Image.Resampling.LANCZOS, box=box)


def grey_png(width_px: int, height_px: int) -> bytes:
    """Return an even grey PNG, the stand-in for a camera that has no picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (width_px, height_px), (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()

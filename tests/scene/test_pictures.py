"""Every picture that a user gives passes the same checks, whichever way it comes in."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drivegen.pipeline.views import to_pixels
from drivegen.plugin import reference_pictures
from drivegen.plugin.picture_plugin import user_picture
from drivegen.raster import region_mask
from drivegen.scene import Camera, Frame, ResizeCrop, pictures
from drivegen.support.errors import InputError
from tests.street import camera

SIZE = (32, 18)
RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (18, 32, 3), dtype=np.uint8))
VIEW = camera("CAM_FRONT", 0, size=SIZE)
FRAME = Frame("f", (VIEW,))

COLOURED: dict[str, Callable[[Any], Any]] = {
    "image to image": lambda given: to_pixels(given, SIZE, VIEW),
    "picture plugin": lambda given: user_picture(given, 3, VIEW),
    "reference picture": reference_pictures.picture,
}
GREY: dict[str, Callable[[Any], Any]] = {
    "picture plugin of one channel": lambda given: user_picture(given, 1, VIEW),
    "reference mask": lambda given: reference_pictures.mask(given, SIZE),
    "region": lambda given: region_mask(FRAME, {"CAM_FRONT": given}),
}


def exif(orientation: Any) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> Image.Image:
    """The image as it comes from a file that is open and not decoded."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(buffer)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_png(colour_type: int, channels: int, extra: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of SIZE with 16 bits per channel."""
    head = struct.pack(">IIBBBBB", *SIZE, 16, colour_type, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x12\x34" * SIZE[0] * channels) * SIZE[1])
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", rows) + after + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def cut_short() -> Image.Image:
    buffer = io.BytesIO()
    RGB.resize((300, 200)).save(buffer, "PNG")
    return opened(buffer.getvalue()[:-2000])


DEPTH = np.linspace(0, 60000, 18 * 32).reshape(18, 32)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "I;16": (lambda: Image.fromarray(DEPTH.astype(np.uint16)), "mode 'I;16'; save it with 8 bits per channel"),
    "I;16B": (lambda: Image.frombytes("I;16B", SIZE, bytes(2 * 32 * 18)), "mode 'I;16B'"),
    "I": (lambda: Image.fromarray(DEPTH.astype(np.int32)), "mode 'I'"),
    "F": (lambda: Image.fromarray(DEPTH.astype(np.float32)), "mode 'F'"),
    "LAB": (lambda: Image.new("LAB", SIZE), "mode 'LAB'"),
    "16-bit colours": (lambda: opened(deep_png(2, 3)), "16 bits per channel"),
    "16-bit colours with alpha": (lambda: opened(deep_png(6, 4)), "16 bits per channel"),
    "16-bit grey with alpha": (lambda: opened(deep_png(4, 2)), "16 bits per channel|mode 'I;16'"),
    "turned": (lambda: stored(RGB, "JPEG", exif=exif(6)), "EXIF rotation"),
    "turned PNG": (lambda: stored(RGB, "PNG", exif=exif(3)), "EXIF rotation"),
    "turned and decoded": (lambda: stored(RGB, "JPEG", exif=exif(8)).convert("RGB"), "EXIF rotation"),
    "cut short": (cut_short, "damaged or cut short"),
    "of no width": (lambda: Image.new("RGB", (0, 18)), "0x18 pixels; it needs at least one"),
    "huge": (lambda: Image.new("L", (9000, 9000)), "more than the 50,000,000"),
    "missing file": (lambda: "nowhere.png", "nowhere.png is missing"),
    "missing path": (lambda: Path("nowhere.png"), "nowhere.png is missing"),
    "name beyond a file system's": (lambda: Path("x" * 5000), "cannot be read|is missing"),
    "folder": (lambda: Path(__file__).parent, "is missing"),
    "text file": (lambda: Path(__file__), "is not an image"),
    "uint16": (lambda: DEPTH.astype(np.uint16), "values of uint16; give uint8, or floats from 0 to 1"),
    "int64": (lambda: (DEPTH / 256).astype(np.int64), "values of int64 from 0 to 234"),
    "floats to 255": (lambda: DEPTH / 256, "from 0 to 1, or 0 to 255 as uint8"),
    "floats below 0": (lambda: np.linspace(-1, 1, 18 * 32).reshape(18, 32), "from -1 to 1"),
    "NaN": (lambda: np.full((18, 32), np.nan), "from nan to nan"),
    "infinite": (lambda: np.full((18, 32), np.inf, np.float16), "from inf to inf"),
    "complex": (lambda: np.zeros((18, 32), complex), "values of complex128"),
    "objects": (lambda: np.full((18, 32), None), "values of object"),
    "texts": (lambda: np.full((18, 32), "a"), "values of <U1"),
    "no rows": (lambda: np.zeros((0, 32), np.uint8), "it needs at least one pixel"),
    "one row": (lambda: np.zeros(32, np.uint8), r"shape \(32,\)"),
    "batch": (lambda: np.zeros((1, 18, 32, 3), np.uint8), r"shape \(1, 18, 32, 3\)"),
    "two channels": (lambda: np.zeros((18, 32, 2), np.uint8), r"shape \(18, 32, 2\)"),
    "number": (lambda: 7, "int '7' is not a picture|not int"),
    "bytes": (lambda: b"\x89PNG", "is not a picture|not bytes"),
}  # fmt: skip


def as_colours(given: Any) -> Any:
    """Give an array the three channels that a picture has; what is wrong with it stays."""
    if isinstance(given, np.ndarray) and given.ndim == 2:
        return np.repeat(given[..., None], 3, -1)
    return given


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_at_every_entrance(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    for entrances, shape in ((COLOURED, as_colours), (GREY, lambda given: given)):
        for read in entrances.values():
            with pytest.raises(InputError, match=message):
                read(shape(make()))


def test_channels_in_front_are_named() -> None:
    for read in COLOURED.values():
        with pytest.raises(InputError, match=r"\(3, 18, 32\).*channels last"):
            read(np.zeros((3, 18, 32), np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_converted_as_pillow_does(mode: str) -> None:
    image = RGB.convert(mode)
    colours = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(user_picture(image, 3, VIEW), colours.transpose(2, 0, 1))
    np.testing.assert_array_equal(np.asarray(reference_pictures.picture(image)), colours)
    np.testing.assert_array_equal(to_pixels(image, SIZE).numpy(), colours.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)
    grey = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(user_picture(image, 1, VIEW)[0], grey)
    np.testing.assert_array_equal(reference_pictures.mask(image, SIZE), grey >= 128)
    np.testing.assert_array_equal(region_mask(FRAME, {"CAM_FRONT": image})[0], grey.astype(np.float32) / 255)


def test_a_palette_with_transparency_and_a_copy_of_ones_own(tmp_path: Path) -> None:
    image = RGB.convert("P")
    image.info["transparency"] = 3
    np.testing.assert_array_equal(np.asarray(pictures.user_image(image, "here")), np.asarray(image.convert("RGB")))
    mine = RGB.copy()
    pictures.user_image(mine, "here").putpixel((0, 0), (1, 2, 3))
    assert mine.tobytes() == RGB.tobytes()


def test_file_object_and_array_of_one_picture_are_the_same(tmp_path: Path) -> None:
    RGB.save(tmp_path / "x.png")
    for name, read in COLOURED.items():
        given = (RGB, np.asarray(RGB), tmp_path / "x.png", str(tmp_path / "x.png"), stored(RGB))
        results = [np.asarray(read(one)) for one in given]
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0], err_msg=name)
    grey = np.asarray(RGB.convert("L"))
    for name, read in GREY.items():
        results = [np.asarray(read(one), dtype=np.float32) for one in (grey, grey[..., None], Image.fromarray(grey))]
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0], err_msg=name)


def test_arrays_of_numbers_from_0_to_1(tmp_path: Path) -> None:
    half = np.arange(18 * 32).reshape(18, 32) % 2
    for kind in (bool, np.int64, np.float16, np.float32, ">f8"):
        np.testing.assert_array_equal(user_picture(half.astype(kind), 1, VIEW)[0], half.astype(np.float32))
        np.testing.assert_array_equal(region_mask(FRAME, {"CAM_FRONT": half.astype(kind)})[0], half.astype(np.float32))
        np.testing.assert_array_equal(reference_pictures.mask(half.astype(kind), SIZE), half.astype(bool))
        colours = as_colours(half.astype(kind))
        np.testing.assert_array_equal(np.asarray(reference_pictures.picture(colours)), as_colours(half) * 255)
    with pytest.warns(UserWarning, match="bytes of 0 and 1 are nearly black"):
        region_mask(FRAME, {"CAM_FRONT": half.astype(np.uint8)})
    many = user_picture(np.full((18, 32, 5), 0.25), 5, VIEW)
    assert (many.shape, many.dtype) == ((5, 18, 32), np.float32)
    with pytest.raises(InputError, match="1, 3 or 4 channels, and 5 are needed"):
        user_picture(RGB, 5, VIEW)


def with_exif(data: bytes) -> bytes:
    buffer = io.BytesIO()
    RGB.save(buffer, "JPEG", exif=data)
    return buffer.getvalue()


METADATA: dict[str, bytes] = {
    "bad header": b"Exif\0\0ABCDEFGHIJKLMNOP",
    "empty": b"Exif\0\0",
    "cut": exif(6).tobytes()[:14],
    "offset beyond the end": b"Exif\0\0MM\0*\xff\xff\xff\xff",
    "directory in a loop": b"Exif\0\0MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08",
    "orientation of a text": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\4six\0\0\0\0\0",
    "orientation of nine": exif(9).tobytes(),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_cannot_be_read_turn_no_picture(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(with_exif(METADATA[name]))
    bare = io.BytesIO()
    RGB.save(bare, "JPEG")
    view = replace(VIEW, image_path=tmp_path / "x.jpg")
    np.testing.assert_array_equal(np.asarray(pictures.load_image(view)), np.asarray(opened(bare.getvalue())))
    RGB.save(tmp_path / "x.png", exif=METADATA[name])
    assert pictures.load_image(replace(VIEW, image_path=tmp_path / "x.png")).tobytes() == RGB.tobytes()


def test_files_of_more_bits_and_with_late_metadata_are_refused(tmp_path: Path) -> None:
    view = replace(VIEW, image_path=tmp_path / "x.png")
    for colour_type, channels in ((2, 3), (6, 4), (4, 2), (0, 1)):
        (tmp_path / "x.png").write_bytes(deep_png(colour_type, channels))
        with pytest.raises(InputError, match=r"16 bits per channel|mode 'I;16'"):
            pictures.load_image(view)
    deep = np.full((18, 32, 3), 0x1234, np.uint16)
    tiff = b"II*\0" + tiff_of(deep)
    (tmp_path / "x.png").write_bytes(tiff)
    with pytest.raises(InputError, match="16 bits per channel"):
        pictures.load_image(view)
    buffer = io.BytesIO()
    RGB.save(buffer, "PNG")
    png = buffer.getvalue()
    late = png[:-12] + chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0")) + png[-12:]
    (tmp_path / "x.png").write_bytes(late)
    with pytest.raises(InputError, match="EXIF rotation"):
        pictures.load_image(view)
    bomb = png[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))) + png[33:]
    (tmp_path / "x.png").write_bytes(bomb)
    with pytest.raises(InputError, match="cannot be read"):
        pictures.load_image(view)


def tiff_of(pixels: np.ndarray) -> bytes:
    """The rest of a little-endian TIFF of 16 bits per channel, after its first four bytes."""
    height, width, channels = pixels.shape
    data = pixels.astype("<u2").tobytes()
    bits_at, strip_at = 8 + 2 + 10 * 12 + 4, 8 + 2 + 10 * 12 + 4 + 2 * channels
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits_at), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, strip_at), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1),
    ]  # fmt: skip
    rows = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<IH", 8, len(tags)) + rows + bytes(4) + struct.pack(f"<{channels}H", *[16] * channels) + data


def test_a_given_picture_is_cut_where_the_cameras_own_are(tmp_path: Path) -> None:
    native = RGB.resize((240, 180), Image.Resampling.BICUBIC)
    native.save(tmp_path / "x.png")
    view = camera("A", 0, size=(240, 180), image_path=tmp_path / "x.png")
    own = ResizeCrop(0.5, 10, 20, 100, 50)
    for resized in (view.resized(100, 50), replace(view, resize=own)):
        loaded = np.asarray(pictures.load_image(resized))
        np.testing.assert_array_equal(user_picture(native, 3, resized), loaded.transpose(2, 0, 1))
        np.testing.assert_array_equal(user_picture(tmp_path / "x.png", 3, resized), loaded.transpose(2, 0, 1))
        shown = (to_pixels(native, (100, 50), resized).numpy() + 1) * 127.5
        np.testing.assert_allclose(shown, loaded.transpose(2, 0, 1), atol=1e-3)
    twice = native.resize((480, 360), Image.Resampling.NEAREST)
    larger = pictures.fitted(twice, (100, 50), replace(view, resize=own))
    np.testing.assert_allclose(
        np.asarray(larger, float), np.asarray(pictures.load_image(replace(view, resize=own)), float), atol=24
    )


# Portrait cameras


def portrait(**changes: Any) -> Camera:
    """Argoverse 2's front camera."""
    view = camera("ring_front_center", 0, size=(1550, 2048))
    return replace(view, K_native=[[1685, 0, 775], [0, 1685, 1024], [0, 0, 1]], **changes)


def test_a_portrait_camera_keeps_its_principal_point() -> None:
    for size in ((400, 224), (800, 424), (160, 96)):
        view = portrait().resized(*size)
        assert view.resize is not None
        assert view.K_image[1, 2] == pytest.approx(size[1] / 2)
        assert view.K_image[0, 2] == pytest.approx(size[0] / 2)
        assert 0 <= view.resize.top_px <= 2048 * view.resize.scale - size[1]
    low = replace(portrait(), K_native=[[1685, 0, 775], [0, 1685, 5000], [0, 0, 1]]).resized(400, 224)
    assert low.resize is not None
    assert low.resize.top_px == 2048 * low.resize.scale - 224


@pytest.mark.parametrize("native", [(1600, 900), (2048, 1550), (1920, 1080), (641, 640)])
def test_landscape_cameras_are_cut_from_the_top(native: tuple[int, int]) -> None:
    for size in ((400, 224), (800, 424), (272, 96)):
        assert camera("A", 0, size=native).resized(*size).resize == ResizeCrop.cover(native, size)


def test_a_crop_without_horizon_warns(recwarn: pytest.WarningsRecorder) -> None:
    portrait().resized(400, 224)
    camera("A", 0, size=(1600, 900)).resized(400, 224)
    assert not [w for w in recwarn if "horizon" in str(w.message)]
    with pytest.warns(UserWarning, match=r"'A': 400x100 images of its 1600x900 have no horizon"):
        camera("A", 0, size=(1600, 900)).resized(400, 100)
    level = camera("A", 30, size=(1600, 900))
    pitch_px = 0.8 * 1600 * np.tan(np.radians(2.0))
    assert level.horizon_row_px == pytest.approx(450 - pitch_px)

"""The contact sheet: views in ring order around the scene from above."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from PIL import Image, ImageDraw

from drivegen.scene import DETECTION_CLASSES, Camera, Frame
from drivegen.sheet.above import bird_eye
from drivegen.sheet.canvas import rounded
from drivegen.sheet.colours import AREA_COLOURS, BACKGROUND, CAMERA_COLOURS, CLASS_COLOURS, DIM, LINE_COLOURS, RGB, TEXT
from drivegen.sheet.nearest import MOST_BOXES
from drivegen.sheet.overlay import draw_boxes
from drivegen.sheet.text import fitted, text_width, wrapped, write
from drivegen.support.errors import InputError

WIDTH = 1600
GAP = 14
HEADER = 74
MIDDLE = 470
"""Height of the row that holds the scene from above."""
PANEL_WIDTH, WIDE_PANEL = 240, 350
"""Width of the legends beside it, without and with a camera there."""
CAPTION = 17

Put = Callable[[Camera, int, int, int], None]
"""``put(camera, x, y, width)`` draws one view with its caption."""


@dataclass(frozen=True)
class Places:
    """Which cameras go where: rows above and below, from left to right, and at most one on either side."""

    top: tuple[Camera, ...]
    bottom: tuple[Camera, ...]
    left: Camera | None = None
    right: Camera | None = None


def place(cameras: tuple[Camera, ...]) -> Places:
    """Place cameras as seen from above: those that look ahead on top, those that look back below, left on the left."""
    ahead = sorted((c for c in cameras if abs(c.yaw_rad) <= math.pi / 2), key=lambda c: -c.yaw_rad)
    behind = sorted((c for c in cameras if abs(c.yaw_rad) > math.pi / 2), key=lambda c: -_from_behind(c))
    left = right = None
    longer = ahead if len(ahead) >= len(behind) else behind
    if len(longer) > 4:
        left, right = longer.pop(0), longer.pop()
    # A camera that looks about sideways joins the shorter row, so that both rows are about as long.
    while len(ahead) - len(behind) >= 2 and (outer := max(ahead, key=lambda c: abs(c.yaw_rad))) and _sideways(outer):
        ahead.remove(outer)
        behind = sorted([*behind, outer], key=lambda c: -_from_behind(c))
    while len(behind) - len(ahead) >= 2 and (outer := min(behind, key=lambda c: abs(c.yaw_rad))) and _sideways(outer):
        behind.remove(outer)
        ahead = sorted([*ahead, outer], key=lambda c: -c.yaw_rad)
    return Places(tuple(ahead), tuple(behind), left, right)


def _sideways(camera: Camera) -> bool:
    return abs(abs(camera.yaw_rad) - math.pi / 2) < math.radians(20)


def _from_behind(camera: Camera) -> float:
    """Place of a rear camera from right to left: 0 straight back, positive on the left side of the car."""
    return math.copysign(math.pi - abs(camera.yaw_rad), camera.yaw_rad)


def contact_sheet(frame: Frame, pictures: Mapping[str, Image.Image], boxes: bool = False) -> Image.Image:
    """Draw a frame's pictures around its map, boxes and camera cones.

    Args:
        frame: the frame.
        pictures: by camera channel; each must have its camera's `image_size`.
        boxes: draw the boxes into the pictures too.

    Raises InputError when one is missing or of another size.
    """
    (sheet,) = contact_sheets(frame, pictures, (boxes,))
    return sheet


def contact_sheets(frame: Frame, pictures: Mapping[str, Image.Image], boxes: Sequence[bool]) -> list[Image.Image]:
    """Draw several contact sheets of a frame, which share all but the pictures.

    Args:
        frame: the frame.
        pictures: by camera channel, as of `contact_sheet`.
        boxes: of each sheet, whether the boxes are drawn into the pictures.
    """
    for camera in frame.cameras:
        if camera.channel not in pictures:
            raise InputError(f"frame {frame.token!r} has no picture for camera {camera.channel}")
        if pictures[camera.channel].size != camera.image_size:
            found = pictures[camera.channel].size
            raise InputError(f"the picture of {camera.channel} is {found}, its camera's images are {camera.image_size}")
    colours = {camera.channel: CAMERA_COLOURS[i] for i, camera in enumerate(frame.cameras)}
    places = place(frame.cameras)
    rows = [row for row in (places.top, places.bottom) if row]
    across = max(len(row) for row in rows)
    tile = min((WIDTH - (across + 1) * GAP) // across, WIDTH // 2)
    heights = {row: max(round(tile * c.image_size[1] / c.image_size[0]) for c in row) + CAPTION + 8 for row in rows}
    common = Image.new("RGB", (WIDTH, HEADER + sum(heights.values()) + MIDDLE + GAP * (len(rows) + 2)), BACKGROUND)
    _header(common, frame)
    y = HEADER + (heights[places.top] + GAP if places.top else 0)
    _middle(common, frame, places, colours, y)

    def drawn(sheet: Image.Image, with_boxes: bool) -> Image.Image:
        def put(camera: Camera, x: int, y: int, width: int) -> None:
            image = pictures[camera.channel]
            _tile(sheet, frame, camera, image, (x, y), width, colours[camera.channel], with_boxes)

        if places.top:
            _row(places.top, HEADER, tile, put)
        _sides(places, y, put)
        if places.bottom:
            _row(places.bottom, y + MIDDLE + GAP, tile, put)
        return sheet

    return [drawn(common.copy(), with_boxes) for with_boxes in boxes]


def _row(cameras: tuple[Camera, ...], y: int, tile: int, put: Put) -> None:
    x = (WIDTH - len(cameras) * tile - (len(cameras) - 1) * GAP) // 2
    for camera in cameras:
        put(camera, x, y, tile)
        x += tile + GAP


def _tile(
    sheet: Image.Image, frame: Frame, camera: Camera, image: Image.Image, at: tuple[int, int], width: int, colour: RGB,
    boxes: bool,
) -> None:  # fmt: skip
    height = round(width * image.height / image.width)  # of a picture, whose size is its camera's
    if boxes:
        shown = draw_boxes(frame, camera, image, width / image.width).resize((width, height))
    else:
        shown = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    x, y = at
    ImageDraw.Draw(sheet).rounded_rectangle((x, y + 3, x + 9, y + 12), 2, fill=colour)
    name = camera.channel.removeprefix("CAM_").replace("_", " ").lower()
    write(sheet, (x + 16, y), name, CAPTION - 2, TEXT, width=width - 56)
    degrees = math.degrees(2 * math.atan(camera.image_size[0] / 2 / camera.K_image[0, 0]))
    write(sheet, (x + width, y), f"{degrees:.0f}°", CAPTION - 3, DIM, "ra")
    sheet.paste(shown, (x, y + CAPTION + 4), rounded(shown, 6))


def _tile_height(camera: Camera, width: int) -> int:
    """Return how high a view is with its caption."""
    return CAPTION + 4 + round(width * camera.image_size[1] / camera.image_size[0])


def _header(sheet: Image.Image, frame: Frame) -> None:
    title = frame.description or frame.scene_name or frame.token
    right = fitted(f"{frame.scene_name}   {frame.location}".strip(), 15, WIDTH // 3)
    # UTC is said because a drive's own clock is not known: midnight may be noon there.
    when = datetime.fromtimestamp(frame.timestamp_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if frame.timestamp_us else ""
    room = WIDTH - 4 * GAP - max(text_width(right, 15), text_width(when, 15), 120)
    large = text_width(title, 23) <= room
    lines = wrapped(title, 23 if large else 18, room, 2)
    for i, line in enumerate(lines):
        write(sheet, (GAP, 13 + 23 * i if len(lines) > 1 else 22 if large else 26), line, 23 if large else 18)
    write(sheet, (WIDTH - GAP, 15), right, 15, DIM, "ra")
    write(sheet, (WIDTH - GAP, 37), when, 15, DIM, "ra")


def _panel(places: Places) -> int:
    return WIDE_PANEL if places.left or places.right else PANEL_WIDTH


def _sides(places: Places, y: int, put: Put) -> None:
    """Draw the views beside the scene from above."""
    if places.left:
        put(places.left, GAP, y, _panel(places))
    if places.right:
        put(places.right, WIDTH - GAP - _panel(places), y, _panel(places))


def _middle(sheet: Image.Image, frame: Frame, places: Places, colours: Mapping[str, RGB], y: int) -> None:
    panel = _panel(places)
    inner = WIDTH - 2 * panel - 4 * GAP
    above = bird_eye(frame, (inner, MIDDLE), colours)
    x = panel + 2 * GAP
    sheet.paste(above, (x, y), rounded(above, 8))
    write(sheet, (x + inner - 10, y + MIDDLE - 24), "circles every 10 m", 13, DIM, "ra")
    left_y, right_y = (y + _tile_height(camera, panel) + GAP if camera else y for camera in (places.left, places.right))
    counts = Counter(box.detection_class or "other" for box in frame.boxes)
    rows = [(CLASS_COLOURS[n], n.replace("_", " "), str(counts[n])) for n in (*DETECTION_CLASSES, "other") if counts[n]]
    drawn = f", the nearest {MOST_BOXES} drawn" if len(frame.boxes) > MOST_BOXES else ""
    _legend(sheet, (GAP, left_y), y + MIDDLE, f"{len(frame.boxes)} boxes{drawn}", rows, panel)
    layers = {**AREA_COLOURS, **LINE_COLOURS}
    present = (
        set() if frame.map is None else {n for g in (frame.map.polygons, frame.map.lines) for n, items in g.items() if items}
    )
    shown = [(c, n.replace("_", " "), "") for n, c in layers.items() if n in present and n != "road_block"]
    _legend(sheet, (WIDTH - GAP - panel, right_y), y + MIDDLE, "map" if shown else "no map", shown, panel)


def _legend(
    sheet: Image.Image, at: tuple[int, int], bottom: int, title: str, rows: list[tuple[RGB, str, str]], width: int
) -> None:
    x, y = at
    draw = ImageDraw.Draw(sheet)
    write(sheet, (x, y + 2), title, 17 if text_width(title, 17) <= width else 13, width=width)
    y += 34
    step = min(30, max(18, (bottom - y) // max(1, len(rows))))
    for colour, name, count in rows:
        if y + step > bottom + 4:
            return
        draw.rounded_rectangle((x, y + 2, x + 22, y + 14), 3, fill=colour)
        write(sheet, (x + 34, y - 1), name, 15, DIM)
        write(sheet, (x + 200, y - 1), count, 15, TEXT, "ra")
        y += step

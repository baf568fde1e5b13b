from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from drivegen.scene import Box3D, Frame
from drivegen.scene.geometry import SE3, project
from drivegen.sheet import bird_eye, contact_sheet, draw_boxes
from drivegen.sheet.canvas import Canvas
from drivegen.sheet.colours import CAMERA_COLOURS, CLASS_COLOURS
from drivegen.sheet.contact import place
from drivegen.sheet.nearest import MOST_BOXES, nearest_in_view, nearest_to
from drivegen.sheet.text import drawable, text_width, wrapped
from drivegen.support.errors import InputError
from tests.street import camera, street_frame

YAWS = (0, 180, 55, -55, 110, -110, 82, -82)


def rig(count: int, size: tuple[int, int] = (224, 128)) -> Frame:
    frame = street_frame(heading_rad=0.0)
    cameras = tuple(camera(f"CAM_{yaw}", yaw, frame.global_SE3_ego, size) for yaw in YAWS[:count])
    return replace(frame, cameras=cameras)


def grey(frame: Frame) -> dict[str, Image.Image]:
    return {c.channel: Image.new("RGB", c.image_size, (90, 90, 90)) for c in frame.cameras}


def near_colour(image: Image.Image, colour: tuple[int, int, int], tolerance: int = 30) -> np.ndarray:
    return (np.abs(np.asarray(image).astype(int) - colour) <= tolerance).all(-1)


@pytest.mark.slow
@pytest.mark.parametrize("count", range(1, 9))
def test_every_camera_has_one_place_in_ring_order(count: int) -> None:
    frame = rig(count)
    places = place(frame.cameras)
    clockwise = [
        *places.top,
        *([places.right] if places.right else []),
        *places.bottom[::-1],
        *([places.left] if places.left else []),
    ]
    names = [c.channel for c in clockwise]
    assert sorted(names) == sorted(frame.channels)
    start = names.index(frame.channels[0])
    assert tuple(names[start:] + names[:start]) == frame.channels
    sheets = [contact_sheet(frame, grey(frame), boxes) for boxes in (False, True)]
    assert sheets[0].size == sheets[1].size
    for i in range(count):  # each camera's caption and cone are there in its colour
        assert near_colour(sheets[0], CAMERA_COLOURS[i], 8).sum() > 60


def test_nuscenes_rows() -> None:
    places = place(street_frame().cameras)
    assert [c.channel for c in places.top] == ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"]
    assert [c.channel for c in places.bottom] == ["CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"]


@pytest.mark.parametrize(("ahead_m", "left_m"), [(20.0, 0.0), (-15.0, 8.0), (5.0, -20.0)])
def test_boxes_from_above_are_where_they_are(ahead_m: float, left_m: float) -> None:
    ego = SE3.from_yaw(0.7, (1000.0, 2000.0, 5.0))
    box = Box3D("vehicle.bus.rigid", ego @ SE3.from_yaw(0.0, (ahead_m, left_m, 1.5)), np.array([2.5, 8.0, 3.0]))
    frame = Frame("t", (camera("CAM_FRONT", 0, ego),), (box,), global_SE3_ego=ego)
    picture = bird_eye(frame, (600, 400), {"CAM_FRONT": (255, 255, 255)}, extent_m=40.0)
    rows, columns = np.nonzero(near_colour(picture, CLASS_COLOURS["bus"]))
    assert rows.mean() == pytest.approx(200 - ahead_m * 5, abs=2.5)  # forward is up, 5 pixels a metre
    assert columns.mean() == pytest.approx(300 - left_m * 5, abs=2.5)
    assert np.ptp(rows) == pytest.approx(8 * 5, abs=4)
    assert np.ptp(columns) == pytest.approx(2.5 * 5, abs=4)


def box_ahead(ahead_m: float, left_m: float = 0.0, **changes) -> Box3D:
    return Box3D("car", SE3.from_yaw(0.4, (ahead_m, left_m, 0.8)), np.array([1.9, 4.5, 1.6]), **changes)


def test_drawn_boxes_stay_within_their_outline() -> None:
    lens = camera("CAM_FRONT", 0, SE3.identity())
    box = box_ahead(14.0, 1.0)
    frame = Frame("t", (lens,), (box,))
    before = Image.new("RGB", lens.image_size, (90, 90, 90))
    changed = (np.asarray(draw_boxes(frame, lens, before)) != np.asarray(before)).any(-1)
    pixels, _ = project(lens.K_image, lens.global_SE3_camera.inverse().transform(box.corners()))
    rows, columns = np.nonzero(changed)
    assert columns.min() == pytest.approx(pixels[:, 0].min(), abs=3)
    assert columns.max() == pytest.approx(pixels[:, 0].max(), abs=3)
    assert rows.min() == pytest.approx(pixels[:, 1].min(), abs=3)
    assert rows.max() == pytest.approx(pixels[:, 1].max(), abs=3)


def test_enlarging_scales_the_drawing() -> None:
    lens = camera("CAM_FRONT", 0, SE3.identity())
    frame = Frame("t", (lens,), (box_ahead(14.0),))
    small, large = (draw_boxes(frame, lens, Image.new("RGB", lens.image_size), scale) for scale in (1.0, 2.0))
    assert large.size == (2 * small.width, 2 * small.height)
    extents = [np.ptp(np.nonzero(np.asarray(image).any(-1))[1]) for image in (small, large)]
    assert extents[1] == pytest.approx(2 * extents[0], abs=6)  # lines keep their width


def test_boxes_behind_and_far_are_not_drawn_and_straddling_ones_are_cut() -> None:
    lens = camera("CAM_FRONT", 0, SE3.identity())
    blank = Image.new("RGB", lens.image_size, (90, 90, 90))
    for box in (box_ahead(-10.0), box_ahead(500.0)):
        assert draw_boxes(Frame("t", (lens,), (box,)), lens, blank).tobytes() == blank.tobytes()
    straddling = draw_boxes(Frame("t", (lens,), (box_ahead(3.0, 2.0),)), lens, blank)
    columns = np.nonzero((np.asarray(straddling) != 90).any(-1))[1]
    assert len(columns)
    assert columns.max() < lens.image_size[0] * 0.6  # it is on the left; a mirrored corner would reach the right


def test_hidden_boxes_are_fainter() -> None:
    lens = camera("CAM_FRONT", 0, SE3.identity())
    drawn = [
        np.asarray(
            draw_boxes(Frame("t", (lens,), (box_ahead(14.0, visibility=v),)), lens, Image.new("RGB", lens.image_size))
        ).max()
        for v in (1, 4)
    ]
    assert drawn[0] < drawn[1]


def test_bare_and_crowded_frames() -> None:
    frame = street_frame()
    bare = Frame("t", frame.cameras)
    crowded = replace(frame, description="夜 " + "very long words about the street and its weather " * 12)
    for one in (bare, crowded):
        assert contact_sheet(one, grey(one), boxes=True).width == 1600


@pytest.mark.slow
def test_very_many_boxes_and_a_very_long_description_are_drawn_in_no_time() -> None:
    frame = rig(2)
    near = nearest_to(frame.global_SE3_ego, frame.boxes)
    assert list(near) == list(frame.boxes)  # all, where there are few
    rng = np.random.default_rng(0)
    places = frame.global_SE3_ego.transform(np.c_[rng.uniform(-60, 60, (4000, 2)), np.full(4000, 0.8)])
    boxes = [replace(box_ahead(0), global_SE3_object=SE3.from_yaw(0.4, place)) for place in places]
    many = replace(frame, boxes=tuple(boxes), description="car " * 250_000)
    started = time.process_time()
    sheet = contact_sheet(many, grey(many), boxes=True)
    assert time.process_time() - started < 8
    assert sheet.size == contact_sheet(frame, grey(frame)).size
    for chosen in (nearest_to(frame.global_SE3_ego, boxes), nearest_in_view(frame.cameras[0], boxes)):
        assert len(chosen) == MOST_BOXES
    lens = frame.cameras[0]
    seen = [lens.global_SE3_camera.inverse().transform(box.global_SE3_object.translation) for box in chosen]
    assert min(place[2] for place in seen) > -3  # behind the camera by no more than a box reaches
    assert max(np.linalg.norm(place) for place in seen) < 35  # 500 of 4000 on 120 m by 120 m, in front


def test_a_long_name_of_a_camera_stays_in_its_place() -> None:
    frame = rig(3)
    longer = replace(frame, cameras=(replace(frame.cameras[0], channel="CAM_" + "W" * 300), *frame.cameras[1:]))
    plain, wide = contact_sheet(frame, grey(frame)), contact_sheet(longer, grey(longer))
    changed = np.nonzero((np.asarray(plain) != np.asarray(wide)).any(-1))[1]
    assert np.ptp(changed) < 1600 / 2


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("夜 wet 🚗", "? wet ?"), ("شارع", "????"), ("naïve Łódź – “ok”…", "naive ?odz - “ok”…"),
        ("tab\tand\nline\u3000wide", "tab and line wide"),
        ("\x1b[31m\u202e", "?[31m?"), ("", ""), ("cafe\u0301 x\u0300\u0301", "cafe x"),
    ],
)  # fmt: skip
def test_what_the_font_lacks_is_seen_to_be_missing(text: str, drawn: str) -> None:
    assert drawable(text) == drawn


def test_wrong_pictures_are_refused() -> None:
    frame = street_frame()
    pictures = grey(frame)
    with pytest.raises(InputError, match="no picture for camera CAM_BACK"):
        contact_sheet(frame, {k: v for k, v in pictures.items() if k != "CAM_BACK"})
    with pytest.raises(InputError, match=r"CAM_BACK is \(5, 5\)"):
        contact_sheet(frame, pictures | {"CAM_BACK": Image.new("RGB", (5, 5))})


def test_text_fits_its_lines() -> None:
    text = "a junction in the rain with many cars and a very long description " * 4
    for lines in (1, 2, 3):
        broken = wrapped(text, 18, 500, lines)
        assert len(broken) == lines
        assert all(text_width(line, 18) <= 500 for line in broken)
        assert broken[-1].endswith("…")
    assert wrapped("short", 18, 500, 2) == ["short"]
    assert wrapped("x" * 400, 18, 500, 2)[0].endswith("…")


def test_canvas_fills_areas_with_holes_and_alpha() -> None:
    canvas = Canvas((40, 40), (0, 0, 0))
    square = np.array([[5, 5], [35, 5], [35, 35], [5, 35]])
    canvas.fill([square, (square - 20) / 2 + 20], (200, 100, 50), alpha=0.5)
    picture = np.asarray(canvas.picture()).astype(int)
    assert abs(picture[8, 20] - (100, 50, 25)).max() <= 1
    assert picture[20, 20].max() == picture[1, 1].max() == 0
    expected = (30 * 30 - 15 * 15) * 100
    assert picture[..., 0].sum() == pytest.approx(expected, rel=0.08)  # OpenCV's fill includes the border's pixels
    assert math.isclose(picture[:, :20].sum(), picture[:, 20:].sum(), rel_tol=0.02)

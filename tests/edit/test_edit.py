"""Recorded frames edited: outside of what changes they stay to the byte, in every view, whatever the views' order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drivegen.edit import Edited, Edits, Insert, Move, Replace, areas, edit
from drivegen.edit.areas import feathered
from drivegen.edit.paint import planned
from drivegen.pipeline.pipeline import Pipeline
from drivegen.raster import box_faces
from drivegen.sampling import Sampling
from drivegen.saved.model import Model
from drivegen.scene import Box3D, Frame
from drivegen.scene.geometry import SE3
from drivegen.support.errors import InputError
from tests.street import camera
from tests.tiny_hosts import SIZE, tiny_host

RANDOM = np.random.default_rng(1)
NATIVE = (320, 180)
AHEAD = Box3D("car", SE3.from_yaw(0.1, (14.0, 1.0, 0.8)), np.array([1.9, 4.6, 1.6]), "ahead")
HIDDEN = Box3D("car", SE3.from_yaw(0.0, (30.0, 5.5, 0.8)), np.array([1.9, 4.6, 1.6]), "hidden")
ASIDE = Box3D("pedestrian", SE3.from_yaw(0.0, (9.0, 6.5, 0.9)), np.array([0.7, 0.7, 1.8]), "aside")
BEHIND = Box3D("bus", SE3.from_yaw(0.0, (-30.0, 0.0, 1.7)), np.array([2.9, 11.0, 3.4]), "behind")


def street(folder: Path, boxes: tuple[Box3D, ...] = (AHEAD, HIDDEN, ASIDE, BEHIND)) -> Frame:
    """Two overlapping cameras of 320 x 180 with recorded pictures."""
    cameras = []
    for i, (channel, yaw) in enumerate((("CAM_FRONT_LEFT", 40.0), ("CAM_FRONT", 0.0))):
        path = folder / f"{channel}.png"
        if not path.exists():
            picture = np.random.default_rng(i).integers(0, 256, (NATIVE[1], NATIVE[0], 3), dtype=np.uint8)
            Image.fromarray(picture).save(path)
        cameras.append(replace(camera(channel, yaw, size=NATIVE), image_path=path))
    return Frame("street", tuple(cameras), boxes, description="Day.")


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Frame:
    return street(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(Model(tiny_host(("text", "boxes", "cross_view")), Sampling("ddim", 2, 1.0), SIZE))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture)


def check_outside(found: Edited) -> None:
    """What lies outside is recorded, to the byte, and inside something is drawn."""
    for channel, area in found.areas.items():
        old, new = pixels(found.before[channel]), pixels(found.after[channel])
        assert np.array_equal(old[area.alpha == 0], new[area.alpha == 0])
        if area.bounds is not None:
            assert (old[area.alpha == 1] != new[area.alpha == 1]).any()


@pytest.mark.parametrize(
    "edits",
    [
        Edits(remove=("ahead",)), Edits(insert=(Insert("truck", 16, -4, 20),)), Edits(move=(Move("ahead", 3, -3, 30),)),
        Edits(replace=(Replace("aside", "bicycle"),)), Edits(remove=("ahead",), insert=(Insert("bus", 22, 0.5, 180),)),
    ],
)  # fmt: skip
def test_what_lies_outside_is_recorded_to_the_byte(pipe: Pipeline, frame: Frame, edits: Edits) -> None:
    found = edit(pipe, frame, edits, seed=1)
    check_outside(found)
    assert any(area.seen for area in found.areas.values())
    assert all(pixels(found.after[c]).shape == (NATIVE[1], NATIVE[0], 3) for c in frame.channels)


def test_an_edit_that_changes_nothing_gives_the_recorded_pictures(pipe: Pipeline, frame: Frame, tmp_path: Path) -> None:
    found = edit(pipe, frame, Edits(move=(Move("ahead", 0, 0, 0),)))
    assert not found.drawn
    folder = found.save(tmp_path / "out")
    for each in frame.cameras:
        assert each.image_path is not None
        assert np.array_equal(pixels(Image.open(folder / f"{each.channel}.png")), pixels(Image.open(each.image_path)))
    assert not list((folder / "masks").iterdir())


def test_pictures_masks_and_sheet_are_written(pipe: Pipeline, frame: Frame, tmp_path: Path) -> None:
    found = edit(pipe, frame, Edits(remove=("ahead",)), seed=1)
    folder = found.save(tmp_path)
    assert Image.open(folder / "sheet.png").width == 1600
    for channel, area in found.areas.items():
        mask = folder / "masks" / f"{channel}.png"
        assert mask.exists() == (area.bounds is not None)
        assert np.array_equal(pixels(Image.open(folder / f"{channel}.png")), pixels(found.after[channel]))
    found.save(tmp_path)  # again, over itself


def test_the_order_of_boxes_and_cameras_changes_nothing(pipe: Pipeline, frame: Frame) -> None:
    edits = Edits(remove=("ahead",), insert=(Insert("truck", 16, -4, 20),))
    other = replace(frame, cameras=frame.cameras[::-1], boxes=frame.boxes[::-1])
    one, two = edit(pipe, frame, edits, seed=1), edit(pipe, other, edits, seed=1)
    for channel in frame.channels:
        assert np.array_equal(one.areas[channel].alpha, two.areas[channel].alpha)
        assert np.abs(pixels(one.after[channel]).astype(int) - pixels(two.after[channel])).max() <= 1


def test_all_of_an_object_and_its_shadow_is_drawn_anew(frame: Frame) -> None:
    _, found = planned(frame, Edits(remove=("ahead",)))
    for each in frame.cameras:
        corners = [np.rint(face.pixels).astype(int) for face in box_faces(each, AHEAD)]
        inside = [p for p in np.concatenate(corners or [np.zeros((0, 2), int)]) if (p >= 0).all() and (p < NATIVE).all()]
        assert all(found[each.channel].alpha[y, x] > 0.5 for x, y in inside)
    alpha = found["CAM_FRONT"].alpha
    rows = np.flatnonzero((alpha > 0).any(1))
    bottom = max(face.pixels[:, 1].max() for face in box_faces(frame.camera("CAM_FRONT"), AHEAD))
    assert rows[-1] > bottom + 3  # the ground before it


def test_boxes_in_front_hide_what_changes_behind_them(frame: Frame) -> None:
    _, alone = planned(replace(frame, boxes=(HIDDEN,)), Edits(remove=("hidden",)))
    _, behind = planned(frame, Edits(remove=("hidden",)))
    front = areas(frame, frame.remove_box("ahead"), Edits(remove=("ahead",)).apply(frame)[1])
    assert (behind["CAM_FRONT"].alpha <= alone["CAM_FRONT"].alpha + 1e-6).all()
    covered = alone["CAM_FRONT"].alpha * (behind["CAM_FRONT"].alpha == 0)
    assert 0 < behind["CAM_FRONT"].seen < alone["CAM_FRONT"].seen
    assert covered.any()
    assert (front["CAM_FRONT"].alpha[covered > 0] > 0).all()


def test_a_callers_mask_stays_within_its_white(pipe: Pipeline, frame: Frame) -> None:
    white = np.zeros((NATIVE[1], NATIVE[0]), bool)
    white[40:90, 100:180] = True
    found = edit(pipe, frame, Edits(masks={"CAM_FRONT": white}, prompt="Night."), seed=1)
    check_outside(found)
    assert np.array_equal(found.areas["CAM_FRONT"].alpha > 0, white)
    assert found.areas["CAM_FRONT_LEFT"].bounds is None


def test_what_is_kept_stays_as_recorded_whatever_changes(pipe: Pipeline, frame: Frame) -> None:
    body = np.zeros((NATIVE[1], NATIVE[0]), bool)
    body[120:, 100:200] = True
    found = edit(pipe, frame, Edits(remove=("ahead",), masks={"CAM_FRONT": True}, keep={"CAM_FRONT": body}), seed=1)
    check_outside(found)
    assert not found.areas["CAM_FRONT"].alpha[body].any()
    assert (found.areas["CAM_FRONT"].alpha[:100] == 1).all()
    assert np.array_equal(pixels(found.after["CAM_FRONT"])[body], pixels(found.before["CAM_FRONT"])[body])


def test_pictures_of_another_shape_leave_the_sides_and_a_narrow_rim_is_continued(pipe: Pipeline, frame: Frame) -> None:
    everything = Edits(masks=dict.fromkeys(frame.channels, True))
    nearly = edit(pipe, frame, everything, seed=1)  # 112 x 64 of 320 x 180: a rim of 2.5 pixels is not generated
    assert all((area.alpha == 1).all() for area in nearly.areas.values())
    columns = pixels(nearly.after["CAM_FRONT"]).astype(int)
    assert np.abs(columns[:, 0] - columns[:, 2]).max() <= np.abs(columns[:, 2:-2] - columns[:, 4:]).max()
    square = edit(pipe, frame, everything, seed=1, size=(64, 64))
    check_outside(square)
    alpha = square.areas["CAM_FRONT"].alpha
    assert not alpha[:, :60].any()
    assert (alpha[:, 85:235] == 1).all()
    assert (np.diff(alpha[0, :100]) >= 0).all()
    assert len(np.unique(alpha[0, :100])) > 3  # it fades
    with pytest.raises(InputError, match="pictures of 64x64 do not show it"):
        edit(pipe, frame, Edits(masks={"CAM_FRONT": np.arange(NATIVE[0])[None].repeat(NATIVE[1], 0) < 30}), size=(64, 64))


def test_the_feather_falls_from_one_to_nothing() -> None:
    core = np.zeros((1, 40), bool)
    core[0, 20] = True
    alpha = feathered(core, 8)[0]
    assert alpha[20] == 1
    assert (np.diff(alpha[:21]) >= 0).all()
    assert (alpha[:12] == 0).all()
    assert (alpha[13:28] > 0).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Edits(remove=("ahaed",)), "ahead"), (lambda: Edits(remove=("ahead", "ahead")), "no box"),
        (lambda: Edits(insert=(Insert("car", -40, 5, 0),)), "no camera's picture"),
        (lambda: Edits(remove=("behind",)), "no camera's picture"),
        (lambda: Edits(move=(Move("ahead", 16, 5, 0),)), "would stand in car 'hidden'"),
        (lambda: Edits(insert=(Insert("pedestrian", 1, 0, 0),)), "carries the cameras"),
        (lambda: Edits(insert=(Insert("caar", 1, 0, 0),)), "did you mean 'car'"),
        (lambda: Edits(insert=(Insert("car", float("nan"), 0, 0),)), "x_m"), (lambda: Edits(masks={"CAM_X": True}), "CAM_X"),
        (lambda: Edits(masks={"CAM_FRONT": np.ones((10, 10), bool)}), "10x10"),
        (lambda: Edits(masks={"CAM_FRONT": np.zeros(NATIVE[::-1], bool)}), "nothing that is white"),
        (lambda: Edits(masks={"CAM_FRONT": True}, keep={"CAM_FRONT": np.ones((10, 10), bool)}), "10x10"),
        (lambda: Edits(masks={"CAM_FRONT": "nothing.png"}), "missing"),
        (lambda: Edits(replace=(Replace("ahead", "animal"),)), "no class"),
    ],
)  # fmt: skip
def test_bad_edits_are_refused_with_a_sentence(frame: Frame, make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        planned(frame, make())


def test_edits_come_together(frame: Frame) -> None:
    edits = Edits(
        remove=("hidden",),
        replace=(Replace("ahead", "bus"),),
        move=(Move("ahead", 2, -1, 90),),
        insert=(Insert("car", 30, 8, 0),),
    )
    turned = replace(frame, global_SE3_ego=SE3.from_yaw(1.0, (5.0, 3.0, 0.2)))
    for base in (frame, turned):
        after, changes = edits.apply(base)
        assert len(changes) == 3
        assert len(after.boxes) == len(base.boxes)
        to_ego = base.global_SE3_ego.inverse()
        old, new = (to_ego @ one.box("ahead").global_SE3_object for one in (base, after))
        assert np.allclose((new.translation - old.translation)[:2], (2, -1))
        assert np.isclose(new.yaw_rad - old.yaw_rad, np.pi / 2)
        assert np.isclose(old.translation[2] - 1.6 / 2, new.translation[2] - 3.4 / 2)  # on the same ground
        inserted = to_ego @ after.box("inserted-1").global_SE3_object
        assert np.allclose(inserted.translation, (30, 8, 0.85))


def test_what_is_inserted_stands_as_high_as_what_is_about_it(frame: Frame) -> None:
    up = SE3.from_yaw(0.0, (0.0, 0.0, 0.5))
    raised = replace(frame, boxes=tuple(replace(box, global_SE3_object=up @ box.global_SE3_object) for box in frame.boxes))
    for base, ground in ((frame, 0.0), (raised, 0.5), (replace(raised, boxes=()), 0.0)):
        after, _ = Edits(insert=(Insert("car", 20, 4, 0),)).apply(base)
        box = after.box("inserted-1")
        assert np.isclose(box.global_SE3_object.translation[2] - box.size_wlh_m[2] / 2, ground)


def test_views_without_a_change_stay_and_still_count(pipe: Pipeline, frame: Frame) -> None:
    found = edit(pipe, frame, Edits(insert=(Insert("car", 20, -7, 0),)), seed=1)
    assert found.areas["CAM_FRONT_LEFT"].bounds is None
    assert found.areas["CAM_FRONT"].bounds is not None
    assert np.array_equal(pixels(found.after["CAM_FRONT_LEFT"]), pixels(found.before["CAM_FRONT_LEFT"]))
    alone = edit(pipe, frame.drop_camera("CAM_FRONT_LEFT"), Edits(insert=(Insert("car", 20, -7, 0),)), seed=1)
    assert not np.array_equal(pixels(alone.after["CAM_FRONT"]), pixels(found.after["CAM_FRONT"]))  # drawn with its neighbour

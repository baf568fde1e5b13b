from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapely import Polygon
from shapely import union_all as union

from drivegen.datasets import nuscenes
from drivegen.scene import Box3D, Frame, MapPolygon, Scene, VectorMap
from drivegen.scene.geometry import SE3
from drivegen.scene.room import footprint
from drivegen.support import strict_yaml
from drivegen.support.errors import InputError
from drivegen.synthesis import rigs, sensor
from drivegen.synthesis.lidar import Change, derived, read_sweep
from drivegen.synthesis.plan import settings_of
from drivegen.synthesis.recipe import Recipe, Variant
from drivegen.synthesis.variants import Varied, vary
from drivegen.synthesis.visibility import level, seen
from drivegen.synthesis.wording import described
from tests.street import camera, street_frame, street_map, street_scene

HOUSE = Path(__file__).parents[2]


def varied(scene: Scene, variant: str, run: str = "") -> Varied:
    recipe = strict_yaml.build(Recipe, {"name": "r", "variants": {"v": strict_yaml.parse(variant, "test")}})
    return vary(scene, recipe, "v", "v", run)


def box(x: float, y: float, name: str, category: str = "car", size: tuple[float, float, float] = (2, 4, 2)) -> Box3D:
    return Box3D(category, SE3.from_yaw(0, (x, y, size[2] / 2)), np.array(size, dtype=float), name)


def row(*boxes: Box3D, vector_map: VectorMap | None = None) -> Scene:
    """A scene of two frames 60 m from a street's boxes, the ego on the side road."""
    frames = tuple(replace(street_frame(i, vector_map=vector_map), boxes=boxes) for i in range(2))
    return Scene("row", frames, "day", "boston-seaport")


def test_a_track_is_drawn_once_and_alike_in_every_process() -> None:
    scene = street_scene(3)
    jitter = "boxes: {jitter: [{position_m: 0.2, heading_deg: 3, size: 0.05}], drop: [{probability: 0.5}]}"
    one, same = varied(scene, jitter), varied(scene, jitter)
    for a, b in zip(one.scene.frames, same.scene.frames, strict=True):
        assert [x.instance for x in a.boxes] == [x.instance for x in b.boxes]
        assert all(np.array_equal(x.corners(), y.corners()) for x, y in zip(a.boxes, b.boxes, strict=True))
    kept = [{x.instance for x in frame.boxes} for frame in one.scene.frames]
    assert kept[0] == kept[1] == kept[2]
    assert 0 < len(kept[0]) < len(scene.frames[0].boxes)
    other = varied(scene, jitter, "another run")
    assert not kept[0] & {x.instance for x in other.scene.frames[0].boxes}


def test_what_would_overlap_stays_and_is_counted() -> None:
    scene = row(box(330, 297, "a"), box(340, 297, "b"), box(338, 300, "c"))
    move = varied(scene, "boxes: {move: [{classes: [car], forward_m: [8, 8]}]}")
    assert move.skipped == {"move: would overlap another object": 1}  # a into b; then b and c move on
    assert [len(edit.changes) for edit in move.edits] == [2, 2]
    # What touches in the source may stay that way.
    touching = row(box(330, 297, "a"), box(333, 297, "b"))
    assert varied(touching, "boxes: {move: [{forward_m: [0.1, 0.1]}]}").skipped == {}
    into_the_ego = varied(row(box(310, 298, "a")), "boxes: {move: [{forward_m: [-9, -9]}]}")
    assert into_the_ego.skipped == {"move: would overlap another object": 1}


def test_a_vehicle_on_the_road_stays_on_it() -> None:
    off = box(330, 280, "off the road before")
    found = varied(row(box(330, 297, "a"), box(340, 297, "b", "pedestrian"), off), "boxes: {move: [{left_m: [-10, -10]}]}")
    assert found.skipped == {"move: would leave the road": 1}
    assert [len(edit.changes) for edit in found.edits] == [2, 2]


def test_moves_along_lanes() -> None:
    on, off, leaving = box(250, 302.5, "on"), box(250, 295, "off"), box(275, 302.5, "leaving")
    move = "boxes: {move: [{forward_m: [10, 10], on_lane: true}]}"
    found = varied(row(on, off, leaving), move)
    assert found.skipped == {"move: is not on a lane": 1, "move: would leave the lane": 1}
    assert found.scene.frames[1].boxes[0].global_SE3_object.translation[0] == pytest.approx(260)
    bare = replace(street_map(), polygons={})
    assert varied(row(on, vector_map=bare), move).skipped == {"move: the map has no lanes": 1}


def test_a_swapped_object_stands_on_the_same_ground() -> None:
    found = varied(row(box(330, 297, "a")), "boxes: {swap: [{to: bus}]}").scene.frames[0].boxes[0]
    assert found.detection_class == "bus"
    assert found.corners()[:, 2].min() == pytest.approx(0)
    assert varied(row(box(330, 297, "a")), "boxes: {swap: [{to: animal}]}").skipped == {
        "swap: no usual size of animal is known": 1
    }


def test_joints_grow_with_their_box_and_go_with_their_class() -> None:
    person = replace(box(330, 297, "a", "pedestrian"), joints_m=np.ones((17, 3)))
    grown = varied(row(person), "boxes: {jitter: [{size: 0.5}]}").scene.frames[1].boxes[0]
    factor = grown.size_wlh_m[0] / person.size_wlh_m[0]
    assert factor != 1
    np.testing.assert_allclose(grown.joints_m, np.full((17, 3), factor))
    assert varied(row(person), "boxes: {swap: [{to: car}]}").scene.frames[1].boxes[0].joints_m is None


def test_attributes_that_no_evaluation_takes_are_left_out() -> None:
    strange = replace(box(330, 297, "a"), attribute="own.thing")
    foreign = replace(box(340, 297, "b", "animal"), attribute="own.thing")
    found = varied(row(strange, foreign), "{}")
    assert found.skipped == {"attributes: 'own.thing' is none of nuScenes'": 1}
    assert [b.attribute for b in found.scene.frames[1].boxes] == ["", "own.thing"]
    assert found.edits[0].changes == ()


def test_inserted_vehicles_follow_others_on_their_lane() -> None:
    leader = [replace(box(250 + 3 * i, 302.5, "leader"), attribute="vehicle.moving") for i in range(2)]
    scene = row()
    scene = replace(scene, frames=tuple(replace(f, boxes=(b,)) for f, b in zip(scene.frames, leader, strict=True)))
    found = varied(scene, "boxes: {insert: [{to: truck, count: [1, 1], gap_m: [2, 4]}]}")
    assert found.skipped == {}
    new = [frame.boxes[1] for frame in found.scene.frames]
    assert new[0].instance == new[1].instance != found.scene.frames[0].boxes[0].instance
    assert [b.detection_class for b in new] == ["truck", "truck"]
    assert new[0].attribute == "vehicle.moving"
    assert new[0].corners()[:, 2].min() == pytest.approx(0)
    step = new[1].global_SE3_object.translation - new[0].global_SE3_object.translation
    np.testing.assert_allclose(step, (3, 0, 0), atol=1e-9)
    apart = abs(new[0].global_SE3_object.translation[0] - 250) - (4 + new[0].size_wlh_m[1]) / 2
    assert 2 <= apart <= 4
    many = varied(scene, "boxes: {insert: [{to: bus, count: [20, 20], gap_m: [1, 30]}]}")
    assert 0 < many.skipped["insert: no free place on a lane"] < 20
    for frame in many.scene.frames:
        shapes = [footprint(one) for one in frame.boxes]
        assert len(shapes) > 1
        assert not any(a.intersects(b) for i, a in enumerate(shapes) for b in shapes[:i])
    bare = replace(street_map(), polygons={})
    assert varied(row(leader[0], vector_map=bare), "boxes: {insert: [{to: car, count: [2, 2]}]}").skipped == {
        "insert: the map has no lanes": 2
    }


def test_inserted_pedestrians_are_on_walkways_and_crossings() -> None:
    scene, insert = row(box(250, 302.5, "car")), "boxes: {insert: [{to: pedestrian, where: walkway, count: [12, 12]}]}"
    found = varied(scene, insert)
    layers = [Polygon(area.exterior) for name in ("walkway", "ped_crossing") for area in street_map().polygons[name]]
    new = [[one for one in frame.boxes if one.detection_class == "pedestrian"] for frame in found.scene.frames]
    assert 3 < len(new[0]) == 12 - found.skipped["insert: no free place on a walkway or crossing"]
    assert [one.instance for one in new[0]] == [one.instance for one in new[1]]
    passed_s = (scene.frames[1].timestamp_us - scene.frames[0].timestamp_us) / 1e6
    for before, after in zip(*new, strict=True):
        assert all(union(layers).covers(footprint(one)) for one in (before, after))
        assert before.corners()[:, 2].min() == pytest.approx(0, abs=1e-6)
        step = after.global_SE3_object.translation - before.global_SE3_object.translation
        moves = before.attribute == "pedestrian.moving"
        assert np.linalg.norm(step) / passed_s == pytest.approx(1.25, abs=0.36) if moves else not step.any()
    assert {one.attribute for one in new[0]} == {"pedestrian.moving", "pedestrian.standing"}
    for frame in found.scene.frames:
        shapes = [footprint(one) for one in frame.boxes]
        assert not any(a.intersects(b) for i, a in enumerate(shapes) for b in shapes[:i])
    assert varied(row(vector_map=replace(street_map(), polygons={})), insert).skipped == {
        "insert: the map has no walkways or crossings": 12
    }
    for wrong in ("{to: pedestrian}", "{to: car, where: walkway}"):
        with pytest.raises(InputError, match="pedestrians go on a walkway"):
            varied(scene, f"boxes: {{insert: [{wrong}]}}")


def bend(radius: float = 30.0, width: float = 3.6) -> MapPolygon:
    """A lane that turns left by 90 degrees about (0, 30), from (0, 0) heading along x."""
    turn = np.linspace(0, np.pi / 2, 40)
    inner, outer = (
        np.stack([r * np.sin(turn), radius - r * np.cos(turn)], -1) for r in (radius - width / 2, radius + width / 2)
    )
    return MapPolygon(np.concatenate([outer, inner[::-1]]))


def on_bend(turn_rad: float, aside_m: float = 0.0, name: str = "car") -> Box3D:
    r = 30 - aside_m
    place = (r * np.sin(turn_rad), 30 - r * np.cos(turn_rad), 1.0)
    return Box3D("car", SE3.from_yaw(turn_rad, place), np.array([2.0, 4, 2]), name, attribute="vehicle.moving")


def bend_scene(count: int, *cars: list[Box3D], **layers: tuple[MapPolygon, ...]) -> Scene:
    shared = VectorMap("boston-seaport", layers)
    frames = (street_frame(i, vector_map=shared) for i in range(count))
    away = SE3.from_yaw(0, (-60, 0, 0))
    moments = zip(*cars, strict=True)
    boxed = [replace(f, boxes=tuple(b for b in m if b), global_SE3_ego=away) for f, m in zip(frames, moments, strict=True)]
    return Scene("bend", tuple(boxed), "day", "boston-seaport")


def test_moves_follow_the_curve_of_a_lane() -> None:
    driving = [on_bend(0.2 + 0.1 * i, 0.5) for i in range(3)]
    scene = bend_scene(3, driving, lane=(bend(),))
    found = varied(scene, "boxes: {move: [{forward_m: [9, 9], on_lane: true}]}")
    assert found.skipped == {}
    for before, frame in zip(driving, found.scene.frames, strict=True):
        pose = frame.boxes[0].global_SE3_object
        way = np.array([0, 30, 1]) - pose.translation
        assert np.linalg.norm(way) == pytest.approx(29.5, abs=0.1)  # as far beside the middle of the lane
        turned = pose.yaw_rad - before.global_SE3_object.yaw_rad
        assert turned == pytest.approx(9 / 29.5, abs=0.05)
        assert np.arctan2(-way[0], way[1]) == pytest.approx(pose.yaw_rad, abs=0.05)
    assert varied(scene, "boxes: {move: [{forward_m: [60, 60], on_lane: true}]}").skipped == {"move: would leave the lane": 1}


@pytest.mark.parametrize("place", ["lane", "road"])
def test_an_inserted_vehicle_is_there_throughout(place: str) -> None:
    # Seen in two of four key frames; the inserted one is there in all, and goes round the bend with it.
    driving = [None, *(on_bend(0.5 + 0.1 * i) for i in range(2)), None]
    layers = {"lane": (bend(),), "drivable_area": (bend(width=8),)} if place == "lane" else {"drivable_area": (bend(width=9),)}
    scene = bend_scene(4, driving, **layers)
    found = varied(scene, f"boxes: {{insert: [{{to: car, gap_m: [1, 3], where: {place}}}]}}")
    assert found.skipped == {}
    new = [frame.boxes[-1].global_SE3_object for frame in found.scene.frames]
    assert len({frame.boxes[-1].instance for frame in found.scene.frames}) == 1
    for pose in new:
        assert np.linalg.norm(pose.translation[:2] - (0, 30)) == pytest.approx(30, abs=2.0 if place == "road" else 0.2)
    steps = [np.linalg.norm((b.translation - a.translation)[:2]) for a, b in pairwise(new)]
    assert steps == pytest.approx([3, 3, 3], abs=0.2)
    wrong = "lane" if place == "road" else "road"
    bare = bend_scene(4, driving, **{k: v for k, v in layers.items() if (k == "lane") == (place == "lane")})
    there = "lanes" if wrong == "lane" else "drivable area"
    assert varied(bare, f"boxes: {{insert: [{{to: car, where: {wrong}}}]}}").skipped == {f"insert: the map has no {there}": 1}


def test_nothing_is_put_where_the_lidar_saw_something(tmp_path: Path) -> None:
    leader = box(250, 302.5, "leader")
    scene = row(leader)
    insert = "boxes: {insert: [{to: car, gap_m: [2, 2.01]}], move: [{forward_m: [9, 9]}]}"
    assert varied(scene, insert).skipped == {}
    poles = [(250 + away, 302.5, z) for away in range(-40, 41, 2) for z in (0.9, 1.1, 1.3) if abs(away) > 2]
    frames = tuple(replace(frame, lidar_path=sweep(tmp_path, frame, *poles)) for frame in scene.frames)
    assert varied(replace(scene, frames=frames), insert).skipped == {
        "insert: no free place on a lane": 1, "move: would stand in something that the lidar saw": 1
    }  # fmt: skip


def test_another_rig_takes_the_place_of_the_cameras(tmp_path: Path) -> None:
    nuscenes.write([street_scene(1)], tmp_path / "other")
    folder, known = tmp_path / "recipes", rigs.read(tmp_path / "other")
    folder.mkdir()
    (folder / "rig.json").write_text(json.dumps({"CAM_FRONT": known["CAM_FRONT"], "CAM_TOP": known["CAM_BACK"]}))
    path = folder / "r.yaml"
    cameras = "[{channel: CAM_TOP, focal: 2}, {channel: CAM_BACK, drop: true}]"
    text = f"name: r\nvariants: {{a: {{rig: ../other}}, b: {{rig: rig.json, cameras: {cameras}}}}}\n"
    path.write_text(text)
    recipe, scene = Recipe.read(path), street_scene(2)
    assert str(tmp_path) not in json.dumps(recipe.to_dict())
    same = vary(scene, recipe, "a", "a", "").scene
    for old, new in zip(scene.frames, same.frames, strict=True):
        assert new.channels == old.channels
        for a, b in zip(old.cameras, new.cameras, strict=True):
            np.testing.assert_allclose(a.global_SE3_camera.matrix, b.global_SE3_camera.matrix, atol=1e-9)
            assert (a.timestamp_us, a.width_px) == (b.timestamp_us, b.width_px)
    other = vary(scene, recipe, "b", "b", "")
    assert other.skipped == {"cameras: no camera 'CAM_BACK'": 1}
    assert [edit.other_rig for edit in other.edits] == [True, True]
    front, top = (other.scene.frames[1].camera(channel) for channel in ("CAM_FRONT", "CAM_TOP"))
    assert top.K_native[0, 0] == 2 * front.K_native[0, 0]
    assert top.timestamp_us == scene.frames[1].timestamp_us
    for broken, said in (
        ("[]", "must hold calibrations"), ('{"A": {"translation": [0, 0, 0]}}', "rotation is missing"), ("{", "is not JSON"),
        (json.dumps({"A": known["CAM_FRONT"] | {"rotation": [1, 1, 0, 0]}}), "unit length"),
    ):  # fmt: skip
        (folder / "rig.json").write_text(broken)
        with pytest.raises(InputError, match=said):
            Recipe.read(path)
    path.write_text(text.replace("rig.json", "none.json"))
    with pytest.raises(InputError, match=r"variants\.b\.rig: rig .*none\.json does not exist"):
        Recipe.read(path)


def test_files_are_given_to_plugins_and_are_part_of_the_recipe(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2), (9, 8, 7)).save(tmp_path / "dusk.png")
    path = tmp_path / "r.yaml"
    path.write_text("name: r\nvariants: {a: {inputs: {image_prompt: {images: [{file: dusk.png}, own], scale: 0.5}}}}\n")
    recipe = Recipe.read(path)
    given = settings_of(recipe, recipe.variants["a"]).inputs["image_prompt"]
    assert given["images"][0].getpixel((0, 0)) == (9, 8, 7)
    assert (given["images"][1], given["scale"]) == ("own", 0.5)
    assert str(tmp_path) not in json.dumps(recipe.to_dict())
    Image.new("RGB", (4, 2)).save(tmp_path / "dusk.png")
    assert Recipe.read(path).sha256 != recipe.sha256
    with pytest.raises(InputError, match="has changed since the recipe was read"):
        settings_of(recipe, recipe.variants["a"])
    path.write_text("name: r\nvariants: {a: {inputs: {image_prompt: {file: none.png}}}}\n")
    with pytest.raises(InputError, match=r"none\.png does not exist"):
        Recipe.read(path)


def test_inserted_boxes_are_met_by_the_rays(tmp_path: Path) -> None:
    frame = street_frame(0)
    eye = (frame.global_SE3_ego @ frame.ego_SE3_lidar).translation
    behind = tuple(eye + 1.5 * (np.array([330, 298, 0.6]) - eye))
    path = sweep(tmp_path, frame, behind, (320, 298, 1), (340, 320, 0.1))
    new = box(330, 298, "new")
    found = edited(path, frame, (None, new))
    assert found[:3, 4].tolist() == [0, 1, 2]
    places = (frame.global_SE3_ego @ frame.ego_SE3_lidar).transform(found[:, :3])
    assert places[0][0] == pytest.approx(328, abs=1e-3)  # its rear, on the same ray
    direction = places[0] - eye
    np.testing.assert_allclose(direction / direction[0], (np.array(behind) - eye) / (behind[0] - eye[0]), atol=1e-4)
    np.testing.assert_allclose(places[1:3], [(320, 298, 1), (340, 320, 0.1)], atol=1e-4)
    # Where no ray returned, a sensor's would have met the box: on the sides that face it, and nowhere else.
    inside = np.abs(new.global_SE3_object.inverse().transform(places[3:])) <= new.size_wlh_m[[1, 0, 2]] / 2
    assert len(inside) > 20
    assert inside.all()
    assert places[3:, 0].max() < 328.1 or places[3:, 2].max() > 1.9
    full = np.concatenate([frame_rays(frame, 40.0), read_sweep(path)])
    path.write_bytes(full.astype("<f4").tobytes())
    assert len(edited(path, frame, (None, new))) == len(full)  # all directions returned something: no ray is added


def frame_rays(frame: Frame, far_m: float) -> np.ndarray:
    """A sweep of a sensor that returns something in every direction, so far away."""
    rays, ring = sensor.rays(frame.global_SE3_ego @ frame.ego_SE3_lidar)
    places = rays.eye + rays.way / np.linalg.norm(rays.way, axis=1, keepdims=True) * far_m
    return sensor.measured(places, ring, frame.global_SE3_ego @ frame.ego_SE3_lidar)


def sweep(folder: Path, frame: Frame, *places: tuple[float, float, float]) -> Path:
    points = np.zeros((len(places), 5), np.float32)
    points[:, :3] = (frame.global_SE3_ego @ frame.ego_SE3_lidar).inverse().transform(np.array(places))
    points[:, 4] = np.arange(len(places))
    path = folder / "sweep.bin"
    path.write_bytes(points.tobytes())
    return path


def edited(path: Path, frame: Frame, *changes: Change) -> np.ndarray:
    """A sweep after changes of boxes, as the file holds it."""
    boxes = [after for _, after in changes if after is not None]
    return derived(read_sweep(path), frame.global_SE3_ego @ frame.ego_SE3_lidar, changes, boxes).astype(np.float32)


def test_points_go_with_their_boxes(tmp_path: Path) -> None:
    frame = street_frame(0)
    moved, gone = box(320, 298, "moved"), box(320, 305, "gone")
    after = box(330, 298, "moved")
    eye = (frame.global_SE3_ego @ frame.ego_SE3_lidar).translation
    behind = tuple(eye + 1.5 * (np.array([330, 298, 0.6]) - eye))
    path = sweep(tmp_path, frame, (321, 298.5, 1.5), (320, 305, 1), behind, (340, 320, 0.1), (330, 298, 1))
    found = edited(path, frame, (moved, after), (gone, None))
    # Ring numbers stand for the points: the car's own stays with it; the removed one's, the shadow's and what was there go.
    assert found[:, 4].tolist() == [0, 3]
    place = (frame.global_SE3_ego @ frame.ego_SE3_lidar).transform(found[0, :3])
    np.testing.assert_allclose(place, (331, 298.5, 1.5), atol=1e-4)
    wide = replace(moved, size_wlh_m=np.array([4.0, 4.0, 2.0]))
    found = edited(path, frame, (moved, wide))
    place = (frame.global_SE3_ego @ frame.ego_SE3_lidar).transform(found[0, :3])
    np.testing.assert_allclose(place, (321, 299, 1.5), atol=1e-4)  # twice as far to the side


def shares(frame: Frame) -> list[float | None]:
    return [view.share for view in seen(frame, frame.boxes)]


def test_what_is_hidden_is_said_to_be_less_visible() -> None:
    cameras = (camera("CAM_FRONT", 0, SE3.identity()),)
    near, far, beside = box(15, 0, "near", size=(3, 4, 3)), box(30, 0, "far", size=(2, 4, 1.5)), box(-20, 0, "beside")
    frame = Frame("f", cameras, (near, far, beside))
    assert shares(frame) == [1.0, 0.0, None]
    assert shares(frame.remove_box("near")) == [1.0, None]
    assert [level(share) for share in (None, 0.0, 0.39, 0.4, 0.7, 1.0)] == [1, 1, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ({}, "Day, clear. A street, wet."), ({"time": "night"}, "Night, clear. A street, wet."),
        ({"weather": "rain"}, "Day, rain. A street, wet."),
        ({"time": "night", "weather": "rain"}, "Night, rain. A street, wet."),
        ({"prompt": "Fog. {description}"}, "Fog. Day, clear. A street, wet."),
    ],
)  # fmt: skip
def test_time_and_weather_are_written_anew(variant: dict, words: str) -> None:
    assert described("Day, clear. A street, wet.", Variant(**variant)) == words


@pytest.mark.parametrize("path", sorted((HOUSE / "configs" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_recipes_are_understood(path: Path) -> None:
    assert Recipe.read(path).name == path.stem


def test_the_recipe_of_the_page_is_understood() -> None:
    text = (HOUSE / "docs" / "synthesis.md").read_text(encoding="utf-8")
    block, *_ = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert set(strict_yaml.build(Recipe, strict_yaml.parse(block, "page")).variants) == {"night", "rearranged"}


def test_where_no_word_of_time_stands_it_comes_first() -> None:
    assert described("Parked cars, a bus", Variant(time="night")) == "Night. Parked cars, a bus"
    assert described("", Variant(weather="fog")) == "Fog."

"""The procedural city: what is drawn, what is said of it and what is written agree."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import shapely

from drivegen import world
from drivegen.scene import DETECTION_CLASSES, Box3D, Camera, Frame
from drivegen.scene.geometry import SE3, Array
from drivegen.world.conditions import TIMES, WEATHERS

SIZE = (64, 112)
SEED = 7


@pytest.fixture(scope="module")
def cities() -> list[world.CityScene]:
    return [world.build(SEED, index, 2, SIZE) for index in range(8)]


@pytest.fixture(scope="module")
def many() -> list[world.CityScene]:
    return [world.build(SEED, index) for index in range(40)]


def points_of(camera: Camera, view: world.View) -> Array:
    """Global points (H, W, 3) of a view's pixels; the sky is infinite."""
    rows, columns = np.mgrid[: view.depth_m.shape[0], : view.depth_m.shape[1]] + 0.5
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(camera.K_image).T
    with np.errstate(invalid="ignore"):
        return camera.global_SE3_camera.transform(rays * view.depth_m[..., None])


def views(city: world.CityScene) -> Iterator[tuple[Camera, world.View, Array]]:
    frame = city.scene.frames[0]
    for camera in frame.cameras:
        view = city.render(frame, camera.channel)
        yield camera, view, points_of(camera, view)


def test_building_is_light_and_repeatable() -> None:
    code = (
        "import sys, drivegen.world as w; c = w.build(1, 2); assert 'numba' not in sys.modules and 'torch' not in sys.modules; "
    )
    code += "print(c.scene.description, [b.global_SE3_object.matrix.tobytes().hex() for b in c.scene.frames[0].boxes])"
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1


@pytest.mark.slow
def test_what_is_drawn_on_the_ground_is_the_map(cities: list[world.CityScene]) -> None:
    layers = {
        "ped_crossing": {"ped_crossing"}, "stop_line": {"stop_line"}, "walkway": {"walkway"}, "carpark_area": {"carpark_area"},
        "drivable_area": {"road", "lane_marking", "ped_crossing", "stop_line", "carpark_area"},
    }  # fmt: skip
    checked = 0
    for city in cities[:4]:
        vector_map = city.scene.frames[0].map
        assert vector_map is not None
        areas = {
            name: shapely.union_all([shapely.Polygon(p.exterior, p.holes) for p in vector_map.polygons[name]])
            for name in layers
        }
        for area in areas.values():
            shapely.prepare(area)
        dividers = shapely.union_all([shapely.LineString(line.points) for group in vector_map.lines.values() for line in group])
        for _, view, points in views(city):
            ground = (view.classes >= 1) & (view.classes <= 7) & (view.depth_m < 60)
            ground[:, ::2] = False
            names = np.array(world.CLASSES)[view.classes[ground]]
            spots = shapely.points(points[ground][:, :2])
            assert np.abs(points[ground][:, 2]).max() < 1e-3
            for layer, known in layers.items():
                inside = shapely.contains(areas[layer], spots)
                edge = (
                    shapely.distance(areas[layer].boundary, spots) < 0.1
                    if not areas[layer].is_empty
                    else np.zeros(len(spots), bool)
                )
                drawn = np.isin(names, list(known))
                if layer == "walkway":  # what lies on the road is the road
                    inside &= ~shapely.contains(areas["drivable_area"], spots)
                if layer == "stop_line":  # a crossing is painted over it
                    inside &= ~shapely.contains(areas["ped_crossing"], spots)
                assert (drawn == inside)[~edge].all(), layer
                checked += int(drawn.sum())
            assert (shapely.distance(dividers, spots[names == "lane_marking"]) < 0.3).all()
    assert checked > 10_000


@pytest.mark.slow
def test_objects_are_drawn_inside_their_boxes(cities: list[world.CityScene]) -> None:
    seen: set[str] = set()
    for city in cities:
        boxes = city.scene.frames[0].boxes
        for _, view, points in views(city):
            for number in np.unique(view.instances[view.instances > 0]):
                box, mask = boxes[number - 1], view.instances == number
                name = box.detection_class
                assert name is not None
                seen.add(name)
                assert (view.classes[mask] == world.CLASSES.index(name)).all()
                local = np.abs(box.global_SE3_object.inverse().transform(points[mask]))
                w, l, h = box.size_wlh_m / 2 + 0.003
                assert (local <= (l, w, h)).all(), name
            foreground = np.array([name in DETECTION_CLASSES for name in world.CLASSES])[view.classes]
            assert ((view.instances > 0) == foreground).all()
    assert len(seen) >= 7


@pytest.mark.slow
def test_every_class_fills_its_box_and_is_drawn_wherever_it_is_put() -> None:
    city = world.build(SEED, 0, 1, (96, 168))
    frame = replace(city.scene.frames[0], boxes=())
    ego = frame.global_SE3_ego
    from drivegen.world.tracks import KINDS

    for name, (category, _, largest) in KINDS.items():
        size = np.array(largest)
        # 12 m ahead, turned sideways, above the ground: nothing else is there
        pose = ego @ SE3.from_yaw(math.pi / 3, (14.0, 0.0, 0.03 + size[2] / 2))
        box = Box3D(category, pose, size, instance=f"new {name}")
        view = city.render(frame.add_box(box), "CAM_FRONT")
        mask = view.classes == world.CLASSES.index(name)
        assert mask.sum() > 12, name
        camera = frame.camera("CAM_FRONT")
        local = pose.inverse().transform(points_of(camera, view)[mask])
        for axis, half in enumerate(size[[1, 0, 2]] / 2):
            assert np.ptp(local[:, axis]) > 0.75 * half, (name, axis)
        gone = city.render(frame, "CAM_FRONT")
        assert not (gone.classes == world.CLASSES.index(name)).any()
        assert (gone.rgb != view.rgb).any(axis=-1)[mask].mean() > 0.9


@pytest.mark.slow
def test_overlapping_cameras_see_the_same_world(cities: list[world.CityScene]) -> None:
    compared = objects = 0
    for city in cities[:5]:
        seen = list(views(city))
        for first, one, points in seen:
            for second, other, _ in seen:
                if first is second:
                    continue
                local = second.global_SE3_camera.inverse().transform(points[np.isfinite(one.depth_m)])
                with np.errstate(all="ignore"):
                    pixels = local @ second.K_image.T
                    pixels = pixels[:, :2] / pixels[:, 2:]
                columns, rows = np.floor(np.nan_to_num(pixels, nan=-1, posinf=-1, neginf=-1)).T.astype(int)
                shown = (local[:, 2] > 0.3) & (columns >= 0) & (columns < SIZE[1]) & (rows >= 0) & (rows < SIZE[0])
                columns, rows, depth = columns[shown], rows[shown], local[shown, 2]
                mutual = np.abs(other.depth_m[rows, columns] - depth) < 0.02 * depth
                same = one.classes[np.isfinite(one.depth_m)][shown][mutual] == other.classes[rows, columns][mutual]
                who = one.instances[np.isfinite(one.depth_m)][shown][mutual]
                if len(same) > 50:
                    assert same.mean() > 0.93
                    assert (who == other.instances[rows, columns][mutual]).mean() > 0.93
                compared += len(same)
                objects += int((who > 0).sum())
    assert compared > 3000
    assert objects > 100


@pytest.mark.slow
def test_nothing_collides_and_everything_stands_where_it_belongs(cities: list[world.CityScene]) -> None:
    def footprint(box: Box3D) -> shapely.Polygon:
        return shapely.Polygon(box.corners()[[0, 1, 5, 4], :2])

    for city in cities:
        vector_map = city.scene.frames[0].map
        assert vector_map is not None
        drivable, walkway = (
            shapely.union_all([shapely.Polygon(p.exterior, p.holes) for p in vector_map.polygons[name]])
            for name in ("drivable_area", "walkway")
        )
        lanes = shapely.union_all([shapely.Polygon(p.exterior) for p in vector_map.polygons["road_block"]])
        for frame in city.scene.frames:
            shapes = [footprint(box) for box in frame.boxes]
            ego = footprint(Box3D("car", frame.global_SE3_ego @ SE3.from_yaw(0, (1.4, 0, 0.8)), np.array([1.9, 4.7, 1.6])))
            for i, shape in enumerate(shapes):
                assert not shape.intersects(ego)
                assert all(not shape.intersects(other) for other in shapes[:i])
            assert drivable.contains(ego)
            for box, shape in zip(frame.boxes, shapes, strict=True):
                moving = np.hypot(*box.velocity_mps[:2]) > 0.5
                if box.detection_class in ("car", "truck", "bus", "motorcycle", "bicycle", "trailer", "construction_vehicle"):
                    assert drivable.buffer(0.15).contains(shape)
                if moving:
                    heading = math.atan2(box.velocity_mps[1], box.velocity_mps[0])
                    assert abs(math.remainder(heading - box.global_SE3_object.yaw_rad, 2 * math.pi)) < 0.05
                if box.detection_class == "pedestrian":
                    assert drivable.union(walkway).buffer(0.5).contains(shapely.Point(box.global_SE3_object.translation[:2]))
        assert not lanes.is_empty


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "index"), [(9, 1), (9, 4), (11, 7), (3, 5)])
def test_a_scene_of_twenty_seconds_stays_on_its_streets(seed: int, index: int) -> None:
    """nuScenes's length: the ego is on the road and as fast as before, the traffic is on it too, and does not run out."""
    frames = world.build(seed, index, 40, SIZE).scene.frames
    assert frames[0].map is not None
    drivable = shapely.union_all([shapely.Polygon(p.exterior, p.holes) for p in frames[0].map.polygons["drivable_area"]])
    drivable = drivable.buffer(0.15)
    steps = np.diff([frame.global_SE3_ego.translation for frame in frames], axis=0)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), np.linalg.norm(steps[0]), rtol=0.05, atol=1e-9)
    for frame in frames[::3]:
        ego = Box3D("car", frame.global_SE3_ego @ SE3.from_yaw(0, (1.4, 0, 0.8)), np.array([1.9, 4.7, 1.6]))
        shapes = [shapely.Polygon(box.corners()[[0, 1, 5, 4], :2]) for box in (ego, *frame.boxes)]
        pairs = shapely.STRtree(shapes).query(shapes, predicate="intersects").T
        assert [(i, j) for i, j in pairs if i != j] == []
        assert drivable.contains(shapes[0])
        for box, shape in zip(frame.boxes, shapes[1:], strict=True):
            assert not box.category.startswith("vehicle.") or drivable.contains(shape)
        assert 3 * len(frame.boxes) > len(frames[0].boxes)


def test_the_ego_brakes_before_its_road_ends_and_a_short_drive_is_as_drawn() -> None:
    from drivegen.world.city import END_M, _Drive

    road = world.build(0, 0).plan.roads[0]
    for s0, speed in ((-25.0, 5.0), (15.0, 13.0), (-3.3, 9.7), (44.0, 0.0)):
        short = _Drive.of(road, s0, speed, 4.5)
        assert [short.along(t) for t in np.arange(0, 4.6, 0.05)] == [s0 + speed * t for t in np.arange(0, 4.6, 0.05)]
        for time_s in (20.0, 30.0, 100.0):
            places = np.array([_Drive.of(road, s0, speed, time_s).along(t) for t in np.arange(0, time_s + 0.1, 0.1)])
            assert places.min() >= road.start_m + END_M
            assert places.max() <= road.stop_m - END_M + 1e-9
            assert np.diff(places).min() >= 0
            assert np.diff(places).max() <= speed * 0.1 + 1e-9
        assert places[-1] == pytest.approx(road.stop_m - END_M if speed else s0)


def test_tracks_move_as_their_velocity_says(cities: list[world.CityScene]) -> None:
    moved = 0
    for city in cities:
        before, after = city.scene.frames
        assert after.timestamp_us - before.timestamp_us == 500_000
        later = {box.instance: box for box in after.boxes}
        for box in before.boxes:
            if box.instance in later:
                step = later[box.instance].global_SE3_object.translation - box.global_SE3_object.translation
                np.testing.assert_allclose(step, box.velocity_mps * 0.5, atol=0.3)
                moved += bool(np.linalg.norm(step) > 1)
    assert moved > 10


@pytest.mark.slow
def test_rigs(cities: list[world.CityScene], many: list[world.CityScene]) -> None:
    rigs = [city.scene.frames[0] for city in many]
    six = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")

    def usual(frame: Frame) -> bool:
        yaws = np.degrees([camera.yaw_rad for camera in frame.cameras])
        return frame.channels == six and np.allclose(np.abs(yaws), (55, 0, 55, 110, 180, 110), atol=0.01)

    assert 0.15 < np.mean([not usual(frame) for frame in rigs]) < 0.5
    assert {len(frame.cameras) for frame in rigs} >= {3, 6, 7}
    for city in cities:
        a, b = city.scene.frames
        for camera in a.cameras:
            delay = (camera.timestamp_us - a.timestamp_us) / 1e6
            assert abs(delay) <= 0.05
            drive = (b.global_SE3_ego.translation - a.global_SE3_ego.translation) / 0.5
            np.testing.assert_allclose(
                camera.global_SE3_ego.translation - a.global_SE3_ego.translation, drive * delay, atol=0.05
            )


def test_descriptions_say_what_is_there(many: list[world.CityScene]) -> None:
    times, weathers = set(), set()
    for city in many:
        first = city.scene.description.split(".")[0]
        assert first == f"{city.time_of_day.capitalize()}, {city.weather}"
        times.add(city.time_of_day)
        weathers.add(city.weather)
        frame = city.scene.frames[0]
        ego = frame.global_SE3_ego.translation
        near = [b for b in frame.boxes if math.dist(b.global_SE3_object.translation, ego) < 39]
        for name, word in (("bus", "bus"), ("pedestrian", "pedestrian"), ("traffic_cone", "traffic cone")):
            if any(b.detection_class == name for b in near):
                assert word in city.scene.description
    assert times == set(TIMES)
    assert weathers == set(WEATHERS)


@pytest.mark.slow
def test_edits_show(cities: list[world.CityScene]) -> None:
    city = next(
        c for c in cities if (c.render(c.scene.frames[0], "CAM_FRONT").classes == world.CLASSES.index("car")).sum() > 60
    )
    frame = city.scene.frames[0]
    view = city.render(frame, "CAM_FRONT")
    numbers, counts = np.unique(view.instances[view.classes == world.CLASSES.index("car")], return_counts=True)
    largest = int(numbers[counts.argmax()])
    box = frame.boxes[largest - 1]
    cone = city.render(frame.edit_box(box.instance, category="movable_object.trafficcone"), "CAM_FRONT")
    assert (cone.classes[cone.instances == largest] == world.CLASSES.index("traffic_cone")).all()
    without = city.render(frame.remove_box(box.instance), "CAM_FRONT")
    assert (without.rgb != view.rgb).any(axis=-1)[view.instances == largest].mean() > 0.8
    assert np.isfinite(without.depth_m).sum() <= np.isfinite(view.depth_m).sum()
    # a turned camera sees the same points elsewhere: ground straight ahead at 10 m
    turned = frame.move_camera("CAM_FRONT", yaw_rad=math.radians(20))
    old, new = frame.camera("CAM_FRONT"), turned.camera("CAM_FRONT")
    after = city.render(turned, "CAM_FRONT")
    points = points_of(old, view)[np.isfinite(view.depth_m)]
    local = new.global_SE3_camera.inverse().transform(points)
    pixels = local @ new.K_image.T
    columns, rows = np.floor(pixels[:, :2] / pixels[:, 2:]).T.astype(int)
    inside = (local[:, 2] > 0.3) & (columns >= 0) & (columns < SIZE[1]) & (rows >= 0) & (rows < SIZE[0])
    same = view.classes[np.isfinite(view.depth_m)][inside] == after.classes[rows[inside], columns[inside]]
    assert inside.sum() > 200
    assert same.mean() > 0.85
    small = city.render(frame.resized(56, 32), "CAM_FRONT")
    assert small.rgb.shape == (32, 56, 3)
    assert (small.classes == view.classes[1::2, 1::2]).mean() > 0.8

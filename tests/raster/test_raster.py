"""Rasters against the devkit, shapely and the geometry they stand for."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from scipy.ndimage import binary_dilation

from drivegen import raster, world
from drivegen.datasets import nuscenes
from drivegen.datasets.nuscenes.vectormap import map_json
from drivegen.scene import BEV_CLASSES, DETECTION_CLASSES, LINE_LAYERS, Box3D, Frame, MapLine, MapPolygon, VectorMap
from drivegen.scene.geometry import NEAR_M, SE3, project
from drivegen.support.errors import InputError
from tests.street import camera, rectangle, street_frame, street_map

PANDASET = Path(__file__).parents[3] / "shared" / "data" / "pandaset"


def devkit_masks(vector_map: VectorMap, frame: Frame, folder: Path, classes: tuple[str, ...] = BEV_CLASSES) -> np.ndarray:
    path = folder / "maps" / "expansion" / "boston-seaport.json"
    if not path.exists():
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(map_json(vector_map)))
    return open_masks(folder, frame, classes)


def open_masks(folder: Path, frame: Frame, classes: tuple[str, ...] = BEV_CLASSES) -> np.ndarray:
    from nuscenes.map_expansion.map_api import NuScenesMap

    pose = frame.global_SE3_ego @ frame.ego_SE3_lidar
    box = (*pose.translation[:2].tolist(), 100.0, 100.0)
    masks = NuScenesMap(str(folder), frame.location).get_map_mask(box, math.degrees(pose.yaw_rad), list(classes), (200, 200))
    return masks.transpose(0, 2, 1)  # [c, y, x] to [c, x, y]


def assert_same_map(ours: np.ndarray, theirs: np.ndarray) -> int:
    """Areas at IoU >= 0.98 and lines at F1 >= 0.99 within a pixel; the number of layers that were not empty."""
    compared = 0
    for name, a, b in zip(BEV_CLASSES, ours.astype(bool), theirs.astype(bool), strict=True):
        if not b.any():
            assert a.sum() <= 4, name
            continue
        compared += 1
        if name in LINE_LAYERS:
            precision = (a & binary_dilation(b, np.ones((3, 3)))).sum() / a.sum()
            recall = (b & binary_dilation(a, np.ones((3, 3)))).sum() / b.sum()
            assert 2 * precision * recall / (precision + recall) >= 0.99, name
        else:
            assert (a & b).sum() / (a | b).sum() >= 0.98, name
    return compared


@pytest.mark.parametrize("heading", [0.1, 1.3, -2.6])
def test_bev_equals_the_devkit(heading: float, tmp_path: Path) -> None:
    frame = street_frame(heading_rad=heading)
    compared = assert_same_map(raster.bev(frame), devkit_masks(street_map(), frame, tmp_path))
    assert compared == len(BEV_CLASSES)


@pytest.mark.skipif(not PANDASET.exists(), reason="PandaSet is not here")
def test_bev_equals_the_devkit_on_pandaset() -> None:
    data = nuscenes.open(PANDASET)
    for token in data.samples()[::5]:
        frame = data.frame(token)
        assert assert_same_map(raster.bev(frame), open_masks(PANDASET, frame)) >= 1


@pytest.mark.slow
def test_bev_equals_the_devkit_on_the_city(tmp_path: Path) -> None:
    drives = [world.build(seed=11, index=index).scene for index in (1, 3, 7)]
    nuscenes.write(drives, tmp_path)
    data = nuscenes.open(tmp_path)
    compared = 0
    for token in data.samples():
        frame = data.frame(token)
        compared += assert_same_map(raster.bev(frame), open_masks(tmp_path, frame))
    assert compared >= 12


def test_layout_agrees_with_the_rendered_city() -> None:
    """Ground and box pixels of the layout against what the renderer finds there, in the open (nothing stands in front)."""
    city = world.build(seed=5, index=1)
    frame = city.scene.frames[0]
    for channel in frame.channels[:3]:
        seen_there, out = city.render(frame, channel), raster.layout(frame, frame.camera(channel))
        road = np.isin(seen_there.classes, list(world.DRIVABLE))
        road &= (seen_there.depth_m < 40) & (out.box_class == 0)  # a box is fuller than the shape in it
        assert (out.map_bits[road] & 1).mean() > 0.98
        both = road & (out.map_bits & 1 > 0)
        np.testing.assert_allclose(out.depth_m[both], seen_there.depth_m[both], rtol=2e-3)  # half a pixel off would be 1.5 %
        inside = seen_there.instances > 0  # shapes lie within their boxes
        assert (out.box_class[inside] > 0).mean() > 0.98


def test_bev_draws_what_crashes_the_devkit(tmp_path: Path) -> None:
    frame = street_frame(heading_rad=0.0)
    x, y = (frame.global_SE3_ego @ frame.ego_SE3_lidar).translation[:2]
    back = np.array([[x + 40, y + 10], [x + 60, y + 10], [x + 60, y + 20], [x + 40, y + 20.0]])
    touching = rectangle(x + 50, y - 10, x + 70, y + 10)
    hard = VectorMap("boston-seaport", {"walkway": (MapPolygon(touching),)}, {"lane_divider": (MapLine(back),)})
    with pytest.raises(Exception, match=r"not iterable|int"):  # a divider that leaves and comes back
        devkit_masks(hard, frame, tmp_path, ("lane_divider",))
    masks = raster.bev(replace(frame, map=hard), ("lane_divider", "walkway"))
    assert masks[1].sum() == 0
    columns = np.flatnonzero(masks[0].any(1))  # heading along global x: global y is to the left
    assert columns.min() <= 60 <= 80 <= columns.max()
    assert not masks[0][65:75].any()  # the way round outside leaves nothing inside


def test_bev_axes_x_right_y_forward() -> None:
    frame = street_frame(heading_rad=0.7)
    pose = frame.global_SE3_ego @ frame.ego_SE3_lidar
    ahead_right = pose.transform(np.array([20.0, 30.0, 0.0]))[:2]  # lidar: x right, y forward
    spot = VectorMap("x", {"stop_line": (MapPolygon(rectangle(*(ahead_right - 2), *(ahead_right + 2))),)})
    mask = raster.bev(replace(frame, map=spot))[BEV_CLASSES.index("stop_line")]
    np.testing.assert_allclose(np.argwhere(mask).mean(0) + 0.5, (100 + 40, 100 + 60), atol=1)


def test_bev_moves_with_the_world() -> None:
    frame = street_frame()
    world = SE3.from_yaw(0.0, (128.0, -64.0, 0.0))
    shift = world.translation[:2]
    moved_map = VectorMap(
        "x",
        {
            n: tuple(MapPolygon(p.exterior + shift, tuple(h + shift for h in p.holes)) for p in g)
            for n, g in frame.map.polygons.items()
        },
        {n: tuple(MapLine(line.points + shift) for line in g) for n, g in frame.map.lines.items()},
    )
    moved = replace(frame, map=moved_map, global_SE3_ego=world @ frame.global_SE3_ego)
    assert (raster.bev(moved) != raster.bev(frame)).mean() < 1e-4


def test_bev_of_every_layer_sizes_and_names() -> None:
    frame = street_frame()
    assert raster.bev(frame, ("lane", "lane_connector", "traffic_light"), (50, 80), (100.0, 160.0)).shape == (3, 50, 80)
    assert raster.bev(frame, ("lane",)).any()
    assert not raster.bev(replace(frame, map=None)).any()
    with pytest.raises(InputError, match="did you mean 'walkway'"):
        raster.bev(frame, ("walkways",))


def test_bev_is_quick() -> None:
    frame = street_frame()
    raster.bev(frame)
    start = time.perf_counter()
    for _ in range(10):
        raster.bev(frame)
    assert (time.perf_counter() - start) / 10 < 0.05  # 2 ms where nothing else runs


def one_box(category: str = "vehicle.car", center=(8.0, 1.0, 0.8), yaw: float = 0.4, size=(1.9, 4.5, 1.6)) -> Box3D:
    return Box3D(category, SE3.from_yaw(yaw, center), size, "one")


def seen(box: Box3D, yaw_deg: float = 0.0, **changes):
    view = camera("CAM", yaw_deg, size=(224, 128), **changes)
    return view, raster.layout(Frame("f", (view,), (box,)), view)


@pytest.mark.parametrize(
    "box",
    [one_box(), one_box(yaw=2.0), one_box(center=(30, -6, 0.8)), one_box(center=(2.5, 2.2, 1.6), size=(2.5, 9, 3.2), yaw=0.1)],
    ids=["near", "across", "far", "straddling"],
)
def test_layout_box_is_the_projected_box(box: Box3D) -> None:
    view, out = seen(box)
    # the outline: pixel centres inside of the union of the projected faces
    faces = raster.box_faces(view, box)
    outline = shapely.union_all([shapely.make_valid(shapely.Polygon(face.pixels)) for face in faces])
    rows, columns = np.mgrid[:128, :224]
    inside = shapely.contains_xy(outline, columns + 0.5, rows + 0.5)
    hit = out.box_class > 0
    assert hit.sum() > 20
    assert (hit != inside).sum() <= 2
    # depth and side: the point of the ray at that depth lies on that face of the box
    y, x = np.nonzero(hit)
    rays = np.c_[x + 0.5, y + 0.5, np.ones(len(x))] @ np.linalg.inv(view.K_image).T
    points = view.global_SE3_camera.transform(rays * out.depth_m[hit].astype(float)[:, None])
    own = box.global_SE3_object.inverse().transform(points)
    w, l, h = box.size_wlh_m / 2
    distance = {1: own[:, 0] - l, 2: -l - own[:, 0], 3: own[:, 1] - w, 4: -w - own[:, 1], 5: own[:, 2] - h}
    sides = out.side[hit]
    assert set(sides.tolist()) == {1 + ["front", "rear", "left", "right", "top"].index(face.side) for face in faces} & set(
        sides.tolist()
    )
    off = np.array([distance[s][i] for i, s in enumerate(sides.tolist())])
    assert np.abs(off).max() < 2e-3 * out.depth_m[hit].max()  # float16
    assert out.depth_m[hit].min() >= NEAR_M
    # heading against the viewing ray
    world_rays = rays @ view.global_SE3_camera.rotation.T
    relative = box.global_SE3_object.yaw_rad - np.arctan2(world_rays[:, 1], world_rays[:, 0])
    np.testing.assert_allclose(out.heading[0][hit], np.sin(relative), atol=2e-3)
    np.testing.assert_allclose(out.heading[1][hit], np.cos(relative), atol=2e-3)


def test_classes_are_those_of_the_benchmark() -> None:
    for category, number in (
        ("vehicle.car", 1),
        ("movable_object.trafficcone", len(DETECTION_CLASSES)),
        ("animal", raster.OTHER_CLASS),
    ):
        assert set(np.unique(seen(one_box(category))[1].box_class).tolist()) == {0, number}


def test_nothing_is_seen_behind_or_from_inside() -> None:
    for box in (one_box(center=(-8, 0, 0.8)), one_box(center=(1, 0, 1.6), size=(2, 4, 3))):
        assert not seen(box)[1].box_class.any()
    view = camera("CAM", 0)
    assert raster.box_edges(view, one_box(center=(-8, 0, 0.8))).shape == (0, 2, 2)
    assert raster.box_faces(view, one_box(center=(-8, 0, 0.8))) == ()


def test_edges_in_front_equal_the_devkit_and_straddling_ones_are_cut() -> None:
    from nuscenes.utils.geometry_utils import view_points

    view, box = camera("CAM", 0), one_box()
    corners = view.global_SE3_camera.inverse().transform(box.corners())
    reference = view_points(corners.T, view.K_image, True)[:2].T
    edges = raster.box_edges(view, box)
    assert edges.shape == (12, 2, 2)
    assert np.abs(edges.reshape(-1, 1, 2) - reference[None]).max(-1).min(1).max() < 1e-9
    beside = one_box(center=(1.5, 2.0, 0.8), yaw=0.0)
    depths = view.global_SE3_camera.inverse().transform(beside.corners())[:, 2]
    assert depths.min() < 0 < depths.max()
    cut = raster.box_edges(view, beside)
    assert len(cut) == 8
    assert (cut[..., 0] < view.width_px / 2).all()  # on the left, where the box is: nothing is mirrored


@pytest.mark.parametrize("seed", range(3))
def test_nearest_box_is_in_front_whatever_the_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = tuple(
        one_box(center=(*rng.uniform((3, -10), (40, 10)), 0.8), yaw=rng.uniform(-3, 3), category=category)
        for category in ("vehicle.car", "vehicle.truck", "vehicle.trailer", "animal") * 4
    )
    view = camera("CAM", 0, size=(112, 64))
    whole = raster.layout(Frame("f", (view,), boxes), view)
    mixed = raster.layout(Frame("f", (view,), tuple(rng.permutation(np.array(boxes, dtype=object)))), view)
    singles = [raster.layout(Frame("f", (view,), (box,)), view) for box in boxes]
    depths = np.stack([np.where(s.box_class > 0, s.depth_m.astype(float), np.inf) for s in singles])
    nearest, any_hit = depths.argmin(0), np.isfinite(depths).any(0)
    for name in ("box_class", "side", "depth_m", "heading", "map_bits"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(mixed, name))
    expected = np.take_along_axis(np.stack([s.box_class for s in singles]), nearest[None], 0)[0]
    same = (whole.box_class == np.where(any_hit, expected, 0)).mean()
    assert same > 0.999  # float16 depths may tie


@pytest.mark.slow
def test_ground_equals_the_map_under_each_pixel() -> None:
    frame = replace(street_frame(heading_rad=0.3), boxes=())
    for view in (c.resized(224, 128) for c in frame.cameras):
        out = raster.layout(frame, view)
        y, x = np.nonzero(out.depth_m > 0)
        rays = np.c_[x + 0.5, y + 0.5, np.ones(len(x))] @ np.linalg.inv(view.K_image).T @ view.global_SE3_camera.rotation.T
        origin = view.global_SE3_camera.translation
        points = (origin + rays * (-origin[2] / rays[:, 2])[:, None])[:, :2]
        np.testing.assert_allclose(out.depth_m[y, x], -origin[2] / rays[:, 2], rtol=1e-3)
        near = np.abs(points - frame.global_SE3_ego.translation[:2]).max(1) < 60
        for bit, name in enumerate(BEV_CLASSES):
            found = (out.map_bits[y, x] >> bit & 1).astype(bool)
            if name in LINE_LAYERS:
                lines = shapely.union_all([shapely.LineString(line.points) for line in frame.map.lines[name]])
                distance = shapely.distance(lines, shapely.points(points))
                close = np.linalg.norm(points - origin[:2], axis=1) < 12
                assert (distance[found & close] < 0.6).all()
                assert found[close & (distance < 0.08)].all()
            else:
                areas = [shapely.Polygon(p.exterior, p.holes) for p in frame.map.polygons[name]]
                shape = shapely.union_all(areas)
                inside = shapely.contains_xy(shape, points)
                clear = shapely.distance(shape.boundary, shapely.points(points)) > 0.2  # more than a cell from the border
                assert (found == inside)[near & clear].all(), name


def test_sky_is_empty_and_boxes_hide_the_map() -> None:
    frame = street_frame().resized(224, 128)
    view = frame.camera("CAM_FRONT")
    out, bare = raster.layout(frame, view), raster.layout(replace(frame, boxes=()), view)
    assert not out.map_bits[:40].any()
    assert not bare.depth_m[:40].any()
    hit = out.box_class > 0
    assert hit.any()
    assert not out.map_bits[hit].any()
    np.testing.assert_array_equal(out.map_bits[~hit], bare.map_bits[~hit])
    assert not raster.layout(replace(frame, map=None), view).map_bits.any()


def test_each_view_uses_its_own_ego_pose() -> None:
    frame = street_frame().resized(224, 128)
    view = frame.camera("CAM_BACK_LEFT")
    early = replace(view, global_SE3_ego=frame.global_SE3_ego)
    box = one_box(center=(296, 301, 0.8))
    late_layout, early_layout = (raster.layout(replace(frame, boxes=(box,)), v) for v in (view, early))
    assert (late_layout.box_class != early_layout.box_class).any()
    edge = raster.box_edges(view, box).reshape(-1, 2)
    np.testing.assert_allclose(
        edge[:1],
        project(view.K_image, (view.ego_SE3_camera.inverse() @ view.global_SE3_ego.inverse()).transform(box.corners()[:1]))[0],
    )


def test_size_scales_the_view_and_arrays_are_compact() -> None:
    frame = street_frame().resized(224, 128)
    view = frame.camera("CAM_FRONT")
    small = raster.layout(frame, view, (16, 28))
    assert small.box_class.shape == (16, 28)
    direct = raster.layout(frame, replace(view, resize=None).resized(28, 16))
    np.testing.assert_array_equal(small.box_class, direct.box_class)
    types = {name: getattr(small, name).dtype.name for name in ("map_bits", "box_class", "heading", "side", "depth_m")}
    assert types == {"map_bits": "uint8", "box_class": "uint8", "heading": "float16", "side": "uint8", "depth_m": "float16"}
    with pytest.raises(InputError, match="positive"):
        raster.layout(frame, view, (0, 10))


def test_ten_thousand_boxes_are_capped_with_a_warning() -> None:
    rng = np.random.default_rng(0)
    boxes = tuple(one_box(center=(x, y, 0.8)) for x, y in rng.uniform((5, -40), (150, 40), size=(10_000, 2)))
    view = camera("CAM", 0, size=(224, 128))
    start = time.perf_counter()
    with pytest.warns(UserWarning, match=f"nearest {raster.MAX_BOXES}"):
        out = raster.layout(Frame("f", (view,), boxes), view)
    assert time.perf_counter() - start < 10
    assert out.box_class.any()
    closest = min(boxes, key=lambda b: np.linalg.norm(b.global_SE3_object.translation - view.global_SE3_camera.translation))
    assert raster.layout(Frame("f", (view,), (closest,)), view).box_class.any() <= out.box_class.any()


def test_layout_is_the_same_every_time_and_quick() -> None:
    frame = street_frame().resized(224, 128)
    first = raster.layout(frame, frame.cameras[1])
    start = time.perf_counter()
    again = [raster.layout(frame, view) for view in frame.cameras][1]
    assert (time.perf_counter() - start) / 6 < 0.1  # 8 ms where nothing else runs
    for name in ("map_bits", "box_class", "heading", "side", "depth_m"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_what_reaches_far_away_is_drawn_where_it_is_near() -> None:
    far = 9e8
    line = MapLine(np.array([[300.0, 298], [300.0, 298 + far]]), "l")
    area = MapPolygon(np.array([[300.0, 290], [far, 290], [far, far], [300.0, far]]), token="a")
    reaching = VectorMap("here", {"walkway": (area,)}, {"road_divider": (line,)})
    line_cut, area_cut = MapLine(np.array([[300.0, 298], [300.0, 900]])), MapPolygon(rectangle(300, 290, 900, 900))
    cut = VectorMap("here", {"walkway": (area_cut,)}, {"road_divider": (line_cut,)})
    lost = Box3D("car", SE3.from_yaw(0.3, (far, -far, 0)), (2, 4, 1.5), "lost")
    one, other = (street_frame(vector_map=place).add_box(lost) for place in (reaching, cut))
    np.testing.assert_array_equal(raster.bev(one), raster.bev(other))
    for view in one.cameras:
        for name, kind in raster.PICTURES.items():
            np.testing.assert_array_equal(kind.draw(one, view), kind.draw(other, view), err_msg=name)


def test_coordinates_beyond_the_earth_are_refused() -> None:
    for value in (1e10, 1e300):
        with pytest.raises(InputError, match="m away; use metres"):
            MapPolygon(np.array([[0, 0], [value, 0], [0, 1]]))
        with pytest.raises(InputError, match="m away; use metres"):
            MapLine(np.array([[0, 0], [0, -value]]))
        with pytest.raises(InputError, match="m away; coordinates go to"):
            SE3.from_yaw(0, (value, 0, 0))
        with pytest.raises(InputError, match="longer than"):
            Box3D("car", SE3.identity(), (1, value, 1))
        with pytest.raises(InputError, match="out of range"):
            replace(street_frame().cameras[0], K_native=np.diag([value, value, 1]))

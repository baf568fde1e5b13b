"""Writing and reading datasets, against nuscenes-devkit; and everything that may be wrong with one."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drivegen.datasets import nuscenes
from drivegen.scene import Box3D, Frame, MapPolygon, Scene, VectorMap, pictures
from drivegen.scene.geometry import SE3
from drivegen.support.errors import InputError
from tests.street import camera, rectangle, street_frame, street_map, street_scene

PANDASET = Path(__file__).parents[3] / "shared" / "data" / "pandaset"
needs_pandaset = pytest.mark.skipif(not PANDASET.exists(), reason="PandaSet is not here")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives with lidar; in a folder with a space and letters beyond ASCII."""
    folder = tmp_path_factory.mktemp("Straße 道路")
    lidar = np.random.default_rng(0).uniform((-40, -40, -2, 0, 0), (40, 40, 1, 255, 32), size=(40_000, 5)).astype(np.float32)
    source = folder / "points.pcd.bin"
    lidar.tofile(source)
    scenes = [street_scene(3, "street"), street_scene(2, "again")]
    scenes = [replace(s, frames=tuple(replace(f, lidar_path=source) for f in s.frames)) for s in scenes]
    # the two drives have the same boxes by name: they are other objects, and are told apart
    nuscenes.write(scenes, folder / "data set")
    return folder / "data set"


def assert_same_frame(a: Frame, b: Frame, boxes_by_name: bool = True) -> None:
    assert (a.token, a.channels, a.description, a.location, a.scene_name) == (
        b.token,
        b.channels,
        b.description,
        b.location,
        b.scene_name,
    )
    assert a.timestamp_us == b.timestamp_us
    np.testing.assert_allclose(a.global_SE3_ego.matrix, b.global_SE3_ego.matrix, atol=1e-12)
    np.testing.assert_allclose(a.ego_SE3_lidar.matrix, b.ego_SE3_lidar.matrix, atol=1e-12)
    for x, y in zip(a.cameras, b.cameras, strict=True):
        assert (x.channel, x.width_px, x.height_px, x.timestamp_us) == (y.channel, y.width_px, y.height_px, y.timestamp_us)
        np.testing.assert_array_equal(x.K_native, y.K_native)
        np.testing.assert_allclose(x.global_SE3_ego.matrix, y.global_SE3_ego.matrix, atol=1e-12)
        np.testing.assert_allclose(x.ego_SE3_camera.matrix, y.ego_SE3_camera.matrix, atol=1e-12)
    for p, q in zip(a.boxes, b.boxes, strict=True):
        assert (p.category, p.visibility, p.attribute) == (q.category, q.visibility, q.attribute)
        assert not boxes_by_name or (p.instance, p.token) == (q.instance, q.token)
        np.testing.assert_array_equal(p.size_wlh_m, q.size_wlh_m)
        np.testing.assert_allclose(p.corners(), q.corners(), atol=1e-9)
    for one, other in ((a.map, b.map), (b.map, a.map)):
        assert one is not None
        assert other is not None
        for layer, group in one.polygons.items():
            for p, q in zip(group, other.polygons.get(layer, ()), strict=True):
                assert p.token == q.token
                for u, v in zip((p.exterior, *p.holes), (q.exterior, *q.holes), strict=True):
                    np.testing.assert_array_equal(u, v)
        for layer, lines in one.lines.items():
            for s, t in zip(lines, other.lines.get(layer, ()), strict=True):
                assert s.token == t.token
                np.testing.assert_array_equal(s.points, t.points)


def test_round_trip(root: Path) -> None:
    data = nuscenes.open(root)
    assert data.scenes == ("street", "again")
    for name, count in (("street", 3), ("again", 2)):
        written, read = street_scene(count, name), data.scene(name)
        assert (read.name, read.description, read.location, read.token) == (
            name,
            written.description,
            written.location,
            f"{name}-token",
        )
        for a, b in zip(written.frames, read.frames, strict=True):
            assert_same_frame(a, b, boxes_by_name=name == "street")
    assert data.samples("again") == ("again-0", "again-1")
    assert data.samples() == ("street-0", "street-1", "street-2", "again-0", "again-1")
    assert data.frame("street-0").map is data.frame("again-1").map  # read once
    assert not [problem for problem in nuscenes.validate(root) if problem.severity == "error"]


def test_writing_again_gives_the_same_tables_and_files(root: Path, tmp_path: Path) -> None:
    data = nuscenes.open(root)
    scenes = [data.scene(name) for name in data.scenes]
    for copy in ("a", "b"):
        nuscenes.write(scenes, tmp_path / copy)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) > 13 + 5 * 7
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path
    for name in data.scenes:
        for a, b in zip(data.scene(name).frames, nuscenes.open(tmp_path / "a").scene(name).frames, strict=True):
            assert_same_frame(a, b)
            assert [box.num_lidar_pts for box in a.boxes] == [box.num_lidar_pts for box in b.boxes]
    # pictures that are below the root already are named, not copied
    before = sorted(root.rglob("*.png"))
    nuscenes.write(scenes, root, "v1.0-again")
    assert sorted(root.rglob("*.png")) == before
    assert nuscenes.open(root, "v1.0-again").samples() == data.samples()
    with pytest.raises(InputError, match=r"several versions \(v1.0-again, v1.0-mini\)"):
        nuscenes.open(root)
    for path in (root / "v1.0-again").iterdir():
        path.unlink()
    (root / "v1.0-again").rmdir()


def test_devkit_sees_the_same_boxes_counts_and_velocities(root: Path) -> None:
    from nuscenes.nuscenes import NuScenes
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import BoxVisibility, points_in_box

    devkit, data = NuScenes("v1.0-mini", str(root), verbose=False), nuscenes.open(root)
    counted = 0
    for token in data.samples():
        frame, sample = data.frame(token), devkit.get("sample", token)
        for view in frame.cameras:
            path, boxes, K = devkit.get_sample_data(sample["data"][view.channel], BoxVisibility.NONE)
            assert Path(path) == view.image_path
            np.testing.assert_array_equal(K, view.K_native)
            camera_SE3_global = view.global_SE3_camera.inverse()
            for theirs, ours in zip(boxes, frame.boxes, strict=True):
                np.testing.assert_allclose(theirs.corners().T, camera_SE3_global.transform(ours.corners()), atol=1e-9)
        path, boxes, _ = devkit.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3]
        for theirs, ours in zip(boxes, frame.boxes, strict=True):
            assert points_in_box(theirs, points).sum() == ours.num_lidar_pts
            np.testing.assert_array_equal(devkit.box_velocity(ours.token), ours.velocity_mps)
            counted += ours.num_lidar_pts or 0
    assert counted > 50
    np.testing.assert_allclose(data.frame("street-1").boxes[0].velocity_mps, (2, 0, 0), atol=1e-9)


@pytest.mark.slow
def test_devkit_renders_it(root: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from nuscenes.map_expansion.map_api import NuScenesMap
    from nuscenes.nuscenes import NuScenes

    devkit = NuScenes("v1.0-mini", str(root), verbose=False)
    sample = devkit.get("sample", "street-1")
    devkit.render_sample_data(sample["data"]["CAM_FRONT"], verbose=False)
    devkit.render_annotation(sample["anns"][0])
    devkit.render_egoposes_on_map("boston-seaport")
    street = NuScenesMap(str(root), "boston-seaport")
    # the devkit's own map pictures need descartes, which does not work with Shapely 2 on any map; its queries do
    found = street.get_records_in_patch((250, 270, 350, 340), None)
    assert {name: len(tokens) for name, tokens in found.items() if tokens} == {
        "drivable_area": 3, "road_block": 1, "lane": 1, "ped_crossing": 1, "walkway": 2, "stop_line": 1, "carpark_area": 1,
        "road_divider": 1, "lane_divider": 2,
    }  # fmt: skip
    assert street.layers_on_point(300, 298)["drivable_area"]
    mask = devkit.map[0]["mask"]
    assert mask.is_on_mask(np.array([300.0, 300.0]), np.array([298.0, 400.0])).tolist() == [True, False]
    plt.close("all")


@needs_pandaset
def test_pandaset_round_trip_and_equality_with_the_devkit(tmp_path: Path) -> None:
    from nuscenes.utils.geometry_utils import BoxVisibility

    data = nuscenes.open(PANDASET)
    drive = data.scene(data.scenes[0])
    short = replace(drive, frames=drive.frames[:2])
    nuscenes.write([short], tmp_path / "copy")
    for a, b in zip(short.frames, nuscenes.open(tmp_path / "copy").scene(drive.name).frames, strict=True):
        assert_same_frame(a, b)
        assert [box.num_lidar_pts for box in a.boxes] == [box.num_lidar_pts for box in b.boxes]
        for x, y in zip(a.cameras, b.cameras, strict=True):
            assert x.image_path is not None
            assert y.image_path is not None
            assert x.image_path.read_bytes() == y.image_path.read_bytes()
    frame = drive.frames[9]
    poses = {view.global_SE3_ego.translation.tobytes() for view in frame.cameras}
    assert len(poses) == 6  # each camera has a moment of its own
    for view in frame.cameras:
        token = data.devkit.get("sample", frame.token)["data"][view.channel]
        _, boxes, _ = data.devkit.get_sample_data(token, BoxVisibility.NONE)
        ours = view.global_SE3_camera.inverse().transform(np.stack([box.corners() for box in frame.boxes]))
        np.testing.assert_allclose(np.stack([box.corners().T for box in boxes]), ours, atol=1e-9)


# Scenes built in Python


def simple(token: str = "f0", **changes: Any) -> Frame:
    return Frame(token, (camera("CAM_FRONT", 0, size=(32, 24)),), location="here", description="words", **changes)


def test_a_rig_of_ones_own_with_an_edited_frame(tmp_path: Path) -> None:
    frame = simple(boxes=(Box3D("car", SE3.identity(), (2, 4, 1.5)), Box3D("dragon", SE3.identity(), (2, 4, 1.5))))
    frame = replace(frame, cameras=(*frame.cameras, camera("side-2", 100, size=(50, 20))))
    nuscenes.write([Scene("mine", (frame, replace(frame, token="f1", timestamp_us=10, description="other words")))], tmp_path)
    data = nuscenes.open(tmp_path)
    read = data.scene("mine").frames
    assert [f.description for f in read] == ["words", "other words"]
    assert [box.category for box in read[0].boxes] == ["vehicle.car", "dragon"]
    assert [box.detection_class for box in read[0].boxes] == ["car", None]
    assert read[0].map is None
    assert set(read[1].channels) == {"CAM_FRONT", "side-2"}
    picture = pictures.load_image(read[0].camera("side-2"))
    assert picture.size == (50, 20)
    assert picture.getcolors() == [(1000, (128, 128, 128))]
    warnings = [str(problem) for problem in nuscenes.validate(tmp_path)]
    assert len(warnings) == 3
    assert "dragon" in warnings[0]
    assert "'here' has no map" in warnings[1]
    assert "10 microseconds after the one before" in warnings[2]


def with_map(frame: Frame, size: float) -> Frame:
    return replace(frame, map=VectorMap("here", {"walkway": (MapPolygon(rectangle(0, 0, size, 5), token="w"),)}))


REFUSED_SCENES = {
    "no scenes": (list, "no scenes"),
    "no frames": (lambda: [Scene("a", ())], "no frames"),
    "scene name twice": (lambda: [Scene("a", (simple("f0"),)), Scene("a", (simple("f1"),))], "'a' is empty or taken"),
    "sample token twice": (lambda: [Scene("a", (simple(),)), Scene("b", (simple(),))], "'f0' is used twice"),
    "time stands still": (lambda: [Scene("a", (simple(), simple("f1")))], "must increase"),
    "maps that differ": (
        lambda: [Scene("a", (with_map(simple(), 5),)), Scene("b", (with_map(simple("f1"), 6),))], "two different walkway",
    ),
    "unknown layer": (lambda: [Scene("a", (simple(map=VectorMap("here", {"moat": ()})),))], "'moat' is not a layer"),
    "no place": (lambda: [Scene("a", (replace(simple(map=street_map("")), location=""),))], "cannot name a map"),
    "missing picture": (
        lambda: [Scene("a", (simple().edit_camera("CAM_FRONT", image_path=Path("nowhere.png")),))], r"nowhere\.png is missing",
    ),
    "odd channel": (lambda: [Scene("a", (replace(simple(), cameras=(camera("../x", 0),)),))], "cannot name a folder"),
    "box twice": (
        lambda: [Scene("a", (simple(boxes=(Box3D("car", SE3.identity(), (1, 1, 1), "k"),) * 2),))], "two boxes of instance 'k'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_SCENES)
def test_scenes_that_cannot_be_written_leave_no_dataset(name: str, tmp_path: Path) -> None:
    make, message = REFUSED_SCENES[name]
    with pytest.raises(InputError, match=message):
        nuscenes.write(make(), tmp_path)
    assert not list(tmp_path.glob("v1.0-*"))
    assert not list(tmp_path.glob(".*"))


def test_an_existing_dataset_is_left_alone(tmp_path: Path) -> None:
    nuscenes.write([Scene("a", (with_map(simple(), 5),))], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="exists already"):
        nuscenes.write([Scene("b", (simple("f1"),))], tmp_path)
    with pytest.raises(InputError, match="exists already and differs"):
        nuscenes.write([Scene("b", (with_map(simple("f1"), 6),))], tmp_path, "v1.0-b")
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(InputError, match=r"v1\.0-<name>"):
        nuscenes.write([Scene("b", (simple("f1"),))], tmp_path, "mini")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        nuscenes.write([Scene("b", (simple("f1"),))], tmp_path / "file")


def test_scenes_and_datasets_in_one_root_keep_their_own_files(tmp_path: Path) -> None:
    shades = {}
    for i, (name, version) in enumerate((("a b", "v1.0-mini"), ("a_b", "v1.0-mini"), ("a b", "v1.0-b"))):
        Image.new("RGB", (32, 24), (60 * i, 0, 0)).save(tmp_path / "source.png")
        (tmp_path / "source.bin").write_bytes(bytes(20 * i))
        os.rename(tmp_path / "source.png", tmp_path / f"source{i}.png")
        os.rename(tmp_path / "source.bin", tmp_path / f"source{i}.bin")
        frame = simple(f"f{i}", lidar_path=tmp_path / f"source{i}.bin")
        shades[version, f"f{i}"] = Scene(name, (frame.edit_camera("CAM_FRONT", image_path=tmp_path / f"source{i}.png"),))
    root = tmp_path / "root"
    for version in ("v1.0-mini", "v1.0-b"):
        nuscenes.write([scene for (of, _), scene in shades.items() if of == version], root, version)
    for (version, token), scene in shades.items():
        frame, source = nuscenes.open(root, version).frame(token), scene.frames[0]
        assert frame.lidar_path is not None
        assert source.lidar_path is not None
        assert frame.lidar_path.read_bytes() == source.lidar_path.read_bytes()
        assert pictures.load_image(frame.cameras[0]).tobytes() == pictures.load_image(source.cameras[0]).tobytes()
    mask = root / nuscenes.open(root, "v1.0-mini").devkit.map[0]["filename"]
    before = mask.read_bytes()
    nuscenes.write([Scene("mapped", (with_map(simple("f3"), 5),))], root, "v1.0-mapped")  # a map where there was none
    assert mask.read_bytes() == before
    damaged = nuscenes.open(root, "v1.0-b").frame("f2").cameras[0].image_path
    assert damaged is not None
    damaged.write_bytes(b"other")
    with pytest.raises(InputError, match="is not what its name says"):
        nuscenes.write([shades["v1.0-b", "f2"]], root, "v1.0-c")


@pytest.mark.parametrize("location", ["../../../outside/m", "../up", "/tmp/m", "..", "a/b", "a\\b", "m\0", "\ud800", "x" * 300])
def test_locations_that_lead_out_are_refused(location: str, broken: Path) -> None:
    (broken.parent / "outside").mkdir(exist_ok=True)
    shutil.copy(broken / "maps" / "expansion" / "boston-seaport.json", broken.parent / "outside" / "m.json")
    before = set(broken.rglob("*"))
    with pytest.raises(InputError, match=r"location|file name"):
        nuscenes.write([Scene("a", (simple(),), location=location)], broken / "other" / "root")
    assert set(broken.rglob("*")) == before
    edit(broken, "log", lambda row: row.update(location=location))
    with pytest.raises(InputError, match=r"location|file name"):
        nuscenes.open(broken).frame("street-0")
    assert [problem.severity for problem in nuscenes.validate(broken)] == ["error"]


def test_maps_of_one_place_are_joined_by_token(tmp_path: Path) -> None:
    frames = []
    for i, tokens in enumerate((("a", "b"), ("b", "c"))):
        areas = tuple(MapPolygon(rectangle(ord(t), 0, ord(t) + 1, 1), token=t) for t in tokens)
        frames.append(simple(f"f{i}", map=VectorMap("here", {"walkway": areas})))
    nuscenes.write([Scene(f"s{i}", (frame,)) for i, frame in enumerate(frames)], tmp_path)
    joined = nuscenes.open(tmp_path).frame("f0").map
    assert joined is not None
    assert [area.token for area in joined.polygons["walkway"]] == ["a", "b", "c"]


def test_import_is_light() -> None:
    heavy = ("nuscenes", "torch", "matplotlib")
    code = f"import sys, drivegen.datasets.nuscenes, drivegen.raster; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# Faults


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    frame = street_frame(0)
    frame = replace(frame, cameras=tuple(replace(view, width_px=32, height_px=18) for view in frame.cameras))
    nuscenes.write([Scene("street", (frame,), location="boston-seaport", token="street-token")], folder)
    return folder


@pytest.fixture
def broken(small: Path, tmp_path: Path) -> Path:
    """A small dataset of one's own, to break."""
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    return tmp_path


def edit(root: Path, table: str, change: Callable[[dict[str, Any]], Any], index: int = 0) -> str:
    path = root / "v1.0-mini" / f"{table}.json"
    rows = json.loads(path.read_text())
    change(rows[index])
    path.write_text(json.dumps(rows))
    return rows[index]["token"]


def picture(root: Path) -> tuple[str, Path]:
    rows = json.loads((root / "v1.0-mini" / "sample_data.json").read_text())
    return rows[0]["token"], root / rows[0]["filename"]


BAD_ROWS: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "absolute file": ("sample_data", lambda row: row.update(filename="/etc/passwd"), "stay inside"),
    "file above": ("sample_data", lambda row: row.update(filename="samples/../../x.png"), "stay inside"),
    "missing image": ("sample_data", lambda row: row.update(filename="samples/CAM_FRONT/none.png"), "none.png is missing"),
    "wrong size": ("sample_data", lambda row: row.update(width=33), "32x18 pixels and its row says 33x18"),
    "NaN intrinsics": ("calibrated_sensor", lambda row: row["camera_intrinsic"][0].__setitem__(0, float("nan")), "not finite"),
    "singular intrinsics": ("calibrated_sensor", lambda row: row["camera_intrinsic"][1].__setitem__(1, 0.0), "not a pinhole"),
    "intrinsics missing": ("calibrated_sensor", lambda row: row.update(camera_intrinsic=[]), "expected"),
    "camera quaternion": ("calibrated_sensor", lambda row: row.update(rotation=[0, 0, 0, 0]), "unit length"),
    "ego quaternion": ("ego_pose", lambda row: row.update(rotation=[1.01, 0, 0, 0]), "unit length"),
    "ego position": ("ego_pose", lambda row: row.update(translation=[0, float("inf"), 0]), "not finite"),
    "NaN box": ("sample_annotation", lambda row: row.update(translation=[float("nan"), 0, 0]), "not finite"),
    "infinite box": ("sample_annotation", lambda row: row.update(size=[1, float("inf"), 1]), "not finite"),
    "flat box": ("sample_annotation", lambda row: row.update(size=[1, 0, 1]), "must be positive"),
    "negative box": ("sample_annotation", lambda row: row.update(size=[1, -2, 1]), "must be positive"),
    "zero quaternion": ("sample_annotation", lambda row: row.update(rotation=[0, 0, 0, 0]), "unit length"),
    "off-unit quaternion": ("sample_annotation", lambda row: row.update(rotation=[0.998, 0, 0, 0]), "unit length"),
    "short quaternion": ("sample_annotation", lambda row: row.update(rotation=[1, 0, 0]), "unit length"),
    "no modality": ("sensor", lambda row: row.pop("modality"), "has no modality"),
    "sample without time": ("sample", lambda row: row.pop("timestamp"), "has no timestamp"),
    "picture without time": ("sample_data", lambda row: row.pop("timestamp"), "has no timestamp"),
    "nanoseconds": ("sample", lambda row: row.update(timestamp=row["timestamp"] * 1000), "microseconds"),
    "no description": ("scene", lambda row: row.update(description=7), "description is 7, not a text"),
    "no count of points": (
        "sample_annotation",
        lambda row: row.update(num_lidar_pts="3"),
        "num_lidar_pts is '3', not a number",
    ),
    "chain in a loop": ("sample", lambda row: row.update(next=row["token"]), "comes back to it"),
    "no size": ("sample_annotation", lambda row: row.pop("size"), "size"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_refused_on_access_and_listed(name: str, broken: Path) -> None:
    table, change, message = BAD_ROWS[name]
    token = edit(broken, table, change)
    with pytest.raises(InputError, match=message) as caught:
        nuscenes.open(broken).scene("street")
    assert token in str(caught.value)
    found = [problem for problem in nuscenes.validate(broken) if problem.severity == "error"]
    row = ("scene", "street-token") if name == "chain in a loop" else (table, token)
    assert [(problem.table, problem.token) for problem in found] == [row]
    assert message in found[0].message


BAD_LINKS = {
    "sample_data": ("calibrated_sensor_token", "ego_pose_token", "sample_token"),
    "calibrated_sensor": ("sensor_token",),
    "sample_annotation": ("instance_token", "sample_token", "visibility_token"),
    "instance": ("category_token",),
    "scene": ("log_token", "first_sample_token"),
    "sample": ("scene_token",),
}


@pytest.mark.parametrize(("table", "link"), [(table, link) for table, links in BAD_LINKS.items() for link in links])
def test_broken_links_are_named(table: str, link: str, broken: Path) -> None:
    token = edit(broken, table, lambda row: row.update({link: "nothing"}))
    with pytest.raises(InputError, match="nothing"):
        nuscenes.open(broken).scene("street")
    problems = [problem for problem in nuscenes.validate(broken) if problem.severity == "error"]
    assert (table, token) in {(problem.table, problem.token) for problem in problems}
    assert any(link in problem.message and "nothing" in problem.message for problem in problems)


def test_all_problems_are_listed_at_once(broken: Path) -> None:
    expected = set()
    for i, name in enumerate(("flat box", "zero quaternion", "NaN box")):
        table, change, _ = BAD_ROWS[name]
        expected.add((table, edit(broken, table, change, i)))
    expected.add(("sample_data", edit(broken, "sample_data", BAD_ROWS["missing image"][1], 2)))
    expected.add(("calibrated_sensor", edit(broken, "calibrated_sensor", BAD_ROWS["camera quaternion"][1], 3)))
    assert {(problem.table, problem.token) for problem in nuscenes.validate(broken)} == expected


def test_too_many_cameras_are_named(broken: Path) -> None:
    tables = {name: broken / "v1.0-mini" / f"{name}.json" for name in ("sensor", "calibrated_sensor", "sample_data")}
    rows = {name: json.loads(path.read_text()) for name, path in tables.items()}
    shot = rows["sample_data"][0]
    mount = next(row for row in rows["calibrated_sensor"] if row["token"] == shot["calibrated_sensor_token"])
    for i in range(4):
        rows["sensor"].append({"token": f"s{i}", "channel": f"EXTRA_{i}", "modality": "camera"})
        rows["calibrated_sensor"].append(mount | {"token": f"c{i}", "sensor_token": f"s{i}"})
        rows["sample_data"].append(shot | {"token": f"d{i}", "calibrated_sensor_token": f"c{i}"})
    for name, path in tables.items():
        path.write_text(json.dumps(rows[name]))
    with pytest.raises(InputError, match=r"10 cameras; 1 to 8 are supported.*CAM_FRONT.*EXTRA_3"):
        nuscenes.open(broken).frame("street-0")
    found = nuscenes.validate(broken)
    assert [(problem.table, problem.token) for problem in found] == [("sample", "street-0")]
    assert "10 cameras" in found[0].message


def test_two_pictures_of_one_camera_are_named(broken: Path) -> None:
    path = broken / "v1.0-mini" / "sample_data.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, rows[0] | {"token": "twin"}]))
    found = nuscenes.validate(broken)
    assert [(problem.token, problem.severity) for problem in found] == [(rows[0]["token"], "warning")]
    assert "has another key frame of CAM_FRONT_LEFT, row twin; this one is not read" in found[0].message


@pytest.mark.parametrize("linked", ["samples", "samples/CAM_FRONT", "maps", "maps/expansion", "v1.0-mini", "files", "all"])
def test_links_that_the_user_made_are_followed(linked: str, broken: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = nuscenes.open(broken)
    before, prints = whole.frame("street-0"), whole.fingerprint("street-0")
    outside = tmp_path_factory.mktemp("outside")
    if linked == "all":
        shutil.copytree(broken, outside / "data")
        shutil.rmtree(broken)
        broken.symlink_to(outside / "data")
    elif linked == "files":
        for i, path in enumerate([path for path in broken.rglob("*") if path.is_file()]):
            path.rename(outside / str(i))
            path.symlink_to(outside / str(i))
    else:
        (broken / linked).rename(outside / "x")
        (broken / linked).symlink_to(outside / "x")
    data = nuscenes.open(broken)
    assert_same_frame(before, data.frame("street-0"))
    assert [view.image_path for view in data.frame("street-0").cameras] == [view.image_path for view in before.cameras]
    assert data.fingerprint("street-0") == prints or linked == "all"
    assert not [problem for problem in nuscenes.validate(broken) if problem.severity == "error"]
    if linked == "samples":  # what is there by its name is named, and nothing is written through the link
        inside = set(outside.rglob("*"))
        nuscenes.write([data.scene("street")], broken, "v1.0-again")
        assert set(outside.rglob("*")) == inside
        again = nuscenes.open(broken, "v1.0-again").frame("street-0")
        assert [view.image_path for view in again.cameras] == [view.image_path for view in before.cameras]
        shutil.rmtree(broken / "v1.0-again")


def test_a_link_to_nothing_is_a_missing_file(broken: Path) -> None:
    token, path = picture(broken)
    path.unlink()
    path.symlink_to(broken / "nowhere.png")
    with pytest.raises(InputError, match=f"{token}.*is missing"):
        nuscenes.open(broken).frame("street-0")
    assert [problem.token for problem in nuscenes.validate(broken)] == [token]


def bomb(width: int, height: int) -> bytes:
    """A PNG of many grey pixels in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress(bytes(width // 8 + 1) * height, 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: Any) -> Callable[[Path], Any]:
    return lambda path: image.save(path, kind, **options)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


RGB = Image.fromarray(np.random.default_rng(0).integers(0, 255, size=(18, 32, 3), dtype=np.uint8))
REFUSED_IMAGES = {
    "bomb": (lambda path: path.write_bytes(bomb(9000, 9000)), "more than the 50,000,000"),
    "text": (lambda path: path.write_text("not an image"), "is not an image"),
    "empty": (lambda path: path.write_bytes(b""), "is not an image"),
    "sixteen bits": (saved(Image.fromarray(np.zeros((18, 32), np.uint16)), "PNG"), "8 bits per channel"),
    "floats": (saved(Image.fromarray(np.zeros((18, 32), np.float32)), "TIFF"), "8 bits per channel"),
    "turned": (saved(RGB, "JPEG", exif=exif(6)), "EXIF rotation"),
}


@pytest.mark.parametrize("name", REFUSED_IMAGES)
def test_bad_images_are_refused_before_decoding(name: str, broken: Path) -> None:
    make, message = REFUSED_IMAGES[name]
    token, path = picture(broken)
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        nuscenes.open(broken).frame("street-0")
    assert token in str(caught.value)
    assert str(path) in str(caught.value)
    assert [(problem.token, message in problem.message) for problem in nuscenes.validate(broken)] == [(token, True)]


def test_a_truncated_image_is_refused(broken: Path) -> None:
    token, path = picture(broken)
    RGB.resize((32, 18)).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:-400])
    view = next(v for v in nuscenes.open(broken).frame("street-0").cameras if v.image_path == path)
    with pytest.raises(InputError, match=f"{view.channel}.*cut short") as caught:
        pictures.load_image(view)
    assert str(path) in str(caught.value)
    assert [problem.token for problem in nuscenes.validate(broken)] == [token]


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("P", "PNG"), ("1", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG")]
)
def test_other_modes_become_rgb(mode: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    RGB.convert(mode).save(path, kind)
    got = pictures.load_image(camera("A", 0, size=(32, 18), image_path=path))
    assert got.mode == "RGB"
    with Image.open(path) as again:
        np.testing.assert_array_equal(np.array(got), np.array(again.convert("RGB")))


@pytest.mark.parametrize("size", [(100, 50), (224, 128), (60, 90)])
def test_scaled_pictures_follow_resize_and_crop(size: tuple[int, int], tmp_path: Path) -> None:
    # red is the native column and green the native row, so each pixel says where it comes from
    y, x = np.mgrid[:180, :240]
    Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8)).save(tmp_path / "x.png")
    view = camera("A", 0, size=(240, 180), image_path=tmp_path / "x.png").resized(*size)
    got = np.array(pictures.load_image(view)).astype(float)
    assert got.shape == (size[1], size[0], 3)
    v, u = np.mgrid[: size[1], : size[0]] + 0.5
    native = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(view.resize.matrix).T
    inner = (slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(got[..., :2][inner], native[..., :2][inner] - 0.5, atol=0.75)


def test_pictures_that_are_not_there_say_so() -> None:
    with pytest.raises(InputError, match="'A' has no picture"):
        pictures.load_image(camera("A", 0))


def test_maps_lacking_layers_or_nodes_are_refused(broken: Path) -> None:
    path = broken / "maps" / "expansion" / "boston-seaport.json"
    whole = json.loads(path.read_text())
    for change, message in (
        (lambda m: m.pop("lane_divider"), "no layer lane_divider"),
        (lambda m: m["node"].pop(), "which is missing"),
        (lambda m: m["node"][0].update(x=float("nan")), "not finite"),
        (lambda m: m["polygon"].clear(), "names polygon"),
        (lambda m: m["line"].clear(), "names line"),
    ):
        damaged = json.loads(json.dumps(whole))
        change(damaged)
        path.write_text(json.dumps(damaged))
        with pytest.raises(InputError, match=message):
            nuscenes.open(broken).frame("street-0")
        assert [message in str(problem) for problem in nuscenes.validate(broken)] == [True]
    path.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        nuscenes.open(broken).frame("street-0")
    path.unlink()
    assert nuscenes.open(broken).frame("street-0").map is None
    assert [problem.severity for problem in nuscenes.validate(broken)] == ["warning"]


def test_opening_what_is_not_there(broken: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        nuscenes.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no v1\.0-\* folder"):
        nuscenes.open(tmp_path / "maps")
    with pytest.raises(InputError, match=f"give the folder that holds .*, here .*{broken.name}$"):
        nuscenes.open(broken / "v1.0-mini")
    with pytest.raises(InputError, match=r"did you mean 'v1\.0-mini'"):
        nuscenes.open(broken, "v1.0-mni")
    data = nuscenes.open(broken)
    with pytest.raises(InputError, match="did you mean 'street'"):
        data.scene("stret")
    with pytest.raises(InputError, match="no sample 'x'"):
        data.frame("x")
    os.remove(broken / "v1.0-mini" / "sensor.json")
    with pytest.raises(InputError, match=r"sensor\.json cannot be read"):
        nuscenes.open(broken)
    with pytest.raises(InputError, match=r"no version 'v1\.0-x'"):
        nuscenes.validate(broken, "v1.0-x")


def test_a_dataset_without_lidar_opens(broken: Path) -> None:
    path = broken / "v1.0-mini" / "sample_data.json"
    rows = [row for row in json.loads(path.read_text()) if "LIDAR_TOP" not in row["filename"]]
    path.write_text(json.dumps(rows))
    frame = nuscenes.open(broken).frame("street-0")
    assert frame.lidar_path is None
    np.testing.assert_allclose(frame.global_SE3_ego.matrix, street_frame(0).cameras[0].global_SE3_ego.matrix, atol=1e-9)

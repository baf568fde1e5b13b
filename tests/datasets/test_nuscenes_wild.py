"""Datasets as people have them: other versions, subsets, rows of other makers, maps in the wrong folder."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drivegen import datasets, nuscenes
from drivegen.datasets.nuscenes import problems
from drivegen.datasets.nuscenes.notices import distortion_px
from drivegen.datasets.nuscenes.schema import visibility_level
from drivegen.scene import Frame, Scene, pictures
from drivegen.support.errors import InputError
from drivegen.support.progress import Progress, report_to
from tests.street import street_frame

Change = Callable[[dict[str, list[dict[str, Any]]], Path], object]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of two frames each, with lidar points."""
    folder = tmp_path_factory.mktemp("wild")
    np.zeros((2, 5), np.float32).tofile(folder / "points.bin")

    def frame(scene: str, step: int) -> Frame:
        frame = street_frame(step, scene=scene)
        cameras = tuple(replace(view, width_px=32, height_px=18) for view in frame.cameras[:2])
        return replace(frame, cameras=cameras, boxes=frame.boxes[:2], lidar_path=folder / "points.bin")

    scenes = [Scene(name, (frame(name, 0), frame(name, 1)), "words", "boston-seaport", name) for name in ("one", "two")]
    nuscenes.write(scenes, folder / "root")
    return folder / "root"


@pytest.fixture
def root(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "root"))


def change(root: Path, how: Change) -> None:
    folder = root / "v1.0-mini"
    tables = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    how(tables, root)
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))


def refusal(root: Path) -> str:
    """Open the dataset and read each frame and picture; return why one was refused, or nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = datasets.open(root)
            for token in data.samples():
                for view in data.frame(token).cameras:
                    pictures.load_image(view)
    except InputError as error:
        return str(error)
    return ""


def errors(root: Path) -> list[str]:
    return [str(problem) for problem in nuscenes.validate(root) if problem.severity == "error"]


def warned(root: Path) -> str:
    return "\n".join(str(problem) for problem in nuscenes.validate(root) if problem.severity == "warning")


def every(table: str, **values: Any) -> Change:
    return lambda tables, root: [row.update(values) for row in tables[table]]


def kept(table: str, number: int) -> Change:
    return lambda tables, root: tables.update({table: tables[table][:number]})


def lyft(tables: dict[str, list[dict[str, Any]]], root: Path) -> None:
    """Give rows the form of Lyft Level 5's: a lidar without size, times with fractions, no text for no visibility."""
    for row in tables["sample_data"]:
        row["timestamp"] += 0.75
        if row["fileformat"] == "pcd":
            del row["width"], row["height"]
            row["fileformat"] = "bin"
    for row in (*tables["sample"], *tables["ego_pose"]):
        row["timestamp"] += 0.25
    for row in tables["sample_annotation"]:
        row.update(num_lidar_pts=-1, visibility_token="")


def renumbered(tables: dict[str, list[dict[str, Any]]], root: Path) -> None:
    """Number visibilities from the best to the worst, by hashes."""
    names = {row["token"]: f"{9 - int(row['token']):032x}" for row in tables["visibility"]}
    for row in tables["visibility"]:
        row["token"] = names[row["token"]]
    for row in tables["sample_annotation"]:
        row["visibility_token"] = names[row["visibility_token"]]


def by_turns(tables: dict[str, list[dict[str, Any]]], root: Path) -> None:
    for i, row in enumerate(tables["sample_annotation"]):
        row["visibility_token"] = f"{i % 4 + 1}"


def cut_scene_and_samples(tables: dict[str, list[dict[str, Any]]], root: Path) -> None:
    tables["scene"] = tables["scene"][:1]
    tables["sample"] = [row for row in tables["sample"] if row["scene_token"] == "one"]


def unlink(pattern: str) -> Change:
    return lambda tables, root: [path.unlink() for path in root.glob(pattern)]


def first(table: str, **values: Any) -> Change:
    return lambda tables, root: tables[table][0].update(values)


def without(table: str, *fields: str) -> Change:
    return lambda tables, root: [row.pop(field, None) for row in tables[table] for field in fields]


def in_seconds(tables: dict[str, list[dict[str, Any]]], root: Path) -> None:
    for row in (*tables["sample"], *tables["sample_data"]):
        row["timestamp"] /= 1e6


def ends_of_null(tables: dict[str, list[dict[str, Any]]], root: Path) -> None:
    """Say null where the schema says "" for none."""
    for name in ("sample", "sample_data", "sample_annotation"):
        for row in tables[name]:
            row.update({link: row[link] or None for link in ("prev", "next")})


def into_the_other_scene(tables: dict[str, list[dict[str, Any]]], root: Path) -> None:
    next(row for row in tables["sample"] if row["token"] == "one-1")["next"] = "two-0"


def resize(tables: dict[str, list[dict[str, Any]]], root: Path) -> None:
    Image.new("RGB", (5, 5)).save(next(root.glob("samples/CAM_*/*.png")))


def unused_log(tables: dict[str, list[dict[str, Any]]], root: Path) -> None:
    tables["log"].append({"token": "unused", "location": 7})
    tables["map"][0]["log_tokens"].append("unused")


STRONG = [-0.3, 0.1, 0.0, 0.0, 0.0]
NO_CLASS = "'Vehicle.Car' is not a nuScenes category.*did you mean 'vehicle.car'"

UNKNOWN = ("visibility_token", "attribute_tokens", "num_lidar_pts", "prev", "next")
READS: dict[str, tuple[Change, str]] = {
    "extras": (first("sample", extras={"speed": 7.5}), ""),
    "as it is": (lambda tables, root: None, ""),
    "Lyft's rows": (lyft, ""),
    "boxes of which little is known": (without("sample_annotation", *UNKNOWN), ""),
    "boxes with nulls": (every("sample_annotation", **dict.fromkeys(UNKNOWN)), ""),
    "counts of a spreadsheet": (every("sample_annotation", num_lidar_pts=float("nan")), ""),
    "no descriptions": (without("scene", "description"), ""),
    "ends of null": (ends_of_null, ""),
    "seconds": (in_seconds, "0.5 microseconds after the one before: speeds are wrong"),
    "a chain into the other scene": (into_the_other_scene, "names scene two, whose .*\n.* is read in both"),
    "a class that begins like another": (first("category", name="vehicle.caravan"), "'vehicle.caravan' is not"),
    "a class of capitals": (first("category", name="Car"), r"did you mean 'car'"),
    "a sample's description in Greek": (first("sample", description="βροχή"), "sample row .*letters that text encoders"),
    "only the camera blobs": (unlink("samples/LIDAR_TOP/*"), "lidar file samples/LIDAR_TOP/"),
    "fewer scenes": (kept("scene", 1), "2 of 4 samples are in no scene's chain"),
    "no scenes": (kept("scene", 0), "there is no sample to read"),
    "lists of instances cut": (first("instance", first_annotation_token="gone"), "first_annotation_token 'gone' is not in"),
    "sweeps that are gone": (every("sample_data", next="gone"), "more like it"),
    "rows of sweeps without anything": (
        lambda tables, root: tables["sample_data"].append(
            {"token": "sweep", "is_key_frame": False, "calibrated_sensor_token": tables["calibrated_sensor"][0]["token"]}), ""),
    "unused log of a number": (unused_log, ""),
    "time stands still": (every("sample", timestamp=5), "timestamp 5 is not after the one before, 5"),
    "time turns back": (lambda tables, root: tables["sample"][1].update(timestamp=1), "is not after the one before"),
    "a token that is no file's name": (
        lambda tables, root: json.dumps([row.update({k: "a/b" for k, v in row.items() if v == "one-0"})
                                         for rows in tables.values() for row in rows]), "token 'a/b' cannot name a file"),
    "a channel that is no file's name": (first("sensor", channel="CAM FRONT/LEFT"), "'CAM FRONT/LEFT' cannot name a folder"),
    "visibilities by hashes": (renumbered, ""),
    "a visibility in words": (first("visibility", level="hardly"), "level 'hardly' is no range of percent"),
    "bare classes": (first("category", name="car"), ""),
    "class in capitals": (first("category", name="Vehicle.Car"), NO_CLASS),
    "description in Chinese": (first("scene", description="雨中的街道"), "letters that text encoders trained on English"),
    "no map": (unlink("maps/expansion/*"), "'boston-seaport' has no map"),
    "lens distortion": (every("calibrated_sensor", camera_distortion=STRONG), "is not taken off: points lie off by"),
    "no lens distortion": (every("calibrated_sensor", camera_distortion=[0.0] * 5), ""),
    "token used twice": (lambda tables, root: tables["ego_pose"].append(tables["ego_pose"][-1]), "the token is used twice"),
}  # fmt: skip
REFUSED: dict[str, Change] = {
    "extras of a number": first("sample", extras=7),
    "extras that are gone": first("sample", extras={"depth": {"file": "depth/gone.png"}}),
    "extras that lead out": first("sample", extras={"depth": {"file": "../depth.png"}}),
    "no scene of a sample": first("sample", scene_token="gone"),
    "samples cut without their rows": cut_scene_and_samples,
    "a picture of another size": resize,
    "a picture that is gone": lambda tables, root: next(root.glob("samples/CAM_*/*.png")).unlink(),
    "a mask that is gone": unlink("maps/*.png"),
    "no map rows": kept("map", 0),
    "a name that leads out": first("sample_data", filename="samples/../../x.png"),
    "a time that is none": first("sample", timestamp=float("nan")),
    "nanoseconds": every("sample", timestamp=1_600_000_000_000_000_000),
    "a visibility that is not there": first("sample_annotation", visibility_token="gone"),
    "a camera without size": first("sample_data", width=None),
    "a table that is gone": lambda tables, root: (root / "v1.0-mini" / "log.json").unlink() or tables.pop("log"),
    "a location that leads out": first("log", location="../x"),
    "a map that is cut": lambda tables, root: (root / "maps" / "expansion" / "boston-seaport.json").write_text("{"),
    "a map node far away": lambda tables, root: _far_node(root / "maps" / "expansion" / "boston-seaport.json"),
}


def _far_node(path: Path) -> None:
    data = json.loads(path.read_text())
    data["node"][0]["x"] = 1e300
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("name", READS)
def test_what_reads_is_no_error_and_what_is_odd_is_a_warning(name: str, root: Path) -> None:
    how, message = READS[name]
    change(root, how)
    assert not refusal(root)
    assert not errors(root)
    found = warned(root)
    assert re.search(message, found) if message else not found


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_an_error(name: str, root: Path) -> None:
    change(root, REFUSED[name])
    assert refusal(root)
    assert errors(root)


@pytest.mark.parametrize("version", ["interp_12Hz_trainval", "advanced_12Hz_trainval", "v1.01-train", "train_data"])
def test_a_version_is_a_folder_with_the_tables(version: str, root: Path) -> None:
    (root / "v1.0-mini").rename(root / version)
    (root / "v1.0-empty").mkdir()
    assert datasets.open(root).version == version
    assert nuscenes.open(root, version).samples() == ("one-0", "one-1", "two-0", "two-1")
    assert nuscenes.validate(root) == nuscenes.validate(root, version) == ()
    for call in (nuscenes.open, nuscenes.validate):
        with pytest.raises(InputError, match=f"has no version 'v1.0-mini'; it has {version}"):
            call(root, "v1.0-mini")
        with pytest.raises(InputError, match=r"here .*root$"):
            call(root / version)
        with pytest.raises(InputError, match=r"here .*root$"):
            call(root.parent)


def test_values_of_other_makers(root: Path) -> None:
    before = nuscenes.open(root).frame("one-0")
    change(root, lyft)
    frame = nuscenes.open(root).frame("one-0")
    assert frame.timestamp_us == before.timestamp_us
    assert [view.timestamp_us for view in frame.cameras] == [view.timestamp_us + 1 for view in before.cameras]
    change(
        root,
        lambda tables, root: [row.update(visibility_token=f"{i % 4 + 1}") for i, row in enumerate(tables["sample_annotation"])],
    )
    levels = [box.visibility for box in nuscenes.open(root).frame("one-0").boxes]
    change(root, renumbered)
    assert [box.visibility for box in nuscenes.open(root).frame("one-0").boxes] == levels == [1, 2]
    texts = {"v0-40": 1, "v40-60": 2, "60-80": 3, "80–100 %": 4, "V40-60": None, "none": None, "0.4-0.6": None}
    assert {text: visibility_level({"token": "3", "level": text}) for text in texts} == texts
    assert [visibility_level({"token": token}) for token in ("1", "4", "0", "5", "a")] == [1, 4, None, None, None]


def test_speeds_where_time_does_not_go_on_are_unknown(root: Path) -> None:
    change(root, every("sample", timestamp=5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        boxes = nuscenes.open(root).frame("one-0").boxes
    assert all(np.isnan(box.velocity_mps).all() for box in boxes)
    frames = nuscenes.open(root).scene("one").frames
    with pytest.raises(InputError, match="must increase"):
        nuscenes.write([Scene("again", frames)], root, "v1.0-again")


@pytest.mark.parametrize(
    "place", ["", "maps", "expansion", "maps/maps/expansion", "nuScenes-map-expansion-v1.3/expansion", "../maps"]
)
def test_maps_in_another_folder_are_named(place: str, root: Path) -> None:
    target = root / place / "boston-seaport.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    (root / "maps" / "expansion" / "boston-seaport.json").rename(target)
    with pytest.warns(UserWarning, match=r"'boston-seaport' has no map.*lie in (.*): move them to .*maps/expansion") as caught:
        data = nuscenes.open(root)
    named = str(caught[0].message).split("lie in ")[1].split(":")[0]
    assert Path(named).resolve() == target.parent.resolve()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert [data.frame(token).map for token in data.samples()] == [None] * 4
    assert "lie in" in warned(root)


def test_lens_distortion_is_measured_as_opencv_distorts(root: Path) -> None:
    import cv2

    K = np.array([[1250.0, 0, 800], [0, 1250, 450], [0, 0, 1]])
    for coefficients in ([-0.3, 0.1, 0.001, -0.002], [-0.2, 0.05, 0, 0, 0.01], [0.1, 0.02, 0, 0, 0.001, 0.05, 0.01, 0.002]):
        x, y = np.meshgrid(np.linspace(0, 1600, 9), np.linspace(0, 900, 9))
        rays = np.stack([(x - 800) / 1250, (y - 450) / 1250, np.ones_like(x)], -1).reshape(-1, 3)
        pixels, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), K, np.array(coefficients, float))
        expected = np.linalg.norm(pixels.reshape(-1, 2) - np.stack([x, y], -1).reshape(-1, 2), axis=1).max()
        assert distortion_px(coefficients, K.tolist()) == pytest.approx(expected)
    for unknown in ([0.1] * 3, ["a"] * 5, [float("nan")] * 5, 7, {"k1": 1}):
        assert distortion_px(unknown, K.tolist()) == float("inf")
    change(root, every("calibrated_sensor", camera_distortion=STRONG))
    message = r"camera_distortion of CAM_\w+, CAM_\w+ is not taken off: points lie off by up to \d+ pixels"
    with pytest.warns(UserWarning, match=message):
        nuscenes.open(root)


def test_many_of_a_kind_are_one_line(root: Path) -> None:
    change(root, lambda tables, root: tables["instance"].extend(
        {"token": f"i{i}", "category_token": tables["category"][0]["token"], "first_annotation_token": f"a{i}",
         "last_annotation_token": ""} for i in range(100)))  # fmt: skip
    found = [problem for problem in nuscenes.validate(root) if problem.table == "instance"]
    assert [(problem.token, problem.count) for problem in found] == [("i0", 100)]
    assert str(found[0]).endswith("(and 99 more like it)")
    each = [nuscenes.Problem("sample", f"t{i}", f"has {i} cameras of 'x{i}'") for i in range(problems.LISTED)]
    assert problems.summarised(iter(each)) == tuple(each)
    kinds = [("warning" if i % 2 else "error", message) for i in range(40) for message in ("a", "b")]
    mixed = (nuscenes.Problem("sample", "t", message, severity) for severity, message in kinds)
    assert [(p.severity, p.message, p.count) for p in problems.summarised(mixed)] == [
        ("error", "a", 20), ("error", "b", 20), ("warning", "a", 20), ("warning", "b", 20),
    ]  # fmt: skip


def test_a_long_name_of_a_scene_is_no_long_name_of_a_file(tmp_path: Path) -> None:
    nuscenes.write([Scene("雨" * 200, (street_frame(),))], tmp_path)
    assert nuscenes.open(tmp_path).scenes == ("雨" * 200,)
    assert not errors(tmp_path)


def test_checking_shows_how_far_it_is(root: Path) -> None:
    heard: list[Progress] = []
    with report_to(heard.append):
        nuscenes.validate(root)
    assert (heard[0].task, heard[0].total, heard[-1].done) == ("checking", 4, 4)


def test_what_is_not_said_is_unknown(root: Path) -> None:
    change(root, without("sample_annotation", *UNKNOWN))
    frame = nuscenes.open(root).frame("one-0")
    box = frame.boxes[0]
    assert (box.visibility, box.num_lidar_pts, box.attribute) == (None, None, "")
    assert np.isnan(box.velocity_mps).all()
    for table in ("scene", "sample"):
        change(root, without(table, "description"))
    data = nuscenes.open(root)
    assert data.frame("one-0").description == data.scene("one").description == ""
    assert len(data.samples()) == 4


@pytest.mark.parametrize("what", ["link", "folder", "windows"])
def test_why_a_picture_is_not_there_is_said(what: str, root: Path) -> None:
    if what == "link":
        shutil.move(root / "samples", root / "gone")
        (root / "samples").symlink_to("/nowhere/samples")
        said = "samples is a link to /nowhere/samples, which is not there"
    elif what == "folder":
        path = next(root.glob("samples/CAM_*/*.png"))
        path.unlink()
        path.mkdir()
        said = "what has its name is no file"
    else:
        change(root, lambda t, _: [row.update(filename=row["filename"].replace("/", "\\")) for row in t["sample_data"]])
        said = "names have '/' between folders"
    assert said in refusal(root)
    assert said in errors(root)[0]


def test_refusals_name_each_row_once(root: Path) -> None:
    change(root, every("ego_pose", rotation=[1, 1, 1, 1]))
    said = refusal(root)
    assert said.count("sample_data row") == said.count("ego_pose row") == 1
    assert "calibrated_sensor" not in said


@pytest.mark.parametrize("value", [None, 5, b"x", "", "a\0b", "a" * 5000])
def test_what_is_no_folder_is_no_dataset(value: Any, root: Path) -> None:
    for call in (datasets.open, nuscenes.open, nuscenes.validate):
        with pytest.raises(InputError, match="data root"):
            call(value)
    data = nuscenes.open(root)
    for call in (data.frame, data.scene, data.moment):
        with pytest.raises(InputError, match="has no s"):
            call(value)

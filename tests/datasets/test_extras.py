"""What plugins are given from files: by token, by picture, or named in the tables; every fault says which file."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drivegen import datasets, nuscenes
from drivegen.datasets.extras import ExtrasFolder, read_extra
from drivegen.support.errors import InputError
from tests.street import street_frame, street_scene


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, Image.Image):
        value.save(path)
    elif isinstance(value, np.ndarray):
        np.save(path, value)
    elif isinstance(value, dict) and path.suffix == ".npz":
        np.savez(path, **value)
    else:
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_each_kind_of_file_is_read_as_what_it_holds(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(read_extra(write(tmp_path / "a.npy", array), "x"), array)
    assert np.array_equal(read_extra(write(tmp_path / "a.npz", {"b": array}), "x")["b"], array)
    assert read_extra(write(tmp_path / "a.json", {"k": [1, None]}), "x") == {"k": [1, None]}
    assert read_extra(write(tmp_path / "a.txt", " rain, dusk\n"), "x") == "rain, dusk"
    picture = read_extra(write(tmp_path / "A.PNG", Image.new("L", (3, 2), 7)), "x")
    assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGB", (3, 2), (7, 7, 7))


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.json", "a.png", "a.txt", "a.pkl"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(InputError, match=f"^of x: .*{name}"):
        read_extra(path, "of x")
    for damage in (b"\x80\x04\xff", b"PK\x03\x04" + b"\0" * 30, b""):
        path.write_bytes(damage)
        if name != "a.txt" or damage[:1] == b"\x80":
            with pytest.raises(InputError, match=f"^of x: .*{name}"):
                read_extra(path, "of x")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))  # a pickle is never run
    with pytest.raises(InputError, match="objects"):
        read_extra(tmp_path / "objects.npy", "of x")


@pytest.mark.parametrize("place", ["{stem}", "{channel}/{stem}", "samples/{channel}/{stem}"])
def test_files_of_a_folder_are_found_by_token_or_by_picture(tmp_path: Path, place: str) -> None:
    frame = street_frame()
    paths = [Path(f"/data/samples/{c}/{i}-{c}.jpg") for i, c in enumerate(frame.channels)]
    frame = replace(frame, cameras=tuple(replace(c, image_path=p) for c, p in zip(frame.cameras, paths, strict=True)))
    for i, path in enumerate(paths):
        write(tmp_path / (place.format(stem=path.stem, channel=path.parent.name) + ".npy"), np.array([i]))
    (tmp_path / "README.md").write_text("other files are left alone")
    folder = ExtrasFolder("mine", tmp_path)
    assert [int(value[0]) for value in folder.read(frame).values()] == list(range(6))
    pictures = tuple(paths)
    assert all(path.is_file() for path in folder.files(frame.token, pictures))
    folder.files(frame.token, pictures)[0].unlink()
    again = ExtrasFolder("mine", tmp_path)
    assert [path.is_file() for path in again.files(frame.token, pictures)].count(False) == 1
    with pytest.raises(InputError, match=f"of 'mine' for frame '{frame.token}'.*has no file"):
        again.read(frame)
    write(tmp_path / f"{frame.token}.json", {"all": 1})
    assert ExtrasFolder("mine", tmp_path).read(frame) == {"all": 1}


def test_what_is_no_folder_of_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.extras\.mine = .* is not a folder"):
        ExtrasFolder("mine", tmp_path / "none")
    with pytest.raises(InputError, match="holds no file"):
        ExtrasFolder("mine", tmp_path)
    write(tmp_path / "t.json", {})
    write(tmp_path / "t.npy", np.zeros(1))
    with pytest.raises(InputError, match=r"t\.\w+ and t\.\w+"):
        ExtrasFolder("mine", tmp_path)


def test_tables_may_hold_extras_or_name_their_files(tmp_path: Path) -> None:
    nuscenes.write([street_scene(2)], tmp_path)
    table = next(tmp_path.glob("v1.0-*/sample.json"))
    rows = json.loads(table.read_text())
    rows[0]["extras"] = {"mood": {"calm": 0.5}, "plan": {"file": "plans/0.npy"}}
    table.write_text(json.dumps(rows))
    data = datasets.open(tmp_path)
    first, second = data.samples()
    assert (tmp_path / "plans/0.npy") not in data.files(second)
    assert data.files(first)[-1] == tmp_path / "plans/0.npy"
    with pytest.raises(InputError, match=r"extras of 'plan': .*0\.npy cannot be read"):
        data.frame(first)
    before = data.fingerprint(first)
    write(tmp_path / "plans/0.npy", np.ones(2))
    extras = datasets.open(tmp_path).frame(first).extras
    assert extras["mood"] == {"calm": 0.5}
    assert extras["plan"].tolist() == [1, 1]
    assert data.fingerprint(first) != before
    for wrong, said in (({"plan": {"file": "../x.npy"}}, "refused"), ("plan", "not an object")):
        rows[0]["extras"] = wrong
        table.write_text(json.dumps(rows))
        with pytest.raises(InputError, match=said):
            datasets.open(tmp_path).frame(first)


def test_extras_are_written_and_read_again(tmp_path: Path) -> None:
    scene = street_scene(2)
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    write(tmp_path / "notes" / "one.txt", "slow")
    given = {
        "mood": {"calm": 0.5, "words": ["wet", None, True]},
        "plan": np.arange(6.0).reshape(2, 3),
        "sketch": {"CAM_FRONT": picture, "CAM_BACK": picture.rotate(90)},
        "depth.2": [np.float32(1.5), {"at": np.array([True])}],
        "trap": {"file": "not/one"},
        "note": tmp_path / "notes" / "one.txt",
    }
    frames = (replace(scene.frames[0], extras=given), scene.frames[1])
    nuscenes.write([replace(scene, frames=frames)], tmp_path / "out")
    data = datasets.open(tmp_path / "out")
    first, second = (data.frame(token) for token in data.samples())
    assert second.extras == {}
    assert list(first.extras) == list(given)
    assert first.extras["mood"] == given["mood"]
    np.testing.assert_array_equal(first.extras["plan"], given["plan"])
    for channel, drawn in given["sketch"].items():
        np.testing.assert_array_equal(np.asarray(first.extras["sketch"][channel]), np.asarray(drawn))
    assert first.extras["depth.2"][0] == 1.5
    assert first.extras["depth.2"][1]["at"].tolist() == [True]
    assert first.extras["trap"] == {"file": "not/one"}
    assert first.extras["note"] == "slow"
    written = sorted(path for path in data.files(first.token) if "extras" in path.parts)
    assert written == sorted(path for path in (tmp_path / "out" / "extras").rglob("*") if path.is_file())
    nuscenes.write([replace(scene, frames=(first,))], tmp_path / "again")
    again = datasets.open(tmp_path / "again")
    assert again.frame(again.samples()[0]).extras["mood"] == given["mood"]


@pytest.mark.parametrize(
    ("value", "said"), [(object(), "hold object"), ({"a": [math.nan]}, "hold a number that is not finite")]
)
def test_extras_that_tables_cannot_hold_are_refused_before_any_writing(tmp_path: Path, value: object, said: str) -> None:
    scene = street_scene(1)
    frame = replace(scene.frames[0], extras={"mine": value})
    with pytest.raises(InputError, match=rf"extras of 'mine' {said}"):
        nuscenes.write([replace(scene, frames=(frame,))], tmp_path / "out")
    assert not (tmp_path / "out").exists()

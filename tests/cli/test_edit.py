"""Recorded frames edited on the command line: objects, masks, scripts, prompt, the noise of the pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from drivegen import datasets
from drivegen.cli.generate import BUILT_IN
from drivegen.cli.main import app
from drivegen.edit import Insert, Move, Replace
from drivegen.edit.script import Entry, read_insert, read_move, read_replace, read_script
from drivegen.sampling import Sampling
from drivegen.saved import model
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from tests.convert.test_wider_single_file import Wide
from tests.tiny_hosts import SIZE, tiny_host
from tests.tiny_models import tiny_backbone

BUS = "5d7dbd184fddd9cfb2a860194816f1d2"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    host = tiny_host(("text", "boxes"), prediction_type="v_prediction")
    return model.save(host, tmp_path_factory.mktemp("models") / "m", Sampling("ddim", 2, 1.0), image_size=SIZE)


def run(small: Path, out: Path, *more: str) -> Path:
    done = CliRunner().invoke(app, ["edit", "--out", str(out), "--model", str(small), *more])
    assert done.exit_code == 0, done.output
    (folder,) = out.glob("*/")
    return folder


def first() -> Frame:
    source = datasets.open(BUILT_IN)
    return source.frame(source.samples()[0])


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {file.stem: np.asarray(Image.open(file)).astype(int) for file in sorted(folder.glob("CAM_*.png"))}


def test_words_are_read() -> None:
    assert read_insert("car:12,-3.5,90") == Insert("car", 12, -3.5, 90)
    assert read_move("a:b:2.5,-1,0") == Move("a:b", 2.5, -1, 0)
    assert read_replace("a:bus") == Replace("a", "bus")
    for wrong in ("", "a", "a:1", ":1,2,3", "a:x,1,2", "a:1,2", "a:1,2,3,4", "a:inf,0,0", "a:1,nan,0", "a:1,2,1e9"):
        for read in (read_insert, read_move):
            with pytest.raises(InputError):
                read(wrong)
    for wrong in ("", "a", "a:", ":bus", "a:spaceship"):
        with pytest.raises(InputError):
            read_replace(wrong)


def test_objects_change_and_the_rest_stays(small: Path, tmp_path: Path) -> None:
    white = np.zeros((128, 224), np.uint8)
    white[20:60, 30:90] = 255
    Image.fromarray(white).save(tmp_path / "white.png")
    mask = f"CAM_FRONT_RIGHT:{tmp_path / 'white.png'}"
    folder = run(small, tmp_path / "out", "--remove", BUS, "--insert", "car:-9,3,180", "--mask", mask)
    outside_is_recorded(folder)
    found = pictures(folder)
    changed = {
        c.channel for c in first().cameras if (np.asarray(Image.open(c.image_path)).astype(int) != found[c.channel]).any()
    }
    assert changed == {"CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_BACK_LEFT"}
    assert (folder / "sheet.png").is_file()


def outside_is_recorded(folder: Path) -> None:
    for each in first().cameras:
        recorded, found = np.asarray(Image.open(each.image_path)).astype(int), pictures(folder)[each.channel]
        file = folder / "masks" / f"{each.channel}.png"
        alpha = np.asarray(Image.open(file)) if file.exists() else np.zeros(recorded.shape[:2])
        assert np.array_equal(recorded[alpha == 0], found[alpha == 0])


@pytest.mark.slow
def test_one_file_that_inpaints_and_a_refiner_edit_and_what_is_done_stays(tmp_path: Path) -> None:
    wide = Wide(tmp_path, 9, "sdxl")
    refiner = tiny_backbone(family="sdxl_refiner")
    refiner.save(tmp_path / "refiner")
    how = ["--config", str(wide.configs[0]), "--size", "32x64", "--steps", "2", "--dtype", "float32", "--device", "cpu"]
    refined = [*how, "--refiner", str(tmp_path / "refiner"), "--refine-from", "0.5"]
    folder = run(wide.file, tmp_path / "out", "--remove", BUS, *refined)
    outside_is_recorded(folder)
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [line["camera"] for line in lines] == list(first().channels)
    assert {line["refine_from"] for line in lines} == {0.5}
    made = {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}
    run(wide.file, tmp_path / "out", "--remove", BUS, *refined)
    assert made == {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}  # nothing was done again
    run(wide.file, tmp_path / "out", "--prompt", "Night.", *how)  # the whole frame: what it is told is masked wholly
    assert pictures(folder)["CAM_BACK"].shape == (32, 64, 3)
    assert not (folder / "masks").exists()


def test_a_script_edits_what_its_options_would(small: Path, tmp_path: Path) -> None:
    token = first().token
    script = tmp_path / "edits.yaml"
    script.write_text(f"edits:\n- sample: {token}\n  remove: ['{BUS}']\n  seed: 3\n")
    by_script = run(small, tmp_path / "a", "--script", str(script), "--data", str(BUILT_IN))
    by_options = run(small, tmp_path / "b", "--remove", BUS, "--seed", "3")
    for (_, a), (_, b) in zip(pictures(by_script).items(), pictures(by_options).items(), strict=True):
        assert np.array_equal(a, b)


def test_scripts_are_read_strictly(tmp_path: Path) -> None:
    script = tmp_path / "edits.yaml"
    script.write_text("edits:\n- sample: a\n  mask: ['CAM_FRONT:m.png', CAM_BACK]\n- sample: b\n  insert: ['car:1,2,3']\n")
    first, second = read_script(script)
    assert first.mask == (f"CAM_FRONT:{tmp_path / 'm.png'}", "CAM_BACK")
    assert second == Entry(sample="b", insert=("car:1,2,3",))
    for text, said in (
        ("edits: []", "empty"), ("edits:\n- sample: a\n- sample: a", r"edits\[1\]"), ("edits:\n- smaple: a", "smaple"),
        ("other: 1", "other"), ("edits:\n- seed: -1", "seed"), ("- 1", "mapping"), ("edits:\n- remove: 3", "remove"),
    ):  # fmt: skip
        script.write_text(text)
        with pytest.raises(InputError, match=said):
            read_script(script)


@pytest.mark.slow
def test_it_keeps_the_pictures_noise(small: Path, tmp_path: Path) -> None:
    day = pictures(run(small, tmp_path / "day", "--invert", "--prompt", "Day."))
    night = pictures(run(small, tmp_path / "night", "--invert", "--prompt", "Night.", "--move", f"{BUS}:1,0,0"))
    other = pictures(run(small, tmp_path / "other", "--prompt", "Day.", "--seed", "3"))
    assert len(day) == len(night) == len(other) > 1
    assert all(a.shape == (*SIZE, 3) for a in day.values())
    assert np.mean([np.abs(day[c] - night[c]).mean() for c in day]) > 0
    assert np.mean([np.abs(day[c] - other[c]).mean() for c in day]) > 0


def test_nothing_to_edit_and_bad_input_end_with_a_sentence(small: Path, tmp_path: Path) -> None:
    script, other, root = tmp_path / "edits.yaml", tmp_path / "other.yaml", tmp_path / "root"
    script.write_text("edits:\n- remove: [nobody]\n")
    other.write_text("edits:\n- romove: [nobody]\n")
    (tmp_path / "none.yaml").write_text("")
    black = Image.new("L", (224, 128))
    black.save(tmp_path / "black.png")
    black.resize((50, 50)).save(tmp_path / "small.png")
    (tmp_path / "file").write_text("")
    shutil.copytree(BUILT_IN, root)
    shutil.rmtree(root / "samples" / "CAM_BACK")
    for wrong, said in (
        ([], "nothing is to be edited"), (["--move", "a"], "--move"), (["--remove", "nobody"], "nobody"),
        (["--prompt", "Day.", "--sample", "x"], "--data"), (["--insert", "caar:1,2,3"], "did you mean 'car'"),
        (["--insert", "car:300,0,0"], "x_m"), (["--insert", "car:nan,0,0"], "x_m"), (["--move", f"{BUS}:0,inf,0"], "dy_m"),
        (["--mask", "CAM_X"], "CAM_X"), (["--mask", "CAM_FRONT:no.png"], "no.png"),
        (["--mask", f"CAM_FRONT:{tmp_path / 'black.png'}"], "nothing that is white"),
        (["--mask", f"CAM_FRONT:{tmp_path / 'small.png'}"], "50x50"), (["--mask", f"CAM_FRONT:{script}"], "edits.yaml"),
        (["--keep", "CAM_FRONT"], "nothing is to be edited"), (["--keep", "CAM_FRONT", "--prompt", "Day."], "--keep"),
        (["--mask", "CAM_FRONT", "--keep", "CAM_X"], "CAM_X"), (["--mask", "CAM_FRONT", "--invert"], "--invert"),
        (["--replace", f"{BUS}:ufo"], "ufo"), (["--script", str(script)], "nobody"), (["--script", str(other)], "romove"),
        (["--script", str(tmp_path / "none.yaml")], "none.yaml"), (["--script", str(tmp_path / "no.yaml")], "no.yaml"),
        (["--script", str(script), "--remove", BUS], "--remove"), (["--insert", "car:14,3,0"], "would stand in"),
        (["--mask", "CAM_FRONT", "--data", str(root)], "CAM_BACK"), (["--mask", "CAM_FRONT", "--data", "nowhere"], "nowhere"),
        (["--mask", "CAM_FRONT", "--steps", "0"], "steps"), (["--mask", "CAM_FRONT", "--refine-from", "0.5"], "refiner"),
        (["--mask", "CAM_FRONT", "--out", str(tmp_path / "file")], "file"), (["--mask", "CAM_FRONT", "--strength", "2"], "2"),
    ):  # fmt: skip
        done = CliRunner().invoke(app, ["edit", "--out", str(tmp_path / "out"), "--model", str(small), *wrong])
        assert done.exit_code == 2, (wrong, done.output)
        assert said in done.output + (done.stderr or ""), (wrong, done.output)
        assert "Traceback" not in done.output
        assert not (tmp_path / "out").exists()

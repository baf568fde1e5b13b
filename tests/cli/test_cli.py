from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from drivegen.catalog import listing, registry
from drivegen.cli.main import app
from drivegen.datasets import nuscenes
from drivegen.pipeline import settings
from drivegen.pipeline.manifest import Manifest
from drivegen.pipeline.views import Views
from drivegen.plugin import Plugin
from drivegen.plugin.hooks import HOOKS
from drivegen.sampling import Sampling
from drivegen.saved import model
from drivegen.support.errors import CannotWrite, InputError
from drivegen.support.files import sha256
from tests.street import street_scene
from tests.tiny_hosts import ALL, SIZE, tiny_host

MANIFEST_FIELDS = {
    "sample_token", "camera", "file", "sha256", "model", "model_sha256", "added_sha256", "conditions_sha256", "loras", "vae",
    "dtype", "device", "threads", "versions", *settings.options(),
} - {"refine_from", "guidance_range"}  # fmt: skip
"""Of an image without words, tuners, a refiner or a range of guidance."""


def run(*arguments: object, status: int = 0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "tiny model"
    about = {"data": "none", "training": {"seed": 77077}}
    return model.save(tiny_host(), folder, Sampling(sampler="ddim", steps=2, guidance=3.0), image_size=SIZE, about=about)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("daten ü")
    nuscenes.write([street_scene(2, "alpha")], root)
    return root


@pytest.fixture(scope="module")
def narrow(tmp_path_factory) -> Path:
    """Two samples of one camera each, which take less time."""
    root, scene = tmp_path_factory.mktemp("narrow"), street_scene(2, "alpha")
    frames = tuple(replace(frame, cameras=frame.cameras[:1]) for frame in scene.frames)
    nuscenes.write([replace(scene, frames=frames)], root)
    return root


QUICK = ("--steps", 1, "--guidance", 1)


def generate(tiny: Path, out: Path, *options: object, status: int = 0):
    return run("generate", "--out", out, "--model", tiny, "--dtype", "float32", *options, status=status)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = "import sys, drivegen, drivegen.cli; print([m for m in ('torch', 'numpy', 'diffusers', 'cv2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    assert "generate" in run("--help").output
    for command in ("generate", "world", "train", "validate", "plugins", "info"):
        assert "Usage" in run(command, "--help").output


@pytest.mark.slow
def test_generate_from_data(tiny: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out ü"
    said = generate(tiny, out, "--data", data, "--seed", 5, "--scale", "boxes=0.5", "--without", "text").output
    dataset = nuscenes.open(data)
    token = dataset.samples()[0]
    assert str(out / token / "sheet.png") in said
    channels = dataset.frame(token).channels
    expected = {f"{c}.png" for c in channels} | {"sheet.png", "sheet_boxes.png"}
    assert {p.name for p in (out / token).iterdir()} == expected
    written = lines(out)
    assert [(line["sample_token"], line["camera"]) for line in written] == [(token, c) for c in channels]
    for line in written:
        assert line.keys() == MANIFEST_FIELDS
        assert sha256(out / line["file"]) == line["sha256"]
        assert Image.open(out / line["file"]).size == SIZE[::-1]
        assert (line["seed"], line["without"], line["guidance"], line["steps"]) == (5, ["text"], 3.0, 2)
        assert line["scales"] == {name: 0.5 if name == "boxes" else 1.0 for name in ALL}
    # The same again: the same bytes, and no line twice.
    before = {line["file"]: line["sha256"] for line in written}
    generate(tiny, out, "--data", data, "--seed", 5, "--scale", "boxes=0.5", "--without", "text")
    assert {line["file"]: line["sha256"] for line in lines(out)} == before
    assert len(lines(out)) == len(channels)


@pytest.mark.slow
def test_generate_in_a_region(tiny: Path, tmp_path: Path) -> None:
    """In one camera's picture alone, and with an empty mask nowhere: then it is as if the plugin were absent."""
    scene = street_scene(1, "alpha")
    pair = tuple(camera for camera in scene.frames[0].cameras if camera.channel in ("CAM_FRONT", "CAM_BACK"))
    nuscenes.write([replace(scene, frames=(replace(scene.frames[0], cameras=pair),))], data := tmp_path / "data")
    Image.new("1", (30, 20), 1).save(tmp_path / "all.png")
    Image.new("L", SIZE[::-1], 0).save(tmp_path / "none.png")
    runs = {
        "there": (), "absent": ("--scale", "layout=0"), "whole": ("--region", "layout=CAM_FRONT"),
        "file": ("--region", f"layout=CAM_FRONT:{tmp_path / 'all.png'}"),
        "none": ("--region", f"layout=CAM_FRONT:{tmp_path / 'none.png'}"),
    }  # fmt: skip
    made = {}
    for name, more in runs.items():
        out = tmp_path / name
        generate(tiny, out, "--data", data, "--steps", 1, "--guidance", 1, "--scale", "cross_view=0", *more)
        made[name] = {line["camera"]: np.asarray(Image.open(out / line["file"])).astype(int) for line in lines(out)}
        assert [line["regions"] for line in lines(out)][:1] == [["layout"] if "--region" in more else []]
    near = lambda a, b, c: bool(np.abs(made[a][c] - made[b][c]).max() <= 1)  # noqa: E731
    assert near("whole", "there", "CAM_FRONT")
    assert near("file", "there", "CAM_FRONT")
    assert near("whole", "absent", "CAM_BACK")
    assert near("none", "absent", "CAM_FRONT")
    assert not near("there", "absent", "CAM_FRONT")
    assert not near("there", "absent", "CAM_BACK")


@pytest.mark.slow
def test_generate_selects_samples(tiny: Path, narrow: Path, tmp_path: Path) -> None:
    tokens = nuscenes.open(narrow).samples()
    for options, expected in (
        (("--all",), tokens),
        (("--scene", "alpha", "--num", 1), tokens[:1]),
        (("--sample", tokens[1]), tokens[1:]),
    ):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        generate(tiny, out, "--data", narrow, "--steps", 1, "--guidance", 1, *options)
        assert list(dict.fromkeys(line["sample_token"] for line in lines(out))) == list(expected)


@pytest.mark.slow
def test_generate_from_recorded_pictures(tiny: Path, data: Path, tmp_path: Path) -> None:
    generate(tiny, tmp_path, "--data", data, "--strength", 0)
    token = nuscenes.open(data).samples()[0]
    pictures = [np.asarray(Image.open(tmp_path / token / f"{c}.png")) for c in ("CAM_FRONT", "CAM_BACK")]
    assert np.array_equal(*pictures)  # all recorded pictures are the same grey, and nothing was changed


@pytest.mark.slow
def test_generate_the_built_in_scene(tiny: Path, tmp_path: Path) -> None:
    generate(tiny, tmp_path, "--steps", 1, "--prompt", "night")
    written = lines(tmp_path)
    assert len(written) == 6
    assert {line["prompt"] for line in written} == {"night"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scene", "alpha"), "--scene needs a dataset"),
        (("--data", "/nowhere"), "data root /nowhere"),
        (("--data", "DATA", "--scene", "alpah"), "alpah"),
        (("--data", "DATA", "--sample", "x"), "no sample 'x'"),
        (("--data", "DATA", "--version", "v1.0-x"), "no version 'v1.0-x'"),
        (("--num", 0), "--num 0"),
        (("--data", "DATA", "--sample", "x", "--all"), "leave out --all"),
        (("--scale", "boxes"), "must be PLUGIN=X"),
        (("--scale", "boxes=many"), "must be PLUGIN=X"),
        (("--scale", "boxes=-1"), "must be PLUGIN=X"),
        (("--scale", "boxes=nan"), "must be PLUGIN=X"),
        (("--scale", "boxes=1", "--scale", "boxes=2"), "'boxes' twice"),
        (("--region", "layout"), "must be PLUGIN=CAMERA:MASK"),
        (("--region", "layout=CAM_FRONT:"), "must be PLUGIN=CAMERA:MASK"),
        (("--region", "layout=CAM_FRONT:/nowhere.png"), "/nowhere.png is missing"),
        (("--region", "layout=CAM_FRONT", "--region", "layout=CAM_FRONT"), "twice"),
        (("--region", "layout=CAM_FRNT"), "did you mean 'CAM_FRONT'"),
        (("--region", "layuot=CAM_FRONT"), "did you mean 'layout'"),
        (("--without", "box"), "did you mean 'boxes'"),
        (("--seed", -1), "seed -1"),
        (("--sampler", "ddimm"), "did you mean 'ddim'"),
        (("--steps", 0), "steps 0"),
        (("--device", "toaster"), "no device 'toaster'"),
        (("--device", "cuda:99"), "not on this machine"),
        (("--dtype", "fp8"), "no dtype 'fp8'"),
        (("--device", "cpu", "--offload"), "no GPU"),
        (("--size", "10"), "HEIGHTxWIDTH"),
        (("--size", "63x112"), "multiples of 8"),
        (("--size", "²x8"), "HEIGHTxWIDTH"),
        (("--size", "8000008x8"), "too large"),
        (("--size", "9" * 5000 + "x8"), "too large"),
        (("--input", "layout=foo"), "'layout' takes no input"),
        (("--config", "DATA"), "leave out --config"),
        (("--model", "/nowhere"), "no model at"),
        (("--strength", 2), "must be from 0"),
        (("--model", "DATA"), "model_index.json"),
        (("--out", "/proc/no"), "/proc/no"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_two(tiny: Path, data: Path, tmp_path: Path, options, message) -> None:
    options = [str(data) if o == "DATA" else o for o in options]
    result = generate(tiny, tmp_path / "out", *options, status=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())  # not even an empty folder


def test_what_was_there_stays_after_bad_input(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    generate(tiny, tmp_path / "kept" / "a" / "b", "--without", "box", status=2)
    assert not list((tmp_path / "kept").iterdir())
    (tmp_path / "kept" / "note").write_text("mine")
    generate(tiny, tmp_path / "kept", "--without", "box", status=2)
    assert (tmp_path / "kept" / "note").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.filterwarnings("always::UserWarning")
def test_what_does_not_fit_of_a_prompt_is_said_once(tiny: Path, narrow: Path, tmp_path: Path) -> None:
    said = generate(tiny, tmp_path, "--data", narrow, "--all", *QUICK, "--prompt", "a street of many letters").stderr
    assert said.count("the prompt 'a street of many letters' has 22 tokens and 16 fit; dropped: ") == 1


@pytest.mark.slow
def test_a_path_may_look_like_markup(tiny: Path, narrow: Path, tmp_path: Path) -> None:
    out = tmp_path / "o[/b] [red]o[" / "red]"
    assert str(out) in generate(tiny, out, "--data", narrow, *QUICK).output


def test_a_dataset_token_cannot_leave_the_folder(tiny: Path, tmp_path: Path) -> None:
    scene = street_scene(1, "beta")
    nuscenes.write([replace(scene, frames=(replace(scene.frames[0], token="../../evil"),))], tmp_path / "data")
    result = generate(tiny, tmp_path / "a" / "b", "--data", tmp_path / "data", "--steps", 1, status=2)
    assert "cannot name a file" in result.stderr
    assert not list(tmp_path.rglob("sheet.png"))


def test_two_runs_in_one_folder_and_a_foreign_manifest(tiny: Path, tmp_path: Path) -> None:
    from drivegen.support.locks import locked_folder

    with locked_folder(tmp_path):
        assert "another run" in generate(tiny, tmp_path, status=2).stderr
    (tmp_path / "manifest.jsonl").write_text("not json\n")
    assert "manifest.jsonl, line 1" in generate(tiny, tmp_path, status=2).stderr
    assert (tmp_path / "manifest.jsonl").read_text() == "not json\n"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status", "last"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, None)])
def test_a_signal_ends_with_its_status_and_whole_files(tiny: Path, narrow: Path, tmp_path: Path, number, status, last) -> None:
    command = [
        sys.executable,
        "-m",
        "drivegen.cli.main",
        "generate",
        "--out",
        str(tmp_path),
        "--model",
        str(tiny),
        "--data",
        str(narrow),
    ]
    process = subprocess.Popen(
        [*command, "--all", "--steps", "40"],
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A test run that was started in the background ignores the signal, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("*/sheet_boxes.png")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    if last:
        assert errors.decode().strip().splitlines()[-1] == last
    assert len(lines(tmp_path)) == 1  # the first frame; the second was not finished
    for line in lines(tmp_path):
        assert sha256(tmp_path / line["file"]) == line["sha256"]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_a_stopped_run_goes_on(tiny: Path, narrow: Path, tmp_path: Path) -> None:
    """What is there and was made in the same way stays; what is missing, changed or made otherwise is made again."""
    options = ("--data", narrow, "--all", *QUICK)
    generate(tiny, tmp_path, *options)
    first, second = (tmp_path / token for token in nuscenes.open(narrow).samples())
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*.png")}
    kept = [json.dumps(line) for line in lines(tmp_path) if line["sample_token"] != first.name]
    (tmp_path / "manifest.jsonl").write_text("\n".join(kept) + "\n")  # as a killed run leaves it: pictures and no line
    said = generate(tiny, tmp_path, *options).output
    assert "1 frames were there already" in said
    assert "1 images of 1 frames" in said
    assert {path: path.read_bytes() for path in before} == {path: found for path, (found, _) in before.items()}
    assert all(path.stat().st_mtime_ns == when for path, (_, when) in before.items() if path.parent == second)
    assert "2 frames were there already" in generate(tiny, tmp_path, *options).output
    assert "there already" not in generate(tiny, tmp_path, *options, "--num", 1, "--guidance-rescale", 0.5).output
    assert len(lines(tmp_path)) == 2


def test_what_is_harmed_does_not_count_as_there(tmp_path: Path) -> None:
    def line(**changes: object) -> dict[str, object]:
        return {"sample_token": "a", "camera": "C", "file": "a/C.png", "sha256": sha256(picture), "seed": 0, **changes}

    picture = tmp_path / "a" / "C.png"
    picture.parent.mkdir()
    for name in ("C.png", "sheet.png", "sheet_boxes.png"):
        (tmp_path / "a" / name).write_bytes(name.encode())
    manifest = Manifest(tmp_path)
    there = lambda **common: manifest.holds(picture.parent, "a", ("C",), {"seed": 0, **common})  # noqa: E731
    manifest.add([line()])
    assert there()
    assert not there(seed=1)
    assert not there(added=1)
    assert not manifest.holds(picture.parent, "b", ("C",), {"seed": 0})
    assert not manifest.holds(picture.parent, "a", ("C", "D"), {"seed": 0})
    for name in ("sheet.png", "sheet_boxes.png", "C.png"):
        held = (tmp_path / "a" / name).read_bytes()
        (tmp_path / "a" / name).unlink()
        assert not there()
        (tmp_path / "a" / name).write_bytes(held)
    picture.write_bytes(b"cut")
    assert not there()


@pytest.mark.slow
def test_a_frame_that_cannot_be_generated_is_left_out_and_named(tiny: Path, narrow: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(narrow, tmp_path / "data")
    tokens = nuscenes.open(tmp_path / "data").samples()
    nuscenes.open(tmp_path / "data").frame(tokens[0]).cameras[0].image_path.unlink()
    options = ("--data", tmp_path / "data", *QUICK, "--strength", 0.5)
    said = generate(tiny, tmp_path / "all", *options, "--all", status=2).stderr.splitlines()
    assert tokens[0] in said[0]
    assert "is missing" in said[0]
    assert said[-1].startswith("error: 1 of 2 frames were not generated")
    assert {line["sample_token"] for line in lines(tmp_path / "all")} == {tokens[1]}
    # One frame alone is an error at once, and so is what is wrong whatever the frame.
    assert "is missing" in generate(tiny, tmp_path / "one", *options, status=2).stderr
    (said,) = generate(tiny, tmp_path / "none", *options, "--all", "--without", "box", status=2).stderr.splitlines()
    assert "did you mean 'boxes'" in said


@pytest.mark.slow
def test_a_frame_that_cannot_be_written_is_named_and_the_others_stay(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, real = nuscenes.open(data).samples(), Views.save

    def full(self: Views, folder: Path) -> Path:
        if self.frame.token == tokens[0]:
            raise CannotWrite("no space left")
        return real(self, folder)

    monkeypatch.setattr(Views, "save", full)
    said = generate(tiny, tmp_path / "all", "--data", data, *QUICK, "--all", status=2).stderr.splitlines()
    assert said[0] == f"not generated: {tokens[0]}: no space left"
    assert {line["sample_token"] for line in lines(tmp_path / "all")} == set(tokens[1:])
    assert "error: no space left" in generate(tiny, tmp_path / "one", "--data", data, *QUICK, status=2).stderr
    monkeypatch.undo()
    twice = generate(tiny, tmp_path / "all", "--data", data, *QUICK, "--sample", tokens[0], "--sample", tokens[0]).output
    assert "1 frames were there already" in twice


@pytest.mark.slow
def test_repeats_have_folders_of_their_own(tiny: Path, narrow: Path, tmp_path: Path) -> None:
    options = ("--data", narrow, *QUICK, "--seed", 3, "--repeats", 2)
    generate(tiny, tmp_path, *options)
    (token,) = (path.name for path in tmp_path.iterdir() if path.is_dir())
    assert sorted(path.name for path in (tmp_path / token).iterdir()) == ["3", "4"]
    assert {(line["seed"], line["file"].split("/")[1]) for line in lines(tmp_path)} == {(3, "3"), (4, "4")}
    assert "2 generations were there already" in generate(tiny, tmp_path, *options).output


@pytest.mark.slow
def test_two_loras_of_one_file_name_and_a_word(tiny: Path, narrow: Path, tmp_path: Path) -> None:
    import torch

    from drivegen import lora, words

    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    made = [lora.LoRA({"unet": {layer: (torch.randn(2, 64), torch.randn(64, 2))}}) for _ in range(2)]
    files = [lora.save(one, tmp_path / name) for one, name in zip(made, "ab", strict=True)]
    files += [words.save({"<cat>": torch.randn(2, 32)}, tmp_path / "words")]
    options = ("--data", narrow, *QUICK, "--lora", f"{files[0]}=0.5", "--lora", files[1], "--embedding", f"<wet>={files[2]}")
    generate(tiny, tmp_path / "out", *options)
    assert lines(tmp_path / "out")[0]["words"] == {"<wet>": 2}
    assert "were there already" in generate(tiny, tmp_path / "out", *options).output
    assert "is a file of LoRA; add it with --lora" in generate(tiny, tmp_path / "b", "--embedding", files[0], status=2).stderr
    assert list(lines(tmp_path / "out")[0]["loras"].values()) == [0.5, 1.0]
    assert sorted(lines(tmp_path / "out")[0]["added_sha256"].values()) == sorted(map(sha256, files))
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(files[0].read_bytes())
    for same in (files[0], copied):
        assert "twice" in generate(tiny, tmp_path / "b", "--lora", files[0], "--lora", f"{same}=2", status=2).stderr


@pytest.mark.slow
def test_foreign_words_steer_neither_terminal_nor_markup(tiny: Path, tmp_path: Path) -> None:
    import io
    import shutil

    from rich.console import Console

    from drivegen.cli.screen import Screen, complain

    nasty = "a\x1b[2J\x9b31m\u202e[/bold] [red]x[/red] :smile: \\[b] end"
    buffer = io.StringIO()
    screen = Screen(Console(file=buffer, width=200, force_terminal=True))
    screen.line(nasty, (nasty, "bold"))
    screen.table(("kind",), [(nasty,), (nasty,)])
    shown = buffer.getvalue()
    assert shown.count("\\x1b[2J\\x9b31m\\u202e[/bold] [red]x[/red] :smile: \\[b] end") == 4
    assert "\x1b[2J" not in shown
    complain(nasty)
    shutil.copytree(tiny, tmp_path / "model")
    index = json.loads((tmp_path / "model" / "drivegen.json").read_text())
    index["about"] = {f"[/b]{nasty}": nasty}
    index["versions"] = {nasty: "[/red]"}
    (tmp_path / "model" / "drivegen.json").write_text(json.dumps(index))
    said = run("info", tmp_path / "model").output
    assert "\x1b" not in said
    assert "[/bold]" in said
    assert "\x1b" not in generate(tiny, tmp_path / "out", "--sampler", nasty, status=2).stderr


def test_models_are_listed_with_what_was_measured_and_loaded_by_name(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drivegen.saved import embedded

    monkeypatch.setattr(embedded, "ASSETS", tmp_path)
    shutil.copytree(tiny, tmp_path / "first")
    shutil.copytree(tiny, tmp_path / "second")
    (tmp_path / "scene").mkdir()
    rows = [
        {"name": "vehicle_control", "column": column, "value": value} for column, value in (("all", 0.5), ("no_layout", 0.1))
    ]
    (tmp_path / "second" / "figures.json").write_text(json.dumps({"figures": rows}))
    # No weights are read: changed ones are not noticed.
    (tmp_path / "first" / "unet" / "diffusion_pytorch_model.safetensors").open("ab").write(b"more")
    said = " ".join(run("models").output.split())
    assert "first" in said
    assert "scene" not in said
    assert f"{SIZE[0]}x{SIZE[1]}" in said
    assert said.count("vehicle control 0.500") == said.count("nothing yet") == 1
    assert model.locate("second") == tmp_path / "second"
    (tmp_path / "second" / "figures.json").write_text('{"figures": [1]}')
    assert "figures must be a list" in run("models", status=2).stderr


def test_info(tiny: Path, tmp_path: Path) -> None:
    said = run("info", tiny).output
    count = sum(p.numel() for p in tiny_host().parameters())
    buffers = sum(v.numel() for v in tiny_host().state_dict().values()) - count
    assert f"{count + buffers:,}" in said
    assert all(f"plugins/{name}" in said for name in ALL)
    assert "ddim, 2 steps, guidance 3.0" in said
    assert "data: none" in said
    assert "training: settings recorded in drivegen.json" in said
    assert "77077" not in said
    tiny_host(("text",)).backbone.save(tmp_path / "sd")
    assert "ignores cameras, boxes and map" in run("info", tmp_path / "sd").output
    assert "no model at" in run("info", "/nowhere", status=2).stderr


def test_validate(data: Path, tmp_path: Path) -> None:
    assert "0 errors" in run("validate", data).output or "nothing wrong" in run("validate", data).output
    nuscenes.write([street_scene(1, "gamma")], tmp_path)
    table = tmp_path / "v1.0-mini" / "ego_pose.json"
    rows = json.loads(table.read_text())
    rows[0]["rotation"] = [0, 0, 0, 0]
    table.write_text(json.dumps(rows))
    assert rows[0]["token"] in run("validate", tmp_path, status=2).output
    assert "is not a folder" in run("validate", tmp_path / "nothing", status=2).stderr
    (tmp_path / "empty").mkdir()
    assert "no v1.0-* folder" in run("validate", tmp_path / "empty", status=2).stderr
    for row in rows:
        row["rotation"] = [0, 0, 0, 0]
    table.write_text(json.dumps(rows * 20))
    assert f"{len(rows):,} errors" in run("validate", tmp_path, status=2).output


def test_world_and_train_name_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("x")
    assert "is not empty" in run("world", tmp_path, status=2).stderr
    assert "HEIGHTxWIDTH" in run("world", tmp_path / "new", "--size", "big", status=2).stderr
    assert "nowhere.yaml" in run("train", tmp_path / "nowhere.yaml", status=2).stderr


# -- plugins --------------------------------------------------------------------------------------------------------------


def test_listing_says_what_the_classes_say() -> None:
    found = {entry.kind: entry for entry in listing.listed()}
    ours = [kind for kind, entry in registry.kinds().items() if entry.target.startswith("drivegen_plugins.")]
    assert set(ALL) < set(ours)
    shown = run("plugins").output
    for kind in ours:
        cls = registry.load(kind)
        assert found[kind].problem == ""
        assert list(found[kind].hooks) == [hook for hook in HOOKS if getattr(cls, hook) is not getattr(Plugin, hook)]
        named = [
            name for name, p in inspect.signature(cls).parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        assert [p.split("=")[0] for p in found[kind].parameters] == named
        assert kind in shown


def install(folder: Path, package: str, kind: str, target: str, source: str) -> None:
    (folder / f"{package}.py").write_text(source)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[drivegen.plugins]\n{kind} = {target}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_library\nclass Mine: pass\n", "line 1 imports 'no_such_library', which is not installed"),
        ("raise RuntimeError('no licence')\nclass Mine: pass\n", "raises on import: raise RuntimeError('no licence')"),
        ("class Mine(:\n", "SyntaxError"), ("class Other: pass\n", "has no class Mine"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_shown_and_breaks_nothing(tmp_path: Path, monkeypatch, source: str, reason: str) -> None:
    install(tmp_path, "broken_thing", "broken", "broken_thing:Mine", source)
    good = "from drivegen.plugin import Plugin\nclass Good(Plugin):\n    '''It is good.'''\n    def loss(self): ...\n"
    install(tmp_path, "good_thing", "good", "good_thing:Good", good)
    monkeypatch.syspath_prepend(tmp_path)
    found = {entry.kind: entry for entry in listing.listed()}
    assert reason in found["broken"].problem
    assert (found["good"].summary, found["good"].hooks, found["good"].origin) == ("It is good.", ("loss",), "good_thing 1.0")
    assert not {"broken_thing", "good_thing"} & set(sys.modules)
    assert not found["text"].problem
    assert "disabled" in run("plugins").output


def test_a_name_clash_and_a_missing_package_are_shown(tmp_path: Path, monkeypatch) -> None:
    install(tmp_path, "rival", "text", "rival:Text", "class Text: ...\n")
    install(tmp_path, "gone", "gone", "package_that_left:Gone", "")
    monkeypatch.syspath_prepend(tmp_path)
    found = {entry.kind: entry for entry in listing.listed()}
    assert "claimed more than once" in found["text"].problem
    assert "'package_that_left' is not installed" in found["gone"].problem
    assert not found["layout"].problem


def test_listing_needs_no_torch() -> None:
    modules = "[m for m in ('torch', 'drivegen_plugins') if m in sys.modules]"
    code = f"import sys; from drivegen.catalog import listing; listing.listed(); print({modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_every_command_imports_lazily() -> None:
    import drivegen.cli

    folder = Path(drivegen.cli.main.__file__).parent
    files = [folder / "command.py", *(folder / "commands").glob("*.py")]
    assert len(files) > 8
    trees = [ast.parse(path.read_text()) for path in files]
    top = {node.module for tree in trees for node in tree.body if isinstance(node, ast.ImportFrom)}
    light = {"support.cores", "support.errors", "support.signals", "cli", "cli.arguments", "cli.command", "cli.screen"}
    assert {name.removeprefix("drivegen.") for name in top if name and name.startswith("drivegen")} == light


def test_the_command_line_itself_imports_no_large_library() -> None:
    large = "('torch', 'numpy', 'diffusers', 'transformers', 'pytorch_lightning', 'nuscenes', 'cv2', 'PIL')"
    code = f"import sys, drivegen.cli.main; print([m for m in {large} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words", [["generate", "--out", ""], ["generate", "--out", "x", "--data", ""], ["world", " "], ["validate", ""]]
)
def test_an_empty_path_is_not_the_current_folder(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "is empty" in result.output
    assert not any(tmp_path.iterdir())


def test_a_manifest_that_is_no_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.jsonl")
    with pytest.raises(InputError, match="is no file"):
        Manifest(tmp_path)

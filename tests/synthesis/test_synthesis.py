from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from drivegen import datasets, synthesis
from drivegen.cli.main import app
from drivegen.datasets import nuscenes
from drivegen.export import export
from drivegen.pipeline.pipeline import Pipeline
from drivegen.sampling import Sampling
from drivegen.saved import model
from drivegen.support.errors import CannotWrite, InputError
from drivegen.support.locks import locked_folder
from drivegen.synthesis import Recipe, provenance, unit
from drivegen.synthesis.draws import seed_of
from tests.export.conftest import read
from tests.street import street_scene
from tests.tiny_hosts import SIZE, tiny_host

RECIPE = """
name: test
licence: CC BY 4.0
variants:
  edited:
    boxes:
      drop: [{classes: [pedestrian]}]
      move: [{classes: [car], forward_m: [2, 4]}, {classes: [truck], forward_m: [1, 2], on_lane: true}]
      swap: [{classes: [bicycle], to: motorcycle}]
    cameras: [{channel: CAM_BACK*, drop: true}, {channel: CAM_FRONT, yaw_deg: 5, focal: 1.5}, {channel: NONE, yaw_deg: 1}]
  night: {time: night, weather: rain, scales: {boxes: 0.5}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthesis") / "model"
    host = tiny_host(("text", "boxes"))
    return model.save(host, folder, Sampling(sampler="ddim", steps=1, guidance=1.0), image_size=SIZE, about={"data": "none"})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of two frames, with a sweep of a point in the middle of each box, and one on the road."""
    from dataclasses import replace

    from drivegen.scene import Scene

    folder = tmp_path_factory.mktemp("source")
    scenes = []
    for name in ("alpha", "beta"):
        scene, frames = street_scene(2, name), []
        for frame in scene.frames:
            lidar = (frame.global_SE3_ego @ frame.ego_SE3_lidar).inverse()
            places = np.array([box.global_SE3_object.translation for box in frame.boxes] + [[300.0, 306.0, 0.0]])
            points = np.zeros((len(places), 5), np.float32)
            points[:, :3] = lidar.transform(places)
            path = folder / f"{frame.token}.bin"
            path.write_bytes(points.tobytes())
            frames.append(replace(frame, lidar_path=path))
        scenes.append(Scene(name, tuple(frames), scene.description, scene.location))
    nuscenes.write(scenes, folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def arguments(root: Path, out: Path, recipe: Path, tiny: Path) -> list[str]:
    own = ["--model", str(tiny), "--dtype", "float32", "--device", "cpu", "--workers", "1"]
    return ["synthesize", str(root), str(out), "--recipe", str(recipe), *own]


def synthesize(root: Path, out: Path, recipe: Path, tiny: Path, *more: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, [*arguments(root, out, recipe, tiny), *more])
    assert result.exit_code == status, (result.output, result.exception)
    return " ".join(result.output.split())


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(root: Path, recipe: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out ü"
    assert "8 of 8 frames" in synthesize(root, out, recipe, tiny)
    return out


def test_the_plan_writes_nothing(root: Path, recipe: Path, tiny: Path, tmp_path: Path) -> None:
    said = synthesize(root, tmp_path / "out", recipe, tiny, "--plan")
    assert "8 frames in 4 scenes: 36 images of 64x112" in said
    assert "2 × edited: cameras: no camera 'NONE'" in said  # once per scene
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_devkit_opens_and_renders_it(made: Path, tmp_path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from nuscenes.nuscenes import NuScenes
    from nuscenes.utils.splits import get_scenes_of_split

    devkit = NuScenes("v1.0-mini", str(made), verbose=False)
    assert [row["name"] for row in devkit.scene] == ["alpha__edited", "alpha__night", "beta__edited", "beta__night"]
    assert sorted(get_scenes_of_split("synthetic_train", devkit)) == sorted(row["name"] for row in devkit.scene)
    assert {row["vehicle"] for row in devkit.log} == {"generated"}
    sample = devkit.sample[0]
    devkit.render_sample_data(sample["data"]["CAM_FRONT"], out_path=str(tmp_path / "front.png"), verbose=False)
    devkit.render_sample_data(sample["data"]["LIDAR_TOP"], out_path=str(tmp_path / "above.png"), verbose=False)
    devkit.render_annotation(sample["anns"][0], out_path=str(tmp_path / "box.png"))
    devkit.list_sample(sample["token"])
    assert all((tmp_path / name).stat().st_size > 0 for name in ("above.png", "box.png"))
    for row in devkit.instance:  # tracks are closed
        chain, token = [], row["first_annotation_token"]
        while token:
            chain.append(token)
            token = devkit.get("sample_annotation", token)["next"]
        assert len(chain) == row["nbr_annotations"]
        assert chain[-1] == row["last_annotation_token"]


def test_annotations_and_calibration_follow_the_edits(made: Path, root: Path) -> None:
    before, after = nuscenes.open(root), nuscenes.open(made)
    for old, new in zip(before.scene("alpha").frames, after.scene("alpha__edited").frames, strict=True):
        assert set(new.channels) == {"CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"}
        assert {box.detection_class for box in new.boxes} == {"car", "truck", "motorcycle", "barrier", None}
        camera, was = new.camera("CAM_FRONT"), old.camera("CAM_FRONT")
        assert (camera.height_px, camera.width_px) == SIZE
        assert camera.K_native[0, 0] == pytest.approx(1.5 * was.resized(*SIZE[::-1]).K_image[0, 0])
        assert camera.yaw_rad == pytest.approx(was.yaw_rad + np.radians(5))
        assert not {box.token for box in old.boxes} & {box.token for box in new.boxes}
    cars = [next(box for box in frame.boxes if box.detection_class == "car") for frame in after.scene("alpha__edited").frames]
    olds = [frame.box("car-a") for frame in before.scene("alpha").frames]
    steps = [(a.global_SE3_object.inverse() @ b.global_SE3_object).translation for a, b in zip(olds, cars, strict=True)]
    assert 2 <= steps[0][0] <= 4
    np.testing.assert_allclose(steps[0], steps[1], atol=1e-9)  # one move for the whole track
    night = after.scene("alpha__night")
    assert night.description == "Night, rain. A street by hand"
    for old, new in zip(before.scene("alpha").frames, night.frames, strict=True):
        assert old.lidar_path is not None
        assert new.lidar_path is not None
        assert new.lidar_path.read_bytes() == old.lidar_path.read_bytes()


def test_points_follow_the_boxes(made: Path) -> None:
    for frame in nuscenes.open(made).scene("beta__edited").frames:
        counts = {box.detection_class: box.num_lidar_pts for box in frame.boxes}
        assert counts["car"] == counts["truck"] == counts["motorcycle"] == 1
        assert frame.lidar_path is not None
        assert len(np.fromfile(frame.lidar_path, np.float32)) % 5 == 0


def texts(value: object) -> Iterator[str]:
    """Every text in a file that was read."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from [item] if isinstance(item, str) else texts(item)


@pytest.mark.parametrize("form", ["bevformer", "bevfusion", "coco", "mmdet3d", "streampetr"])
def test_it_is_exported_for_training(made: Path, tmp_path: Path, form: str) -> None:
    data = nuscenes.open(made)
    report = export(made, tmp_path, form, prefix=str(made))
    boxes = sum(len(frame.boxes) for scene in data.scenes for frame in data.scene(scene).frames)
    assert {(split, scenes, samples) for _, split, scenes, samples, _ in report.files} == {("train", 4, 8)}
    assert all(0 < count <= boxes for *_, count in report.files)
    pictures = {Path(path).name for path in contents(made) if path.endswith(".png") and path.startswith("samples")}
    for name, *_ in report.files:
        found = json.loads((tmp_path / name).read_text()) if name.endswith("json") else read(tmp_path / name)
        named = set(texts(found))
        assert {Path(text).name for text in named if text.endswith(".png")} == pictures
        assert all(Path(text).is_file() for text in named if text.startswith(f"{made}/"))


def test_every_image_says_where_it_comes_from(made: Path, root: Path) -> None:
    lines = [json.loads(text) for text in (made / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 2 * (3 + 6)
    source = nuscenes.open(root)
    for line in lines:
        own = {key: value for key, value in line.items() if key not in ("file", "sha256")}
        assert provenance.read(made / line["file"]) == own
        assert line["seed"] == seed_of(0, line["source_sample"], line["variant"]) < 2**63
        assert line["source_sample"] in source.samples(line["source_scene"])
        assert (line["recipe"], line["source_licence"]) == ("test", "CC BY 4.0")
        assert line["scales"]["boxes"] == (0.5 if line["variant"] == "night" else 1.0)
    everything = b"".join(contents(made).values())
    for foreign in (str(root), str(root.parent), str(made)):
        assert foreign.encode() not in everything
    with Image.open(made / lines[0]["file"]) as image:
        assert image.size == (SIZE[1], SIZE[0])


def test_verify(made: Path, tmp_path: Path) -> None:
    def verified(out: Path) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["verify", str(out)])
        return result.exit_code, " ".join(result.output.split())

    assert synthesis.verify(made) == ()
    assert verified(made)[0] == 0
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    picture = sorted((copy / "samples" / "CAM_FRONT").iterdir())[0]
    data = picture.read_bytes()
    with Image.open(picture) as image:
        image.save(picture)
    status, said = verified(copy)
    assert status == 2
    assert f"{picture.name} is not as it was written" in said
    assert "says something else of itself" in said
    picture.write_bytes(data)
    (copy / "samples" / "CAM_FRONT" / "more.png").write_bytes(data)
    assert "more.png is not of this dataset" in verified(copy)[1]
    (copy / "samples" / "CAM_FRONT" / "more.png").unlink()
    assert verified(copy)[0] == 0
    with pytest.raises(InputError, match=r"no plan\.json"):
        synthesis.verify(tmp_path)


@pytest.mark.slow
def test_stopped_and_resumed_gives_the_same_bytes(
    made: Path, root: Path, recipe: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    real, left = unit.write_atomically, [13]

    def failing(path: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise CannotWrite("no space left")
        real(path, data)

    monkeypatch.setattr(unit, "write_atomically", failing)
    assert "no space left" in synthesize(root, out, recipe, tiny, status=2)
    monkeypatch.undo()
    with pytest.raises(InputError, match="is not finished: 2 of 8"):
        synthesis.verify(out)
    for path in sorted((out / "samples" / "CAM_FRONT").iterdir())[:1]:
        path.write_bytes(b"")  # what a loss of power leaves
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.replace("forward_m: [2, 4]", "forward_m: [2, 5]"))
    assert "boxes.move was" in synthesize(root, out, other, tiny, status=2)
    assert "7 of 8 frames" in synthesize(root, out, recipe, tiny)
    assert contents(out) == contents(made)
    assert "was whole already" in synthesize(root, out, recipe, tiny)
    assert contents(out) == contents(made)


def test_sigterm_finishes_the_frame(
    root: Path, recipe: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = unit.write_atomically

    def ended(path: Path, data: bytes) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        real(path, data)

    monkeypatch.setattr(unit, "write_atomically", ended)
    synthesize(root, tmp_path / "out", recipe, tiny, status=143)
    with pytest.raises(InputError, match=r"is not finished: [12] of 8"):  # written while the second was computed
        synthesis.verify(tmp_path / "out")


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bytes(made: Path, root: Path, recipe: Path, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "drivegen.cli.main", *arguments(root, out, recipe, tiny)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    units = out / ".synthesis" / "units"
    until = time.monotonic() + 60
    while not (units.is_dir() and list(units.glob("*.json"))) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait(60)
    assert 0 < len(list(units.glob("*.json"))) < 8
    assert "8 frames generated" in synthesize(root, out, recipe, tiny)
    assert contents(out) == contents(made)


@pytest.mark.slow
def test_what_is_refused(root: Path, recipe: Path, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked_folder(out):
        assert "another run" in synthesize(root, out, recipe, tiny, status=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    assert "holds 'notes'" in synthesize(root, tmp_path / "full", recipe, tiny, status=2)
    assert (tmp_path / "full" / "notes").read_text() == "mine"
    bad = tmp_path / "bad.yaml"
    for old, new, said in (
        ("scales: {boxes", "scales: {bxoes", "bxoes"), ("classes: [car]", "classes: [cra]", "did you mean 'car'"),
        ("forward_m: [2, 4]", "forward_m: [4, 2]", "the lowest comes first"), ("name: test", "name: a/b", "cannot name"),
        ("yaw_deg: 5", "yaw: 5", "unknown setting"), ("CAM_BACK*, drop", "'*', drop", "0 cameras"),
        ("name: test", "name: test\nscenes: [gamma]", "gamma"), ("  night:", "  edited-0: {}\n  night:", ""),
    ):  # fmt: skip
        bad.write_text(RECIPE.replace(old, new))
        if said:
            assert said in synthesize(root, out, bad, tiny, status=2)
    assert not out.exists()


def test_scenes_of_the_validation_split_are_refused(tmp_path: Path, tiny: Path) -> None:
    nuscenes.write([street_scene(1, "scene-0003")], tmp_path / "data")  # one of nuScenes' validation split
    source, pipe = datasets.open(tmp_path / "data"), Pipeline.from_pretrained(tiny, "cpu", "float32")
    recipe = Recipe.read(_recipe(tmp_path, ""))
    with pytest.raises(InputError, match="leakage"):
        synthesis.plan.make(source, recipe, pipe, 1)
    allowed = Recipe.read(_recipe(tmp_path, "validation_scenes: true\nimages: jpeg"))
    planned = synthesis.plan.make(source, allowed, pipe, 1)
    assert synthesis.synthesize(source, tmp_path / "out", allowed, pipe, planned) == 2
    assert json.loads((tmp_path / "out" / "v1.0-mini" / "splits.json").read_text()) == {
        "synthetic_val": ["scene-0003__a-0", "scene-0003__a-1"]
    }
    assert synthesis.verify(tmp_path / "out") == ()
    with pytest.raises(InputError, match="leakage"):  # what was made of it is known by its own splits
        synthesis.plan.make(datasets.open(tmp_path / "out"), recipe, pipe, 1)
    (tmp_path / "out" / "v1.0-mini" / "splits.json").write_text('{"synthetic_val": "all"}')
    with pytest.raises(InputError, match="must hold lists of scene names"):
        synthesis.plan.make(datasets.open(tmp_path / "out"), recipe, pipe, 1)


def _recipe(folder: Path, more: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(f"name: own\n{more}\nvariants:\n  a: {{seeds: 2}}\n")
    return path

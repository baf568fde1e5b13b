"""Recorded frames edited on the command line: boxes, prompt, the noise of the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from drivegen.cli.edit import Edits, read_move
from drivegen.cli.main import app
from drivegen.sampling import Sampling
from drivegen.saved import model
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from tests.tiny_hosts import SIZE, tiny_host


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    host = tiny_host(("text", "boxes"), prediction_type="v_prediction")
    return model.save(host, tmp_path_factory.mktemp("models") / "m", Sampling("ddim", 2, 1.0), image_size=SIZE)


def test_boxes_are_moved_and_taken_away() -> None:
    one = frame(0, 2)
    first, second = one.boxes[0].instance, one.boxes[1].instance
    edited = Edits(move=(f"{first}=2.5,-1",), remove=(second,)).apply(one)
    expected = one.move_box(first, 2.5, -1.0).box(first).global_SE3_object.matrix
    assert np.array_equal(edited.box(first).global_SE3_object.matrix, expected)
    assert [box.instance for box in edited.boxes] == [box.instance for box in one.boxes if box.instance != second]
    with pytest.raises(InputError, match="nobody"):
        Edits(remove=("nobody",)).apply(one)
    for wrong in ("", "a", "a=1", "=1,2", "a=x,1", "a=1,2,3", "a=inf,0"):
        with pytest.raises(InputError, match="--move"):
            read_move(wrong)


@pytest.mark.slow
def test_it_keeps_the_pictures_noise(small: Path, tmp_path: Path) -> None:
    def run(name: str, *more: str) -> list[np.ndarray]:
        done = CliRunner().invoke(app, ["edit", "--out", str(tmp_path / name), "--model", str(small), *more])
        assert done.exit_code == 0, done.output
        (folder,) = (tmp_path / name).glob("*/")
        return [np.asarray(Image.open(file)).astype(float) for file in sorted(folder.glob("CAM_*.png"))]

    day, night = run("day", "--invert", "--prompt", "Day."), run("night", "--invert", "--prompt", "Night.")
    other = run("other", "--prompt", "Day.", "--seed", "3")
    assert len(day) == len(night) == len(other) > 1
    assert all(a.shape == (*SIZE, 3) for a in day)
    assert np.mean([np.abs(a - b).mean() for a, b in zip(day, night, strict=True)]) > 0
    assert np.mean([np.abs(a - b).mean() for a, b in zip(day, other, strict=True)]) > 0


def test_nothing_to_edit_and_bad_input_end_with_a_sentence(small: Path, tmp_path: Path) -> None:
    for wrong, said in (
        ([], "nothing is to be edited"), (["--move", "a"], "--move"), (["--remove", "nobody"], "nobody"),
        (["--prompt", "Day.", "--sample", "x"], "--data"),
    ):  # fmt: skip
        done = CliRunner().invoke(app, ["edit", "--out", str(tmp_path / "out"), "--model", str(small), *wrong])
        assert done.exit_code == 2, done.output
        assert said in done.output + (done.stderr or "")
        assert not (tmp_path / "out").exists()

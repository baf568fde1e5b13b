"""`drivegen plugins preview`: files that are looked at, and input that is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from drivegen import world
from drivegen.cli.main import app
from drivegen.saved import model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (model.TINY / "drivegen.json").is_file(), reason="the embedded model is not there"),
]


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("preview") / "city"
    world.write(root, scenes=1, frames=1, seed=0, size=(64, 112), workers=1)
    return root


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["plugins", "preview", *map(str, words)])
    return done.exit_code, " ".join(done.output.split())


def test_a_plugin_of_the_model(city: Path, tmp_path: Path) -> None:
    status, said = run("layout", "--data", city, "--out", tmp_path, "--steps", 1)
    assert status == 0, said
    assert "box_class 6x128x224 uint8" in said
    sheets = [np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("with", "null", "absent")]
    assert all(np.abs(a - b).max() > 8 for a, b in ((sheets[0], sheets[1]), (sheets[1], sheets[2])))
    assert Image.open(tmp_path / "prepared.png").width == 6 * 248 + 8
    assert "depth_m (6, 128, 224) float16" in (tmp_path / "arrays.txt").read_text()


def test_a_plugin_that_the_model_does_not_have(city: Path, tmp_path: Path) -> None:
    status, said = run("concat", "--data", city, "--out", tmp_path, "--options", "picture=depth")
    assert status == 0, said
    assert "tiny has no concat: no views are generated" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arrays.txt", "prepared.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("layuot",), "no plugin kind 'layuot' is installed"),
        (("layout", "--options", "width=1"), "tiny has layout with options of its own; leave out --options"),
        (("layout", "--sample", "nobody"), "no sample 'nobody'"),
        (("layout", "--input", "layout=1"), "plugin 'layout' takes no input"),
        (("layout", "--model", "/nowhere"), "/nowhere"),
    ],
)
def test_bad_input(words: tuple[str, ...], said: str, city: Path, tmp_path: Path) -> None:
    status, found = run(*words, "--data", city, "--out", tmp_path / "out")
    assert status == 2, found
    assert said in found
    assert not (tmp_path / "out").exists()

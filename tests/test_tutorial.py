"""The tutorial's plugin, made as its page says, in a fresh environment: checked, trained, measured, published."""

from __future__ import annotations

import json
import os
import re
import site
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from drivegen import world
from drivegen.catalog.scaffold import new_package
from drivegen.datasets import nuscenes
from drivegen.saved import model

HOUSE = Path(__file__).parents[1]
PAGE = (HOUSE / "docs" / "tutorial.md").read_text(encoding="utf-8")
MODULE = re.search(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]

CARRY_OUT = """
import json, sys
from drivegen.cli.main import app
from typer.testing import CliRunner

for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words)
    print(words, done.exit_code, done.output)
    if done.exit_code or done.exception:
        raise SystemExit(f"{words} ends with {done.exit_code}: {done.exception!r}")
"""
"""Commands of drivegen, one after the other in one process: the environment is imported once."""


def test_the_module_is_short() -> None:
    assert len([line for line in MODULE.splitlines() if line.strip()]) < 80


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Make an environment that has this one's packages, this checkout, and nothing installed of its own."""
    venv.create(tmp_path / "fresh", with_pip=False)
    (packages,) = (tmp_path / "fresh" / "lib").glob("python*/site-packages")
    paths = [str(HOUSE), str(HOUSE / "plugins"), *site.getsitepackages()]
    (packages / "shared.pth").write_text("\n".join(paths) + "\n")
    return tmp_path / "fresh" / "bin" / "python"


@pytest.mark.slow
@pytest.mark.skipif(not (model.TINY / "drivegen.json").is_file(), reason="the embedded model is not there")
def test_its_package_is_installed_and_all_of_it_is_done(python: Path, tmp_path: Path) -> None:
    package = new_package("ego_path", "residuals", tmp_path / "drivegen-ego-path")
    (package / "drivegen_ego_path.py").write_text(MODULE)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1"}
    pip = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--target"]
    (packages,) = (tmp_path / "fresh" / "lib").glob("python*/site-packages")
    subprocess.run([*pip, packages, package], check=True, env=env, capture_output=True, text=True)

    city = package / "data" / "city"
    world.write(city, scenes=2, frames=4, seed=0, size=(64, 112), workers=1)
    folder, saved = "runs/ego_path/model", "runs/ego_path/model/plugins/ego_path"
    (package / "data" / "paths").mkdir()
    for token in nuscenes.open(city).samples():
        np.save(package / "data" / "paths" / f"{token}.npy", np.array([[3.0, 0], [6, 0.5], [9, 1.5]], np.float32))
    np.save(package / "left.npy", np.array([[4.0, 0.2], [7.5, 1.0], [10.5, 2.5]]))
    small = ["train.images=6", "data.size=[64,112]", "train.warmup=0", "logger=[]"]
    few = ["--data", "data/city", "--steps", "1", "--seed", "0"]
    commands = [
        ["plugins", "check", "ego_path"],
        ["plugins", "preview", "ego_path", "--data", "data/city", "--out", "out/preview"],
        ["train", "train.yaml", *small, "train.steps=3", "data.cache=data/cache"],
        ["train", "train.yaml", *small, "train.steps=1", "data.extras.ego_path=data/paths", "output=runs/drawn"],
        ["evaluate-condition", "ego_path", "--model", folder, "--data", "data/city", "--out", "out/obedience"],
        ["generate", "--plugin", f"ego_path={saved}", *few, "--out", "out/with"],
        ["generate", "--plugin", f"ego_path={saved}", *few, "--input", "ego_path=left.npy", "--out", "out/left"],
    ]  # fmt: skip
    done = subprocess.run(
        [python, "-c", CARRY_OUT, json.dumps(commands)], cwd=package, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ego_path: 18 of 18 promises hold, on two built-in frames, the networks of tiny" in done.stdout
    assert (package / "out" / "preview" / "prepared.png").is_file()

    (found,) = json.loads((package / "out" / "obedience" / "obedience.json").read_text())["plugins"]
    assert found["frames"] > 0 < found["unknown"], "frames at the scenes' ends are unknown"
    assert found["error"]["own"]["value"] > 0
    tokens = {k: v for k, v in load_file(package / saved / "model.safetensors").items() if k.startswith(("project.", "null"))}
    host = sum(
        path.stat().st_size for part in ("unet", "vae", "text_encoder") for path in (model.TINY / part).rglob("*.safetensors")
    )
    assert len(tokens) == 3
    assert sum(value.nbytes for value in tokens.values()) < 0.01 * host
    pictures = [sorted((package / "out" / name).rglob("*.png")) for name in ("with", "left")]
    assert any(a.read_bytes() != b.read_bytes() for a, b in zip(*pictures, strict=True))

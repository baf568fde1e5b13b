"""scripts/setup.sh makes the environment, also where an earlier attempt was interrupted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[1] / "scripts" / "setup.sh"


@pytest.mark.slow
def test_an_environment_without_pip_is_completed(tmp_path: Path) -> None:
    """What an interrupted `python -m venv` leaves: a Python, no pip. The installation needs a network and is not run."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SETUP, tmp_path / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    pip = [str(tmp_path / ".venv/bin/python"), "-m", "pip", "--version"]
    assert subprocess.run(pip, capture_output=True, check=False).returncode
    stamp = subprocess.run("cat pyproject.toml constraints.txt | sha256sum", shell=True, cwd=tmp_path, capture_output=True)
    (tmp_path / ".venv/.drivegen-installed").write_bytes(stamp.stdout.split()[0] + b"\n")
    done = subprocess.run(
        ["bash", "scripts/setup.sh"], cwd=tmp_path, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    subprocess.run(pip, capture_output=True, check=True)

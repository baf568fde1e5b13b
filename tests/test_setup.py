"""scripts/setup.sh makes the environment, also where an earlier attempt was interrupted, and the Dockerfile runs it."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
SETUP = HOUSE / "scripts" / "setup.sh"


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


def instructions() -> list[tuple[str, str]]:
    lines = (HOUSE / "Dockerfile").read_text(encoding="utf-8").splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line and not line.startswith("#")]


def test_the_dockerfile_has_the_steps_of_the_setup() -> None:
    found = instructions()
    (base,) = (rest for word, rest in found if word == "FROM")
    version = re.fullmatch(r"python:3\.(\d+)-slim", base)
    assert version, base
    assert 11 <= int(version[1]) < 13, "setup.sh refuses other versions"
    assert [rest for word, rest in found if word == "RUN"] == ["bash scripts/setup.sh"]
    assert ("COPY", ". .") in found
    (folder,) = (rest for word, rest in found if word == "WORKDIR")
    assert ("ENV", f'PATH="{folder}/.venv/bin:$PATH"') in found
    (command,) = (rest for word, rest in found if word == "CMD")
    assert (HOUSE / re.findall(r"[\w/]+\.sh", command)[0]).is_file()


def test_docker_gets_what_git_tracks_and_nothing_that_it_ignores() -> None:
    ignored = [line for line in (HOUSE / ".dockerignore").read_text(encoding="utf-8").split() if line != ".git"]
    for pattern in (HOUSE / ".gitignore").read_text(encoding="utf-8").split():
        assert pattern in ignored or f"**/{pattern}" in ignored, f".dockerignore lacks {pattern}"
    done = subprocess.run(["git", "ls-files"], cwd=HOUSE, capture_output=True, text=True, check=False)
    for path in done.stdout.splitlines():
        parts = [path[: match.start()] for match in re.finditer("/", path)]
        for pattern in ignored:
            bare = pattern.strip("/").removeprefix("**/")
            names = [part.rpartition("/")[2] if pattern.startswith("**/") else part for part in parts]
            assert not any(fnmatch.fnmatch(name, bare) for name in names), f"{pattern} leaves out {path}"


@pytest.mark.slow
def test_the_image_is_built() -> None:
    """Where a Docker daemon runs and has or can get the base image; minutes, and about what a fresh environment weighs."""
    (base,) = (rest for word, rest in instructions() if word == "FROM")

    def docker(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["docker", *words], cwd=HOUSE, capture_output=True, text=True, check=False)

    if shutil.which("docker") is None or docker("info").returncode:
        pytest.skip("no Docker daemon")
    if docker("image", "inspect", base).returncode and docker("pull", base).returncode:
        pytest.skip(f"{base} is not here and cannot be fetched")
    built = docker("build", "--quiet", "--tag", "drivegen-test", ".")
    assert built.returncode == 0, built.stderr
    shown = docker("run", "--rm", "drivegen-test", "drivegen", "plugins")
    assert shown.returncode == 0, shown.stderr
    assert "layout" in shown.stdout

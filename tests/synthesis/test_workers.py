"""One dataset, whoever makes it: many workers, killed at random, on Ray, with a full disk, with frames that always fail."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from drivegen import datasets, synthesis
from drivegen.datasets import nuscenes
from drivegen.pipeline.pipeline import Pipeline
from drivegen.support import files
from drivegen.synthesis import Recipe, unit
from drivegen.workers.process import Work
from tests.processes import workers_of
from tests.synthesis.test_synthesis import arguments, contents, made, recipe, root, synthesize, tiny

__all__ = ["made", "recipe", "root", "tiny"]  # fixtures

ENGINES = ["local", "ray"]


def poisoned(given: Mapping[str, Any]) -> Work:
    """Begin as every worker does, but one frame ends its process."""
    make = unit.begin(given)

    def work(job: Any, beat: Any) -> Any:
        if job["number"] == 1 and job["label"] == "night" and job["scene"] == "alpha":
            os._exit(3)
        return make(job, beat)

    return work


def needs(engine: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_workers_make_the_same_bytes(engine: str, made: Path, root: Path, recipe: Path, tiny: Path, tmp_path: Path) -> None:
    needs(engine)
    out = tmp_path / "out"
    assert "8 of 8 frames" in synthesize(root, out, recipe, tiny, "--workers", "2", "--engine", engine)
    assert contents(out) == contents(made)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_kills_at_random_moments_change_nothing(
    engine: str, made: Path, root: Path, recipe: Path, tiny: Path, tmp_path: Path
) -> None:
    needs(engine)
    out, chance = tmp_path / "out", random.Random(engine)
    more = ["--device", "cpu,cpu"] if engine == "local" else ["--engine", "ray", "--workers", "2"]
    command = [sys.executable, "-m", "drivegen.cli.main", *arguments(root, out, recipe, tiny), *more]
    units = out / ".synthesis" / "units"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for driver in (False, True):  # first a worker, then, once the others went on, the whole run
        before, until = len(list(units.glob("*.json"))) if units.is_dir() else 0, time.monotonic() + 150
        while time.monotonic() < until and process.poll() is None:
            if units.is_dir() and len(list(units.glob("*.json"))) > before:
                break
            time.sleep(0.02)
        time.sleep(chance.random() * 0.1)
        for number in [process.pid] if driver else workers_of(process.pid)[:1]:
            with suppress(ProcessLookupError):  # one that has just ended by itself
                os.kill(number, signal.SIGKILL)
    process.wait(60)
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert contents(out) == contents(made)
    assert synthesis.verify(out) == ()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_frame_that_ends_its_process_is_set_aside(
    engine: str, made: Path, root: Path, recipe: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(engine)
    import drivegen.synthesis.run as run

    out, real = tmp_path / "out", unit.begin
    monkeypatch.setattr(run, "TARGET", "tests.synthesis.test_workers:poisoned")
    said = synthesize(root, out, recipe, tiny, "--workers", "2", "--engine", engine, status=1)
    assert "1 of 8 frames failed three times and were set aside" in said
    assert "as alpha__night: its " in said
    assert "the dataset is complete without them" in said
    assert {problem.message.split(";")[0] for problem in synthesis.verify(out)} == {"1 of 8 frames failed and were set aside"}
    assert {problem.severity for problem in synthesis.verify(out)} == {"warning"}
    data = nuscenes.open(out)
    assert [len(data.samples(scene)) for scene in data.scenes] == [2, 1, 2, 2]
    assert [job["label"] for job in json.loads((out / "set_aside.json").read_text())] == ["night"]
    monkeypatch.undo()
    assert real is unit.begin
    assert "1 of 8 frames generated" in synthesize(root, out, recipe, tiny, "--workers", "1")
    assert contents(out) == contents(made)


def test_frames_that_fail_are_set_aside_in_the_plain_case(
    root: Path, recipe: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = unit.provenance, []

    def failing(plan: Any, varied: Any, number: int, *more: Any) -> Any:
        if varied.scene.name == "beta__edited" and number == 0:
            tries.append(number)
            raise RuntimeError("out of luck")
        return real(plan, varied, number, *more)

    monkeypatch.setattr(unit, "provenance", failing)
    said = synthesize(root, tmp_path / "out", recipe, tiny, "--workers", "1", status=1)
    assert "1 of 8 frames failed three times" in said
    assert "RuntimeError: out of luck" in said
    assert len(tries) == 3
    monkeypatch.setattr(unit, "provenance", lambda *given: failing(given[0], given[1], 0))
    assert "RuntimeError" in synthesize(root, tmp_path / "out", recipe, tiny, "--workers", "1", status=1)


def test_a_full_disk_ends_the_run_and_loses_nothing(
    root: Path, recipe: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = files.os.fsync, [25]

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    out = tmp_path / "out"
    assert "No space left" in synthesize(root, out, recipe, tiny, "--workers", "1", status=2)
    monkeypatch.undo()
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]
    monkeypatch.setattr("drivegen.synthesis.run.SPARE_BYTES", 10**18)
    assert "GB free, and about" in synthesize(root, out, recipe, tiny, "--workers", "1", status=2)


@pytest.mark.slow
def test_two_drivers_at_once(
    made: Path, root: Path, recipe: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out", unit.provenance
    seconds: list[subprocess.CompletedProcess[str]] = []

    def meanwhile(*given: Any) -> Any:
        if not seconds:
            command = [sys.executable, "-m", "drivegen.cli.main", *arguments(root, out, recipe, tiny)]
            seconds.append(subprocess.run(command, capture_output=True, text=True, timeout=200, check=False))
        return real(*given)

    monkeypatch.setattr(unit, "provenance", meanwhile)
    assert "8 of 8 frames generated" in synthesize(root, out, recipe, tiny)
    (second,) = seconds
    assert second.returncode == 2
    assert "another run" in second.stderr
    assert contents(out) == contents(made)


@pytest.mark.slow
def test_sigterm_finishes_the_frames_of_all_workers(root: Path, recipe: Path, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "drivegen.cli.main", *arguments(root, out, recipe, tiny), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    units, until = out / ".synthesis" / "units", time.monotonic() + 100
    while not (units.is_dir() and list(units.glob("*.json"))) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.terminate()
    assert process.wait(60) == 143
    assert process.stderr is not None
    lines = [json.loads(line) for line in process.stderr.read().splitlines() if line.startswith("{")]
    assert {"done", "total", "per_s", "left_s"} <= lines[-1].keys()  # progress, as there is no terminal
    assert 0 < len(list(units.glob("*.json"))) < 8
    pictures = {path.name for path in (out / "samples").rglob("*.png")}
    recorded = {Path(name).name for unit in units.glob("*.json") for name in json.loads(unit.read_text())["files"]}
    assert pictures == {name for name in recorded if name.endswith(".png")}  # no frame by halves


def test_another_process_reads_the_recipe_as_it_is(root: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("a garbage truck")
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\nsteps: 1\nscenes: [alpha]\nvariants:\n  a:\n    scales: {boxes: 0.5}\n"
        "    boxes: {drop: [{classes: [car]}]}\n"
        "    inputs: {text: {prompt: {file: note.txt}}}\n    cameras: [{channel: CAM_BACK, drop: true}]\n"
    )
    source, pipe = datasets.open(root), Pipeline.from_pretrained(tiny, "cpu", "float32")
    own = Recipe.read(path)
    plan = synthesis.plan.make(source, own, pipe, 1)
    (tmp_path / "out").mkdir()
    plan.begin(tmp_path / "out")
    given = json.loads(json.dumps(unit.setup(source, tmp_path / "out", own, pipe, plan, "cpu")))
    units = unit.begin(given).__self__  # type: ignore[attr-defined]
    assert units.recipe == own
    assert units.plan.facts == plan.facts


def test_what_is_asked_of_workers_is_checked(root: Path, recipe: Path, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for more, said in (
        (("--engine", "dask"), "none of local, ray"), (("--address", "auto"), "--engine ray"),
        (("--device", "cpu,meta"), "not on this machine"), (("--workers", "0"), "--workers"),
    ):  # fmt: skip
        assert said in synthesize(root, out, recipe, tiny, *more, status=2)
    assert not out.exists()

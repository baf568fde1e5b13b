"""Train the embedded model within a given time: data, first stage, model; each call goes on where the last one ended.

The first call shares its time among the three; what it decides is written to plan.json and stays. Every later call gives all of
its time to what is not done, and when everything is, to more steps of the model. A call ends with the learning rate at its end
where the time suffices, so the model that it writes is the best so far.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from common import run

from drivegen import training
from drivegen.support.errors import InputError
from drivegen.support.files import write_json
from drivegen.support.signals import raised_by_sigterm
from drivegen.training import checkpoint

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DATA_SHARE, FIRST_STAGE_SHARE = 0.15, 0.25
"""Of the first call's time; the rest is the model's."""
MARGIN_S = 60.0
"""Kept for writing the last checkpoint and the model."""
PROBE_STEPS = 60
"""So many steps are timed before the number of steps is chosen."""
FIRST_STAGE_STEPS = (200, 12_000)
FIRST_SEED = 71_000
"""Of the data's cities: the measured seeds (20261 and such) are none of them."""


@dataclass
class Plan:
    """What earlier calls decided and reached."""

    seeds: list[int] = field(default_factory=list)
    """Cities that are complete, in `data/city_<seed>`."""
    data_done: bool = False
    first_stage_steps: int | None = None
    model_steps: int = 0
    seconds_per_step: float | None = None


class OutOfTime(Exception):
    """The call's time is over; what was begun is kept."""


def main(
    minutes: Annotated[float, typer.Option(help="time that the call may take")],
    out: Annotated[Path, typer.Option(help="folder of data, runs and plan")] = Path("runs/embedded"),
    frames: Annotated[int, typer.Option(help="the most frames of data")] = 3000,
    scenes: Annotated[int, typer.Option(help="scenes of two frames per city")] = 50,
    images: Annotated[int | None, typer.Option(help="pictures per step of the model; 24, on a GPU 96, if left out")] = None,
) -> None:
    if minutes <= 0 or frames < 1 or scenes < 1 or (images is not None and images < 1):
        raise InputError(f"--minutes {minutes:g}, --frames {frames}, --scenes {scenes}, --images {images} must be above 0")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are begun without it
    began = time.monotonic()
    deadline = began + minutes * 60
    out.mkdir(parents=True, exist_ok=True)
    plan = _read(out / "plan.json")
    try:
        with raised_by_sigterm():
            _data(out, plan, frames, scenes, began + minutes * 60 * DATA_SHARE, deadline)
            roots = [str(out / "data" / f"city_{seed}") for seed in plan.seeds]
            _first_stage(out, plan, roots, minutes * 60 * FIRST_STAGE_SHARE, deadline)
            _model(out, plan, roots, images or (96 if torch.cuda.is_available() else 24), deadline)
    except OutOfTime as over:
        print(f"time is over: {over}; the same command goes on", flush=True)
        return
    print(f"measure it: python scripts/measure_model.py {out / 'model' / 'model'} --out {out / 'measure'}", flush=True)


def _read(path: Path) -> Plan:
    if not path.is_file():
        return Plan()
    try:
        return Plan(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not a plan of this script ({error}); remove it with its folder to begin anew") from error


def _save(out: Path, plan: Plan) -> None:
    write_json(out / "plan.json", asdict(plan))


def _data(out: Path, plan: Plan, frames: int, scenes: int, until: float, deadline: float) -> None:
    """Render one city after another until there are enough frames, or the data's time is over and there is one."""
    while not plan.data_done:
        seed = FIRST_SEED + len(plan.seeds)
        root = out / "data" / f"city_{seed}"
        command = ["world", str(root), "--scenes", str(scenes), "--frames", "2", "--seed", str(seed), "--wording", "varied"]
        limit = deadline - MARGIN_S if not plan.seeds else min(until, deadline - MARGIN_S)
        if not _drivegen(command, limit).in_time:
            if not plan.seeds:
                raise OutOfTime("no city is complete yet")
            shutil.rmtree(root, ignore_errors=True)
            plan.data_done = True
        else:
            plan.seeds.append(seed)
            plan.data_done = len(plan.seeds) * scenes * 2 >= frames or time.monotonic() >= until
        _save(out, plan)
    print(f"data: {len(plan.seeds)} cities of {scenes} scenes", flush=True)


def _first_stage(out: Path, plan: Plan, roots: list[str], seconds: float, deadline: float) -> None:
    run_folder = out / "first_stage"
    if (run_folder / "vae").is_dir():
        return
    config = CONFIGS / "embedded_first_stage.yaml"
    settings = [f"data.roots={json.dumps(roots)}"]
    if plan.first_stage_steps is None:
        seconds_per_step = _probe(out, config, settings, deadline)
        left = min(seconds, deadline - time.monotonic() - MARGIN_S)
        plan.first_stage_steps = max(FIRST_STAGE_STEPS[0], min(FIRST_STAGE_STEPS[1], int(left / seconds_per_step)))
        _save(out, plan)
    command = ["train", str(config), *settings, f"output={run_folder}", f"train.steps={plan.first_stage_steps}"]
    if not _drivegen([*command, "--resume", "auto"], deadline - MARGIN_S).in_time:
        raise OutOfTime("the first stage is not done")


def _model(out: Path, plan: Plan, roots: list[str], images: int, deadline: float) -> None:
    run_folder = out / "model"
    config = CONFIGS / "embedded.yaml"
    settings = [
        f"data.roots={json.dumps(roots)}", f"data.cache={out / 'cache'}", f"model.vae={out / 'first_stage' / 'vae'}",
        f"train.images={images}",
    ]  # fmt: skip
    if plan.seconds_per_step is None:
        plan.seconds_per_step = _probe(out, config, settings, deadline)
        _save(out, plan)
    done = _steps_done(run_folder)
    more = int((deadline - time.monotonic() - MARGIN_S) / plan.seconds_per_step)
    if more < 1:
        raise OutOfTime(f"the model has {done} steps")
    steps = done + more
    command = ["train", str(config), *settings, f"output={run_folder}", f"train.steps={steps}", "--resume", "auto"]
    ended = _drivegen(command, deadline - MARGIN_S / 2)
    plan.model_steps = _steps_done(run_folder)
    plan.seconds_per_step = pace(ended.said) or plan.seconds_per_step
    _save(out, plan)
    if not ended.in_time:
        if plan.model_steps:
            training.export(run_folder / "last.ckpt", run_folder)
        raise OutOfTime(f"the model has {plan.model_steps} steps, written to {run_folder / 'model'}")


def _probe(out: Path, config: Path, settings: list[str], deadline: float) -> float:
    """Time steps in a run of its own, which also fills the cache; returns seconds per step."""
    folder = out / "probe"
    shutil.rmtree(folder, ignore_errors=True)
    every = PROBE_STEPS // 3
    overrides = [f"output={folder}", f"train.steps={PROBE_STEPS}", f"train.log_every={every}", "preview.every=0"]
    if "stage: autoencoder" not in config.read_text():
        overrides.append("validation.every=0")
    ended = _drivegen(["train", str(config), *settings, *overrides], deadline - MARGIN_S)
    found = pace(ended.said)
    if not ended.in_time or found is None:
        raise OutOfTime(f"{config.stem} was not timed yet")
    shutil.rmtree(folder, ignore_errors=True)
    return found


def pace(said: str) -> float | None:
    """Read the seconds per step that a training reported: the median of three or more, since the first ones are slow."""
    reported = [float(number) for number in re.findall(r"([\d.]+) s per step", said)]
    return median(reported) if len(reported) >= 3 else None


def _steps_done(folder: Path) -> int:
    path = folder / "last.ckpt"
    if not path.is_file():
        return 0
    return int(checkpoint.read(path)["global_step"])


@dataclass(frozen=True)
class Ended:
    """A command that has ended: what it said, and whether it ended by itself and not because its time was over."""

    said: str
    in_time: bool


def _drivegen(arguments: list[str], until: float) -> Ended:
    """Run a command until it ends or a moment has come.

    Raises InputError where it fails: its own message is above.
    """
    print("drivegen " + " ".join(arguments), flush=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "drivegen.cli.main", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    said: list[str] = []
    over = False

    def stop(*_: object) -> None:
        nonlocal over
        over = True
        process.send_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, until - time.monotonic()))
    try:
        for line in process.stdout:
            said.append(line)
            print(line, end="", flush=True)
        status = process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if status and not over:
        raise InputError(f"`drivegen {arguments[0]}` ended with status {status}")
    return Ended("".join(said), not (over and status))


if __name__ == "__main__":
    run(main)

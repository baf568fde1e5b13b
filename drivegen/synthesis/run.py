"""Generates the dataset: its frames, by one process or many, each written completely, then the tables."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from drivegen.datasets import SceneSource
from drivegen.pipeline.pipeline import Pipeline
from drivegen.support import runtime
from drivegen.support.errors import CannotGoOn, InputError
from drivegen.support.locks import locked_folder
from drivegen.support.progress import progress, track
from drivegen.support.signals import TERMINATED, noted_sigterm
from drivegen.synthesis import can_bus, set_aside, tables
from drivegen.synthesis.commits import Commits
from drivegen.synthesis.plan import Plan, validation_scenes
from drivegen.synthesis.recipe import Recipe
from drivegen.synthesis.unit import Units, setup
from drivegen.synthesis.variants import sample_token
from drivegen.workers import Crew, Here, LocalCrew, carry_out

SPARE_BYTES = 50_000_000
"""Left free on the disk."""

HOPELESS = 10
"""So many frames set aside before one was made end the run: it is not the frames."""

ENGINES = ("local", "ray")

TARGET = "drivegen.synthesis.unit:begin"
"""What other processes begin with."""


def synthesize(
    source: SceneSource, out: Path, recipe: Recipe, pipe: Pipeline, plan: Plan, workers: int = 1,
    devices: Sequence[str] = (), engine: str = "local", address: str | None = None,
) -> int:  # fmt: skip
    """Make the planned dataset in a folder; a run that was ended in any way goes on, and ends with the same bytes.

    The bytes do not depend on the number of workers, their devices' numbers, or the engine.

    Args:
        source: the dataset that the plan was made for.
        out: new, empty, or begun with the same plan.
        recipe: the plan's.
        pipe: the plan's model.
        plan: what `plan.make` returned.
        workers: number of processes; 1 without devices is this one.
        devices: of the workers, in turn, all of the plan's kind: ("cuda:0", "cuda:1"); () is the pipeline's.
        engine: "local", or "ray" for tasks of Ray Core.
        address: of a Ray cluster; None starts one on this machine.

    Returns the number of frames that were generated now. Raises InputError where the folder holds anything else, was begun with
    another plan, another run is writing to it, or the disk is too full; CannotGoOn where frames failed three times: the dataset
    is finished without them, and the same call tries them again. SIGTERM finishes the frames in work and ends with status 143.
    """
    made = 0
    if engine not in ENGINES or workers < 1 or (address is not None and engine != "ray"):
        raise InputError(f"no engine {engine!r} with {workers} workers (address {address}); there are {', '.join(ENGINES)}")
    with noted_sigterm() as ended, locked_folder(out):
        plan.begin(out)
        if tables.is_whole(out, plan):
            return 0
        commits, jobs = Commits(out), list(_jobs(source, recipe, plan))
        commits.begin()
        waiting = [job for job in track(jobs, "looking at what is there", unit="frames") if not commits.whole(job["token"])]
        _check_space(out, plan, len(waiting))
        missing: list[dict[str, Any]] = []
        crew = _crew(Units(source, out, recipe, pipe, plan), min(workers, len(waiting)), devices, engine, address)
        rest = nullcontext() if isinstance(crew, Here) else runtime.at_rest(pipe.host)
        with progress("synthesizing", plan.units, "frames", done=plan.units - len(waiting), lines=True) as advance, rest, crew:
            for job, outcome in carry_out(crew, waiting, lambda job: (job["scene"], job["label"]), ended):
                if outcome.error:
                    set_aside.note(out, job, outcome.error, outcome.trace)
                    missing.append(job)
                    if len(missing) >= HOPELESS and not made:
                        raise CannotGoOn(f"the first {HOPELESS} frames all failed, three times each: {outcome.error}")
                    continue
                if not commits.is_there(job["token"]):
                    raise InputError(f"a worker wrote its frame elsewhere than here; {out} has to be shared by all machines")
                made += 1
                advance()
        if ended():
            raise SystemExit(TERMINATED)
        if len(missing) < len(jobs):
            can_bus.carry(source.root, out, [(scene["source"], scene["scene"]) for scene in plan.facts["scenes"]])
            lost = {job["token"] for job in missing}
            tables.finish(out, str(plan.facts["version"]), jobs, lost, plan.maps, validation_scenes(source),
                          recipe.audit is not None)  # fmt: skip
        if missing:
            raise set_aside.complaint(out, missing, len(jobs))
    return made


def _jobs(source: SceneSource, recipe: Recipe, plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield the frames of the plan, in the order of the tables."""
    for scene in plan.sources:
        samples = source.samples(scene)
        for _, label in recipe.labels:
            for number, sample in enumerate(samples):
                token = sample_token(plan.run, label, sample)
                yield {"scene": scene, "label": label, "number": number, "sample": sample, "token": token}


def _crew(units: Units, count: int, devices: Sequence[str], engine: str, address: str | None) -> Crew:
    """Return who makes the frames."""
    kind = units.pipe.device.type
    if other := [name for name in devices if torch.device(name).type != kind]:
        raise InputError(f"device {other[0]} computes other bits than {kind}, which the plan is for; name devices of one kind")
    if engine == "local" and count <= 1:
        return Here(units.make)
    places = list(devices) or [str(units.pipe.device)]
    each = [places[i % len(places)] for i in range(max(count, 1))]
    setups = [setup(units.source, units.out, units.recipe, units.pipe, units.plan, device) for device in each]
    if engine == "local":
        return LocalCrew(TARGET, setups)
    from drivegen.workers.on_ray import RayCrew

    return RayCrew(TARGET, setups, address, gpu=kind == "cuda")


def _check_space(out: Path, plan: Plan, waiting: int) -> None:
    needed = int(plan.facts["bytes"] * waiting / max(plan.units, 1))
    free = shutil.disk_usage(out).free - SPARE_BYTES
    if needed > free:
        raise InputError(
            f"the disk of {out} has {max(free, 0) / 1e9:.2f} GB free, and about {needed / 1e9:.2f} GB are to be written; "
            "make room, or name a folder elsewhere"
        )

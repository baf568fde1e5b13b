"""`drivegen synthesize`: the plan on the screen, then the run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from drivegen import datasets, synthesis
from drivegen.cli.generate import Where
from drivegen.cli.screen import Screen
from drivegen.datasets import SceneSource
from drivegen.pipeline.pipeline import Pipeline
from drivegen.support.cores import cores
from drivegen.support.errors import InputError
from drivegen.support.runtime import choose_devices, memory_bytes
from drivegen.synthesis import Plan, Recipe
from drivegen.synthesis.audit import summary
from drivegen.synthesis.plan import NAME, read
from drivegen.synthesis.recipe import LabelAudit
from drivegen.synthesis.run import ENGINES
from drivegen.synthesis.seconds import seconds_per_frame
from drivegen.synthesis.tables import AUDIT, CHECKSUMS
from drivegen.workers import early

LISTED = 20
"""Scenes of a plan are listed, as far as one can read them."""

EARLY = 8
"""At most so many processes start before the plan says how many frames there are."""


@dataclass(frozen=True)
class Hands:
    """Who does the work: number of processes, threads of each, devices (comma-separated), engine, address of its cluster."""

    workers: int | None = None
    threads: int | None = None
    device: str = "auto"
    engine: str = "local"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"--engine {self.engine!r} is none of {', '.join(ENGINES)}")
        if self.address is not None and self.engine != "ray":
            raise InputError(f"--address {self.address} is a Ray cluster's; give --engine ray too")

    def count(self, pipe: Pipeline, devices: tuple[str, ...], threads: int) -> int:
        """Return the number of processes: as asked; else one per device, or on the CPU one per core that memory is left for.

        Args:
            pipe: the model, loaded here.
            devices: of the workers.
            threads: of each.
        """
        if self.workers is not None:
            return self.workers
        if len(devices) > 1 or pipe.device.type != "cpu":
            return len(devices)
        own, free = memory_bytes()
        return max(1, min(cores() // threads, int(free / max(own, 1))))

    def early(self, devices: tuple[str, ...], threads: int) -> int:
        """Return the number of processes that start while the plan is made: they import what this one imports, beside it.

        Args:
            devices: of the workers.
            threads: of each.
        """
        if self.engine != "local" or devices[0] != "cpu":
            return 0
        wanted = self.workers or max(len(devices), cores() // threads)
        return min(wanted, EARLY) if wanted > 1 else 0


def synthesize(
    dataroot: Path, out: Path, recipe: Path, only_plan: bool, version: str | None, model: str, dtype: str, hands: Hands,
    screen: Screen, audit: bool = False,
) -> None:  # fmt: skip
    """Plan a dataset, say what it will be, and make it.

    Args:
        dataroot: the source.
        out: the dataset that is made.
        recipe: its YAML file.
        only_plan: stop before anything is written.
        version: the source's, where it has several.
        model: "tiny", or a folder or file.
        dtype: the number format.
        hands: who makes it.
        screen: where it is said.
        audit: hold the labels against the pictures, in the recipe's way or by flags.
    """
    read_recipe = Recipe.read(recipe)
    if audit and read_recipe.audit is None:
        read_recipe = replace(read_recipe, audit=LabelAudit())
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder")
    devices = choose_devices(hands.device)
    threads = hands.threads
    if threads is None:
        threads = int(read(out).facts["computing"]["threads"]) if (out / NAME).is_file() else 1
    made_before = only_plan or (out / CHECKSUMS).is_file()
    with early(0 if made_before else hands.early(devices, threads), "drivegen.synthesis.unit:prepare"):
        source = datasets.open(dataroot, version)
        pipe = Where(model, devices[0], dtype).pipeline()
        planned = synthesis.plan.make(source, read_recipe, pipe, threads)
        count = hands.count(pipe, devices, threads)
        show_plan(screen, planned)
        if only_plan:
            show_time(screen, source, read_recipe, pipe, planned, count)
            return
        made = synthesis.synthesize(source, out, read_recipe, pipe, planned, count, devices, hands.engine, hands.address)
        if not made:
            screen.line(f"{out} was whole already")
            return
        screen.line(f"{made} of {planned.units} frames generated; {out} is whole: drivegen verify checks it")
        if read_recipe.audit is not None:
            lines = [json.loads(line) for line in (out / AUDIT).read_text(encoding="utf-8").splitlines()]
            screen.line(("audit", "yellow"), f" {summary(read_recipe.audit, lines)}")


def show_plan(screen: Screen, plan: Plan) -> None:
    """Print what would be made."""
    counts, scenes = plan.facts["counts"], plan.facts["scenes"]
    rows = [(scene["source"], scene["scene"], str(scene["units"])) for scene in scenes[:LISTED]]
    screen.table(("source", "scene", "frames"), rows, right=(2,))
    if len(scenes) > LISTED:
        screen.line(f"… and {len(scenes) - LISTED} more")
    size = "x".join(map(str, plan.facts["size"]))
    screen.line(
        f"{counts['units']} frames in {counts['scenes']} scenes: {counts['images']} images of {size}, {counts['boxes']} boxes, "
        f"about {plan.facts['bytes'] / 1e6:.1f} MB"
    )
    for what, number in plan.facts["skipped"].items():
        screen.line(("left out", "yellow"), f" {number} × {what}")


def show_time(screen: Screen, source: SceneSource, recipe: Recipe, pipe: Pipeline, plan: Plan, count: int) -> None:
    """Generate the first frame with a few steps, and print how long all would take.

    Args:
        screen: where it is said.
        source: the dataset.
        recipe: the plan's.
        pipe: the model.
        plan: the run's.
        count: number of processes.
    """
    each = seconds_per_frame(source, recipe, pipe, plan)
    total = each * plan.units / min(count, plan.units)
    long = f"{total / 3600:.1f} hours" if total > 5400 else f"{total / 60:.0f} minutes" if total > 90 else f"{total:.0f} s"
    by = "1 worker" if count == 1 else f"{count} workers side by side"
    screen.line(f"about {long} with {by}: a frame takes about {each:.1f} s here")

"""`drivegen synthesize`: the plan on the screen, then the run."""

from __future__ import annotations

from pathlib import Path

from drivegen import datasets, synthesis
from drivegen.cli.generate import Where
from drivegen.cli.screen import Screen
from drivegen.support.errors import InputError
from drivegen.synthesis import Plan, Recipe
from drivegen.synthesis.plan import NAME, read

LISTED = 20
"""Scenes of a plan are listed, as far as one can read them."""


def synthesize(
    dataroot: Path, out: Path, recipe: Path, only_plan: bool, version: str | None, where: Where, threads: int | None,
    screen: Screen,
) -> None:  # fmt: skip
    """Plan a dataset, say what it will be, and make it.

    Args:
        dataroot: the source.
        out: the dataset that is made.
        recipe: its YAML file.
        only_plan: stop before anything is written.
        version: the source's, where it has several.
        where: the model, and on what it computes.
        threads: of the networks; None takes those of the plan in `out`, else torch's.
        screen: where it is said.
    """
    import torch

    read_recipe = Recipe.read(recipe)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder")
    source = datasets.open(dataroot, version)
    pipe = where.pipeline()
    if threads is None:
        threads = read(out).facts["computing"]["threads"] if (out / NAME).is_file() else torch.get_num_threads()
    planned = synthesis.plan.make(source, read_recipe, pipe, threads)
    show_plan(screen, planned)
    if only_plan:
        return
    made = synthesis.synthesize(source, out, read_recipe, pipe, planned)
    if not made:
        screen.line(f"{out} was whole already")
        return
    screen.line(f"{made} of {planned.units} frames generated; {out} is whole: drivegen verify checks it")


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

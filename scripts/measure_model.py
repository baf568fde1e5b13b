"""Measure how well a model follows its conditions, on scenes of the city that it has not seen; writes the model card's table.

    python scripts/measure_model.py tiny --scenes 20 --frames-per-scene 10 --out out/measure

Images are kept below OUT/images/<variant>/<frame>/, so that an interrupted run goes on where it was. Training uses the city's
seeds 1 to 98, checks while training 99, measuring 20261.
"""

from __future__ import annotations

import shlex
import sys
from datetime import date
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import UNSEEN, Model, Seed, Steps, run

from drivegen.support import files
from drivegen.support.errors import InputError
from drivegen.support.files import sha256


def _less(text: str) -> dict[str, int]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not count.strip().isdigit() for _, _, count in pairs):
        raise InputError(f"--less {text!r} must be of the form boxes=5,turned=5 (frames per scene)")
    return {kind.strip(): int(count) for kind, _, count in pairs}


def main(
    model: Model,
    scenes: int = 20,
    frames_per_scene: int = 10,
    seed: Seed = UNSEEN,
    out: Path = Path("out/measure"),
    steps: Steps = None,
    only: Annotated[str, typer.Option(help="variants by comma: all,no_layout,all-boxes,all-turned,all-second,null …")] = "",
    null: Annotated[str, typer.Option(help="plugins by comma that get a column in which they are null")] = "layout",
    less: Annotated[str, typer.Option(help="frames per scene of kinds or variants: boxes, turned …")] = "second=3",
    pandaset: Annotated[Path, typer.Option(help="real scenes; skipped where absent")] = Path("../shared/data/pandaset"),
    report_only: Annotated[bool, typer.Option(help="judge the images that are there, generate none")] = False,
    device: str = "auto",
    dtype: str = "auto",
    threads: Annotated[int, typer.Option(help="0: as many as torch takes")] = 0,
) -> None:
    """Generate, judge, write OUT/figures.json and OUT/table.md."""
    from drivegen.evaluate import referee, table
    from drivegen.evaluate.measure import Measurement, Plan, machine
    from drivegen.pipeline.pipeline import Pipeline

    if threads:
        torch.set_num_threads(threads)
    names = tuple(name.strip() for name in only.split(",") if name.strip()) or None
    nulled = tuple(name.strip() for name in null.split(",") if name.strip())
    limits = {kind: min(count, frames_per_scene) for kind, count in _less(less).items()}
    plan = Plan(out, scenes, frames_per_scene, seed, steps, names, limits, pandaset, nulled)
    judge = referee.default()
    measurement = Measurement(Pipeline.from_pretrained(model, device=device, dtype=dtype), judge, plan)
    if not report_only:
        measurement.generate()
    figures = measurement.figures()
    notes = {
        "model": model,
        "settings": measurement.settings,
        "referee": sha256(referee.ASSET),
        "machine": machine(),
        "date": date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
    }
    files.write_json(out / "figures.json", table.as_json(figures, notes))
    text = table.markdown(figures, notes)
    files.write_atomically(out / "table.md", text.encode())
    print(text)


if __name__ == "__main__":
    run(main)

"""Measure how well a model follows its conditions, on scenes of the city that it has not seen; writes the model card's table.

    python scripts/measure_model.py tiny --scenes 20 --frames-per-scene 10 --out out/measure

Images are kept below OUT/images/<variant>/<frame>/, so that an interrupted run goes on where it was. The same command begun
in several terminals shares the frames among its processes. With several seeds (`--seed 5 --seed 6`) each has a folder
OUT/seed_<seed> of its own, and OUT/table.md puts them side by side. Training uses the city's seeds 1 to 98 and from
71000 on, checks while training 99, measuring 20261; the referee of people was trained on 73001 and checked on 73002.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from common import UNSEEN, Model, Steps, run

from drivegen.support import files
from drivegen.support.errors import InputError
from drivegen.support.files import sha256
from drivegen.support.locks import claimed

if TYPE_CHECKING:
    from drivegen.evaluate.figures import Figure


def _less(text: str) -> dict[str, int]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not count.strip().isdigit() for _, _, count in pairs):
        raise InputError(f"--less {text!r} must be of the form boxes=5,turned=5 (frames per scene)")
    return {kind.strip(): int(count) for kind, _, count in pairs}


def main(
    model: Model,
    scenes: int = 20,
    frames_per_scene: int = 10,
    seed: Annotated[
        list[int] | None, typer.Option(help=f"city that the model was not trained on; repeat for several; {UNSEEN} if left out")
    ] = None,
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
    from drivegen.evaluate import people, referee
    from drivegen.evaluate.measure import Measurement, Plan, machine
    from drivegen.pipeline.pipeline import Pipeline

    seeds = seed or [UNSEEN]
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"--seed {' '.join(map(str, seeds))}: seeds are 0 or more, each once")
    if threads:
        torch.set_num_threads(threads)
    names = tuple(name.strip() for name in only.split(",") if name.strip()) or None
    nulled = tuple(name.strip() for name in null.split(",") if name.strip())
    limits = {kind: min(count, frames_per_scene) for kind, count in _less(less).items()}
    folders = {one: out if len(seeds) == 1 else out / f"seed_{one}" for one in seeds}
    plans = [Plan(folders[s], scenes, frames_per_scene, s, steps, names, limits, pandaset, nulled) for s in seeds]
    pipe = Pipeline.from_pretrained(model, device=device, dtype=dtype)
    measurements = {plan.seed: Measurement(pipe, referee.default(), plan, people.default()) for plan in plans}
    for one in measurements.values():
        if not report_only:
            one.generate()
    with claimed(out / ".judging") as mine:
        if not mine:
            print(f"another process judges what was generated; its table will be {out / 'table.md'}")
            return
        common = {
            "referee": sha256(referee.ASSET),
            "referee of people": sha256(people.ASSET),
            "machine": machine(),
            "date": date.today().isoformat(),
            "command": shlex.join(["python", *sys.argv]),
        }
        found = {}
        for city, one in measurements.items():
            found[city] = one.figures()
            if not found[city]:
                raise InputError(f"{folders[city]} holds no pictures to judge; leave out --report-only")
            text = _write(folders[city], found[city], {"model": model, "settings": one.settings, **common})
        if len(found) > 1:
            shared = {k: v for k, v in next(iter(measurements.values())).settings.items() if k != "city_seed"}
            text = _write_all(out, found, {"model": model, "settings": shared, **common})
        print(text)


def _write(out: Path, figures: Sequence[Figure], notes: Mapping[str, Any]) -> str:
    """Write the figures and the table of one city; returns the table."""
    from drivegen.evaluate import table

    files.write_json(out / "figures.json", table.as_json(figures, notes))
    text = table.markdown(figures, notes)
    files.write_atomically(out / "table.md", text.encode())
    return text


def _write_all(out: Path, found: Mapping[int, Sequence[Figure]], notes: Mapping[str, Any]) -> str:
    """Write the table in which several cities are side by side; returns it."""
    from drivegen.evaluate import table

    text = table.by_seed(found, notes)
    files.write_atomically(out / "table.md", text.encode())
    return text


if __name__ == "__main__":
    run(main)

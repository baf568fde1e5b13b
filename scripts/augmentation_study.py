"""Does synthetic data help? A small camera detector, trained with and without it at equal numbers of steps; writes a table.

    python scripts/augmentation_study.py --out out/augmentation

Everything is kept below OUT, so that a run that was ended goes on where it was: rendered scenes of the city (few to train on,
others to be scored on), two synthetic datasets of the few (geometry: other boxes, another rig; appearance: prompts alone), and
a file per training run.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import typer
from common import run

from bench.detection_scores import SPLIT, declare, score
from bench.detector import Lesson, detect, lesson, train
from drivegen import synthesis, world
from drivegen.datasets import nuscenes
from drivegen.evaluate.measure import machine
from drivegen.pipeline.pipeline import Pipeline
from drivegen.support.errors import InputError
from drivegen.support.files import write_atomically, write_json
from drivegen.support.progress import track
from drivegen.support.weights import read_json
from drivegen.synthesis.recipe import Recipe
from drivegen.world.dataset import TABLES

TRAIN_SEED, UNSEEN_SEED = 60_001, 60_002
"""The city's seeds of the few frames and of the unseen ones; the embedded model was trained on neither."""

RECIPES = Path(__file__).parents[1] / "configs" / "augmentation"
KINDS = ("geometry", "appearance")

FIGURES = ("mAP", "car AP", "car AP at 4 m", "car ATE")


@dataclass(frozen=True)
class Arm:
    """One way to train: which synthetic frames are added, and how many times the common number of steps."""

    name: str
    added: tuple[str, ...] = ()
    times: int = 1


ARMS = (
    Arm("few rendered frames"),
    Arm("the same, twice as long", times=2),
    Arm("with geometry and appearance", KINDS),
    Arm("with geometry", ("geometry",)),
    Arm("with appearance", ("appearance",)),
)


def _render(out: Path, few: int, unseen: int) -> None:
    for name, count, seed in (("few", few, TRAIN_SEED), ("unseen", unseen, UNSEEN_SEED)):
        if not (out / name / TABLES).is_dir():
            world.write(out / name, count, 1, seed, (128, 224), 1)
    declare(out / "unseen", TABLES, nuscenes.open(out / "unseen").scenes)


def _synthesize(out: Path, model: str) -> None:
    source = nuscenes.open(out / "few")
    pipe = None
    for kind in KINDS:
        if (out / kind / TABLES).is_dir() and not (out / kind / synthesis.plan.WORK).exists():
            continue
        pipe = pipe or Pipeline.from_pretrained(model)
        recipe = Recipe.read(RECIPES / f"{kind}.yaml")
        planned = synthesis.plan.make(source, recipe, pipe, torch.get_num_threads())
        synthesis.synthesize(source, out / kind, recipe, pipe, planned)


def _lessons(root: Path) -> list[Lesson]:
    dataset = nuscenes.open(root)
    return [lesson(dataset.frame(token).resized(224, 128)) for token in track(dataset.samples(), f"reading {root.name}")]


def _runs(out: Path, steps: int, seeds: int) -> None:
    waiting = [(arm, seed) for seed in range(seeds) for arm in ARMS if not _path(out, arm, seed).is_file()]
    if not waiting:
        return
    lessons = {name: _lessons(out / name) for name in ("few", *KINDS)}
    unseen = nuscenes.open(out / "unseen")
    frames = {token: unseen.frame(token).resized(224, 128) for token in unseen.samples()}
    tests = {token: lesson(frame) for token, frame in frames.items()}
    for arm, seed in track(waiting, "training"):
        added = [each for kind in arm.added for each in lessons[kind]]
        net = train(lessons["few"], added, steps * arm.times, seed)
        found = {token: (frames[token], detect(net, tests[token])) for token in frames}
        (out / "runs").mkdir(exist_ok=True)
        write_json(_path(out, arm, seed), score(out / "unseen", TABLES, found))


def _path(out: Path, arm: Arm, seed: int) -> Path:
    return out / "runs" / f"{arm.name.replace(' ', '_').replace(',', '')}-{seed}.json"


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Write mean ± standard deviation of each figure, an arm a row."""
    lines = [f"| trained on | {' | '.join(FIGURES)} |", "|---" * (1 + len(FIGURES)) + "|"]
    for name, rows in results.items():
        cells = []
        for figure in FIGURES:
            values = [row[figure] for row in rows]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{statistics.fmean(values):.3f} ± {spread:.3f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _bound(out: Path, settings: dict[str, Any]) -> None:
    """Record the settings; raises InputError where OUT was begun with others."""
    path = out / "settings.json"
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
    elif (there := read_json(path)) != settings:
        raise InputError(f"{out} was begun with {json.dumps(there)}, not {json.dumps(settings)}; name another --out")


def main(
    out: Annotated[Path, typer.Option(help="folder of data, runs and the table")] = Path("out/augmentation"),
    model: Annotated[str, typer.Option(help="'tiny', a model folder, or what `drivegen generate --model` takes")] = "tiny",
    few: Annotated[int, typer.Option(help="rendered frames that are trained on, each of a scene of its own")] = 16,
    unseen: Annotated[int, typer.Option(help="rendered frames that are scored, of other scenes")] = 32,
    steps: Annotated[int, typer.Option(help="optimisation steps of every arm but one, which has twice as many")] = 240,
    seeds: Annotated[int, typer.Option(help="training runs of each arm")] = 3,
) -> None:
    """Render, synthesize, train, score; write OUT/table.md."""
    if few < 2 or unseen < 2 or steps < 10 or seeds < 1:
        raise InputError("2 frames of either kind, 10 steps and 1 seed are the least")
    _bound(out, {"model": model, "few": few, "unseen": unseen, "steps": steps})
    _render(out, few, unseen)
    _synthesize(out, model)
    _runs(out, steps, seeds)
    results = {arm.name: [read_json(_path(out, arm, seed)) for seed in range(seeds)] for arm in ARMS}
    counts = {kind: len(nuscenes.open(out / kind).samples()) for kind in KINDS}
    notes = [
        f"{few} rendered frames, {' and '.join(f'{count} of {kind}' for kind, count in counts.items())}; scored on {unseen} "
        f"unseen rendered frames (split {SPLIT!r}), boxes within 40 m, by nuscenes-devkit",
        f"{steps} steps of 2 frames ({2 * steps} for the second row), {seeds} seeds: mean ± standard deviation",
        machine(), shlex.join(["python", *sys.argv]),
    ]  # fmt: skip
    text = table(results) + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"
    write_atomically(out / "table.md", text.encode())
    print(text)


if __name__ == "__main__":
    run(main)

"""What `pose_weight` buys: the embedded model trained on with it and without, for equal steps, and what the referee then finds.

    python scripts/pose_weight_study.py --steps 150 --seeds 2 --scenes 16 --out out/pose_weight_study --minutes 25

Trains configs/pose_weight.yaml, whose strength is 0 in the plain arm, on a dataset of the city; generates unseen scenes; and
writes OUT/table.md: the share of each vehicle's and pedestrian's pixels that the referee gives to its group, by distance and
size, and how often pedestrians stand out against places beside them. After --minutes it ends, and the same command goes on.
"""

from __future__ import annotations

import shlex
import sys
from datetime import date
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml
from common import UNSEEN, Minutes, run

HOUSE = Path(__file__).parents[1]
sys.path.insert(0, str(HOUSE))  # the laboratory (bench/) is no part of the installed package


def main(
    steps: Annotated[int, typer.Option(help="of each training")] = 150,
    images: Annotated[int, typer.Option(help="per step")] = 12,
    rate: Annotated[float, typer.Option(help="greatest learning rate")] = 1e-4,
    seeds: Annotated[int, typer.Option(help="trainings of each arm")] = 2,
    scenes: Annotated[int, typer.Option(help="unseen ones that are generated")] = 16,
    sampling_steps: int = 20,
    data: Annotated[Path, typer.Option(help="dataset of the city to train on; rendered where it is missing")] = Path(
        "data/city_study"
    ),
    train_scenes: Annotated[int, typer.Option(help="scenes to render there")] = 120,
    data_seed: Annotated[int, typer.Option(help="their city")] = 31,
    cache: Annotated[Path, typer.Option(help="latents and arrays; may be shared with other trainings")] = Path("data/cache"),
    out: Path = Path("out/pose_weight_study"),
    minutes: Minutes = None,
) -> None:
    """Train, generate, judge, write OUT/table.md."""
    from bench import object_recall as recalls
    from bench.study import Arm, Budget, Plan, Study
    from drivegen.evaluate import referee
    from drivegen.evaluate.measure import machine
    from drivegen.support import files

    values = yaml.safe_load((HOUSE / "configs" / "pose_weight.yaml").read_text())
    plain = yaml.safe_load((HOUSE / "configs" / "pose_weight.yaml").read_text())
    plain["plugins"]["pose_weight"]["options"]["strength"] = 0.0
    arms = [Arm("embedded", values, trains=False), Arm("plain", plain), Arm("weighted", values)]
    train = {"steps": steps, "images": images, "lr": rate, "warmup": min(20, steps // 5), "ema": 0.98, "threads": 1,
             "checkpoint_every": max(1, steps // 3)}  # fmt: skip
    plan = Plan(out, arms, range(seeds), data, train_scenes, data_seed, cache, train, scenes, UNSEEN, sampling_steps)
    study, judge = Study(plan, Budget(None if minutes is None else 60 * minutes)), referee.default()
    done = list(study.run())
    if not done:
        return
    truth = {key: {c: study.city.view(key, c) for c in study.city.frames[key].channels} for key in plan.frames}
    columns: dict[str, list[list[recalls.Seen]]] = {}
    said: dict[str, list[float]] = {}
    for arm, seed in [(None, 0), *done]:
        objects, hits = [], np.zeros(2)
        for key in plan.frames:
            frame = study.city.frames[key]
            renders = {channel: view.rgb for channel, view in truth[key].items()}
            pictures = renders if arm is None else study.store(arm, seed).load("plain", key.name, frame)
            labels = dict(zip(pictures, judge(pictures.values()).groups, strict=True))
            objects += recalls.seen_objects(key.scene, frame, truth[key], pictures, labels)
            hits += recalls.precision_sums(truth[key], labels)
        column = "renders" if arm is None else arm.name
        columns.setdefault(column, []).append(objects)
        said.setdefault(column, []).append(float(hits[0] / hits[1]))
    text = recalls.table(columns, scenes, ("plain", "weighted"))
    text += f"| precision of vehicle pixels | | {' | '.join(map(recalls.spread, said.values()))} | |\n"
    text += f"\n- machine: {machine()}\n- date: {date.today().isoformat()}\n- command: {shlex.join(['python', *sys.argv])}\n"
    files.write_atomically(out / "table.md", text.encode())
    print(text)


if __name__ == "__main__":
    run(main)

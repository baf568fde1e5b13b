"""Train the second referee of `scripts/measure_model.py`, which finds people, on renders of the city alone.

    drivegen world data/people --scenes 300 --frames 1 --seed 73001 --size 128x224
    drivegen world data/people_val --scenes 40 --frames 1 --seed 73002 --size 128x224
    python scripts/train_people.py --data data/people --held-out data/people_val

No model is trained or measured on these cities.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from common import HeldOut, RefereeData, RefereeOut, State, Threads, run

sys.path.insert(0, str(Path(__file__).parents[1]))  # the laboratory (bench/) is no part of the installed package


def main(
    data: RefereeData,
    held_out: HeldOut,
    out: RefereeOut = Path("drivegen/evaluate/assets/people.safetensors"),
    state: State = Path("runs/people/state.pt"),
    steps: int = 3000,
    batch: int = 24,
    seed: int = 0,
    threads: Threads = 0,
) -> None:
    """Train, check on held-out renders, write; the run can be repeated after an interruption."""
    from bench import people_training, referee_training
    from drivegen.evaluate.people import load

    if threads:
        torch.set_num_threads(threads)
    recipe = referee_training.Recipe(steps=steps, batch=batch, seed=seed)
    lesson = people_training.read(data).pictures
    held = people_training.read([held_out])
    about = {"size": list(lesson.images.shape[1:3]), "held_out": {"pictures": len(held.pictures), "dataset": held_out.name}}
    metrics = referee_training.train_and_check(
        lesson, recipe, state, data, out, lambda path: people_training.check(load(path), held), about
    )
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    run(main)

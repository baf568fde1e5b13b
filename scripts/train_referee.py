"""Train the referee that `scripts/measure_model.py` judges by, on renders of the city alone.

    drivegen world data/city_a --scenes 320 --frames 1 --seed 1 --size 128x224
    drivegen world data/city_val --scenes 24 --frames 2 --seed 99 --size 128x224
    python scripts/train_referee.py --data data/city_a --held-out data/city_val

Seeds of the city: 1 to 98 train (models and the referee), 99 checks while training, 20261 measures models.
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
    out: RefereeOut = Path("drivegen/evaluate/assets/referee.safetensors"),
    state: State = Path("runs/referee/state.pt"),
    steps: int = 1600,
    batch: int = 24,
    seed: int = 0,
    threads: Threads = 0,
) -> None:
    """Train, check on held-out renders, write; the run can be repeated after an interruption."""
    from bench import referee_training as training
    from drivegen.evaluate.referee import GROUPS, load
    from drivegen.evaluate.renders import read_renders

    if threads:
        torch.set_num_threads(threads)
    recipe = training.Recipe(steps=steps, batch=batch, seed=seed)
    renders = read_renders(data)
    checked = read_renders([held_out])
    about = {
        "groups": list(GROUPS), "size": list(renders.images.shape[1:3]),
        "held_out": {"pictures": len(checked), "dataset": held_out.name},
    }  # fmt: skip
    metrics = training.train_and_check(
        training.RefereeLesson(renders), recipe, state, data, out, lambda path: training.check(load(path), checked), about
    )
    print(json.dumps(metrics, indent=2))
    print(f"{out}: {'good enough to judge by' if training.meets_goal(metrics) else 'BELOW the goal, do not judge by it'}")


if __name__ == "__main__":
    run(main)

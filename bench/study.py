"""Studies: arms that train from one model for equal steps, and pictures of unseen scenes from each; all of it resumes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from drivegen import training, world
from drivegen.evaluate.cities import City, plain_city
from drivegen.evaluate.images import Job, Store, generate
from drivegen.evaluate.metrics.consistency import correspondences, disagreement
from drivegen.evaluate.variants import Key, noise_seed
from drivegen.pipeline.pipeline import Pipeline
from drivegen.scene.geometry import Array
from drivegen.support import files
from drivegen.support.errors import InputError


@dataclass(frozen=True)
class Arm:
    """One way to train: its name, and the values of its configuration; None trains nothing and takes `model.base` as it is."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    trains: bool = True


class Budget:
    """Seconds that a call may take; None = as many as it needs."""

    def __init__(self, seconds: float | None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds

    @property
    def spent(self) -> bool:
        """Whether nothing more is to begin."""
        return self.end is not None and time.monotonic() >= self.end

    def stop_training(self) -> threading.Timer:
        """Return a timer that ends a training of this process at the budget's end as SIGTERM does: its state is saved."""
        left = 1e8 if self.end is None else max(0.0, self.end - time.monotonic())
        timer = threading.Timer(left, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        return timer


@dataclass(frozen=True)
class Plan:
    """What a study takes: arms and seeds, the trainings' data and sizes, and the unseen scenes that are generated.

    Args:
        out: folder of runs, pictures and results.
        arms: what is compared.
        seeds: each arm is trained with each of them.
        data: dataset of the city to train on; it is rendered where it is missing.
        train_scenes: scenes of it, of one frame each.
        data_seed: which city.
        cache: folder of latents and arrays.
        train: settings that replace those of every arm's `train`.
        scenes: unseen scenes, of one frame each.
        seed: their city.
        sampling_steps: of generation; None = the model's own.
        second: scenes that are generated from a second noise too.
    """

    out: Path
    arms: Sequence[Arm]
    seeds: Sequence[int]
    data: Path
    train_scenes: int
    data_seed: int
    cache: Path
    train: Mapping[str, Any]
    scenes: int
    seed: int
    sampling_steps: int | None = None
    second: int = 0

    def __post_init__(self) -> None:
        if self.scenes < 2 or self.train_scenes < 2 or not self.seeds or not 0 <= self.second <= self.scenes:
            raise InputError(
                f"{self.scenes} unseen scenes, {self.second} of them twice, {self.train_scenes} to train on and "
                f"{len(self.seeds)} seeds make no study: 2 scenes or more of each kind and a seed are needed, and no more "
                "scenes twice than once"
            )

    @property
    def runs(self) -> list[tuple[Arm, int]]:
        """Every training, seed by seed, so that what is complete early can be compared."""
        still = [(arm, 0) for arm in self.arms if not arm.trains]
        return still + [(arm, seed) for seed in self.seeds for arm in self.arms if arm.trains]

    @property
    def frames(self) -> list[Key]:
        """The unseen ones."""
        return [Key(scene, 0) for scene in range(self.scenes)]


class Study:
    """Trains and generates what a plan says and is not there yet; more seeds may be asked for later.

    Args:
        plan: the study.
        budget: after which nothing more begins.

    Raises InputError where the folder holds a study of other settings.
    """

    def __init__(self, plan: Plan, budget: Budget) -> None:
        self.plan, self.budget = plan, budget
        settings = {
            "arms": {arm.name: arm.values for arm in plan.arms}, "train": plan.train, "train_scenes": plan.train_scenes,
            "data_seed": plan.data_seed, "scenes": plan.scenes, "city_seed": plan.seed, "sampling_steps": plan.sampling_steps,
        }  # fmt: skip
        Store(plan.out).bind(json.loads(json.dumps(settings)))

    @cached_property
    def city(self) -> City:
        """The unseen scenes."""
        plan = self.plan
        return plain_city(plan.out / "city", plan.scenes, 1, plan.seed, (128, 224), workers=1)

    @staticmethod
    def label(arm: Arm, seed: int) -> str:
        """Name a training."""
        return f"{arm.name}-{seed}" if arm.trains else arm.name

    def model(self, arm: Arm, seed: int) -> str:
        """Return the model of a training, or that of an arm that does not train."""
        return str(self.plan.out / self.label(arm, seed) / "model") if arm.trains else str(arm.values["model"]["base"])

    def has_trained(self, arm: Arm, seed: int) -> bool:
        """Tell whether a training is complete."""
        return not arm.trains or (Path(self.model(arm, seed)) / "drivegen.json").is_file()

    def train(self, arm: Arm, seed: int) -> bool:
        """Train, or go on with it; tells whether it is complete."""
        if self.has_trained(arm, seed):
            return True
        if self.budget.spent:
            return False
        plan = self.plan
        if not plan.data.exists():
            with files.replacing(plan.data) as new:
                world.write(new, plan.train_scenes, 1, plan.data_seed, (128, 224), workers=1)
        values = dict(arm.values)
        values["output"] = str(plan.out / self.label(arm, seed))
        values["data"] = {"roots": [str(plan.data)], "size": [128, 224], "val_scenes": 0.0, "cache": str(plan.cache)}
        values["train"] = {**values["train"], **plan.train, "seed": seed}
        values |= {"preview": {"every": 0}, "logger": []}
        path = plan.out / f"{self.label(arm, seed)}.yaml"
        plan.out.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False).encode())  # no anchors
        timer, start = self.budget.stop_training(), time.process_time()
        timer.start()
        try:
            status = training.run(path, resume="auto")
        finally:
            timer.cancel()
        print(f"{self.label(arm, seed)}: {time.process_time() - start:.0f} s of processor time", flush=True)
        if status not in (0, 143):
            raise KeyboardInterrupt
        return status == 0

    def store(self, arm: Arm, seed: int) -> Store:
        """Where the pictures of a training go."""
        return Store(self.plan.out / "images" / self.label(arm, seed))

    def generate(self, arm: Arm, seed: int) -> bool:
        """Generate the unseen scenes with a trained arm; tells whether all are there."""
        store, jobs = self.store(arm, seed), []
        for key in self.plan.frames:
            twice = (False, True) if key.scene < self.plan.second else (False,)
            jobs += [
                Job("second" if second else "plain", key.name, self.city.frames[key], noise_seed(self.plan.seed, key, second))
                for second in twice
            ]
        waiting = [job for job in jobs if not store.has(job.variant, job.name, job.frame)]
        if not waiting:
            return True
        pipe = Pipeline.from_pretrained(self.model(arm, seed), device="cpu", dtype="float32")
        for job in waiting:
            if self.budget.spent:
                return False
            next(generate(pipe, [job], store, self.plan.sampling_steps))
        return True

    def run(self) -> Iterator[tuple[Arm, int]]:
        """Train and generate everything, seed by seed; yields what is complete. Ends early at the budget's end."""
        for arm, seed in self.plan.runs:
            if not (self.train(arm, seed) and self.generate(arm, seed)):
                print("the budget is spent; the same command goes on from here", flush=True)
                return
            yield arm, seed

    def disagreement(self, arm: Arm, seed: int) -> dict[Key, Array]:
        """Sum colour differences where cameras overlap, for `figures.consistency_figure`, over the scenes generated twice.

        Returns (6,) per frame: sum and count of the same noise, of different noises, and of the renders.
        """
        store, rows = self.store(arm, seed), {}
        for key in self.plan.frames[: self.plan.second]:
            frame = self.city.frames[key]
            views = {channel: self.city.view(key, channel) for channel in frame.channels}
            one, two = (store.load(variant, key.name, frame) for variant in ("plain", "second"))
            pairs = correspondences(frame, {channel: view.depth_m for channel, view in views.items()})
            rows[key] = disagreement(pairs, one, two, {channel: view.rgb for channel, view in views.items()})
        return rows

"""The end of a synthesis: tables, manifest and checksums from the records of the frames."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from drivegen.datasets import SceneSource, nuscenes
from drivegen.scene import Frame, Scene
from drivegen.support.files import is_temporary, sha256, sweep, unforeseen, write_atomically, write_json
from drivegen.support.locks import LOCK
from drivegen.synthesis.commits import Commits
from drivegen.synthesis.files import lidar_name, picture_name
from drivegen.synthesis.plan import WORK, Plan, validation_scenes
from drivegen.synthesis.recipe import Recipe
from drivegen.synthesis.truth import annotated
from drivegen.synthesis.variants import vary

MANIFEST = "manifest.jsonl"
CHECKSUMS = "sha256.json"
SPLITS = "splits.json"
TRAIN, VALIDATION = "synthetic_train", "synthetic_val"
"""Splits of the dataset; nuScenes' own names stand for nuScenes' own scenes in the devkit."""


def is_whole(out: Path, plan: Plan) -> bool:
    """Tell whether the dataset is finished: its last step removes the hidden folder."""
    return (out / CHECKSUMS).is_file() and (out / str(plan.facts["version"])).is_dir() and not (out / WORK).exists()


def finish(source: SceneSource, out: Path, recipe: Recipe, plan: Plan, commits: Commits) -> None:
    """Write tables, manifest and checksums; each step is done completely or not at all, and repeated where it was not.

    The scenes are held in memory while the tables are made.

    Args:
        source: the dataset that the plan was made for.
        out: the folder of the new one.
        recipe: the plan's.
        plan: the run's.
        commits: records of all its frames.
    """
    version = str(plan.facts["version"])
    scenes, splits, lines = [], {TRAIN: list[str](), VALIDATION: list[str]()}, []
    held_out = validation_scenes(source)
    width, height = int(plan.facts["size"][1]), int(plan.facts["size"][0])
    for name in plan.sources:
        read = source.scene(name)
        for variant, label in recipe.labels:
            varied = vary(read, recipe, variant, label, plan.run)
            records = [commits.get(frame.token) for frame in varied.scene.frames]
            lines += [line for record in records for line in record["lines"]]
            frames = map(annotated, varied.scene.frames, (record["boxes"] for record in records))
            scenes.append(_recorded(replace(varied.scene, frames=tuple(frames)), out, recipe, width, height))
            splits[VALIDATION if name in held_out else TRAIN].append(varied.scene.name)
    for folder in {path.parent for name in ("samples", "maps", WORK) for path in (out / name).rglob("*")}:
        sweep(folder, again=True)
    if not (out / version).is_dir():
        nuscenes.write(scenes, out, version, vehicle="generated")
    write_json(out / version / SPLITS, {name: members for name, members in splits.items() if members})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(out / MANIFEST, text.encode())
    write_json(out / CHECKSUMS, checksums(out))
    done = unforeseen(out / WORK)
    os.rename(out / WORK, done)  # in one step: half of what was noted would look like an unfinished run
    shutil.rmtree(done, ignore_errors=True)


def checksums(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a finished dataset, by name, except the file of checksums itself."""
    return {name: sha256(out / name) for name in dataset_files(out)}


def dataset_files(out: Path) -> list[str]:
    """List the files of a dataset, without the checksums, the lock and temporary hidden files."""
    found = []
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if not path.is_file() or name.as_posix() in (LOCK, CHECKSUMS) or name.parts[0] == WORK or is_temporary(path.name):
            continue
        found.append(name.as_posix())
    return found


def _recorded(scene: Scene, out: Path, recipe: Recipe, width: int, height: int) -> Scene:
    """Return a scene whose cameras took the generated pictures, with its sweeps."""

    def one(frame: Frame) -> Frame:
        pictures: dict[str, Any] = {c: out / picture_name(scene, frame, c, recipe.images) for c in frame.channels}
        return replace(frame.resized(width, height).with_pictures(pictures), lidar_path=out / lidar_name(scene, frame))

    return replace(scene, frames=tuple(map(one, scene.frames)))

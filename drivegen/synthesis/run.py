"""Generates the dataset: frames in order, each written completely, then the tables."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from drivegen.datasets import SceneSource
from drivegen.pipeline.pipeline import Pipeline
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from drivegen.support.files import make_subfolder, sha256, write_atomically
from drivegen.support.locks import locked_folder
from drivegen.support.progress import progress
from drivegen.support.signals import TERMINATED, noted_sigterm
from drivegen.synthesis import tables
from drivegen.synthesis.commits import Commits
from drivegen.synthesis.files import lidar_name, picture_name
from drivegen.synthesis.plan import Plan, settings_of, unit_seed
from drivegen.synthesis.provenance import encode, provenance
from drivegen.synthesis.recipe import Recipe
from drivegen.synthesis.truth import annotated, truth
from drivegen.synthesis.variants import Varied, sample_token, vary

SPARE_BYTES = 50_000_000
"""Left free on the disk."""


def synthesize(source: SceneSource, out: Path, recipe: Recipe, pipe: Pipeline, plan: Plan) -> int:
    """Make the planned dataset in a folder; a run that was ended in any way goes on, and ends with the same bytes.

    Args:
        source: the dataset that the plan was made for.
        out: new, empty, or begun with the same plan.
        recipe: the plan's.
        pipe: the plan's model.
        plan: what `plan.make` returned.

    Returns the number of frames that were generated now. Raises InputError where the folder holds anything else, was begun with
    another plan, another run is writing to it, or the disk is too full; SIGTERM finishes the frame and ends with status 143.
    """
    made = 0
    with noted_sigterm() as ended, locked_folder(out), _threads(int(plan.facts["computing"]["threads"])):
        plan.begin(out)
        if tables.is_whole(out, plan):
            return 0
        commits = Commits(out)
        tokens = (token for name in plan.sources for token in _tokens(source, recipe, plan, name))
        waiting = {token for token in tokens if commits.read(token) is None}
        _check_space(out, plan, len(waiting))
        with progress("synthesizing", plan.units, "frames", done=plan.units - len(waiting)) as advance:
            for varied in variations(source, recipe, plan, waiting):
                scene = varied.scene.with_neighbours(*pipe.neighbours) if any(pipe.neighbours) else varied.scene
                for number, frame in enumerate(scene.frames):
                    if frame.token not in waiting:
                        continue
                    unit(out, recipe, pipe, plan, varied, number, frame, commits)
                    made += 1
                    advance()
                    if ended():
                        raise SystemExit(TERMINATED)
        tables.finish(source, out, recipe, plan, commits)
    return made


def variations(source: SceneSource, recipe: Recipe, plan: Plan, waiting: Collection[str]) -> Iterator[Varied]:
    """Yield the scenes with frames to generate, in the plan's order; a source scene is read once.

    Args:
        source: the dataset.
        recipe: the plan's.
        plan: the run's.
        waiting: sample tokens of the frames to generate.
    """
    for name in plan.sources:
        if any(token in waiting for token in _tokens(source, recipe, plan, name)):
            scene = source.scene(name)
            yield from (vary(scene, recipe, variant, label, plan.run) for variant, label in recipe.labels)


def unit(
    out: Path, recipe: Recipe, pipe: Pipeline, plan: Plan, varied: Varied, number: int, frame: Frame, commits: Commits
) -> None:
    """Generate one frame with all its cameras, and write it: pictures, sweep, and last the record that it is complete.

    Args:
        out: the dataset's folder.
        recipe: the plan's.
        pipe: the model.
        plan: the run's.
        varied: the scene.
        number: which of its frames.
        frame: that frame, with the neighbours that plugins need.
        commits: where it is recorded.
    """
    settings = settings_of(recipe, recipe.variants[varied.variant], unit_seed(recipe, varied, number))
    try:
        found = truth(frame, varied.edits[number], recipe.variants[varied.variant].only_seen)
        (planned,) = pipe.plans(annotated(frame, found.boxes), pipe.settings(settings))
        views = pipe.run(planned)
    except InputError as error:
        raise InputError(f"scene {varied.scene.name!r}, source sample {varied.sources[number]}: {error}") from error
    about = provenance(plan, varied, number, views.settings, planned.digest()) | {"lidar": found.lidar}
    files, lines = {}, []
    for channel, image in views.pictures().items():
        own = {"sample_token": frame.token, "camera": channel, **about}
        name = picture_name(varied.scene, frame, channel, recipe.images)
        files[name] = _write(out, name, encode(image, recipe.images, own))
        lines.append({"file": name, "sha256": files[name], **own})
    name = lidar_name(varied.scene, frame)
    files[name] = _write(out, name, found.sweep)
    commits.add(frame.token, lines, files, found.boxes)


def _write(out: Path, name: str, data: bytes) -> str:
    path = make_subfolder(out, *Path(name).parent.parts) / Path(name).name
    write_atomically(path, data)
    return sha256(path)


def _tokens(source: SceneSource, recipe: Recipe, plan: Plan, name: str) -> Iterator[str]:
    """Yield the tokens of all that is made of a source scene."""
    return (sample_token(plan.run, label, token) for _, label in recipe.labels for token in source.samples(name))


def _check_space(out: Path, plan: Plan, waiting: int) -> None:
    needed = int(plan.facts["bytes"] * waiting / max(plan.units, 1))
    free = shutil.disk_usage(out).free - SPARE_BYTES
    if needed > free:
        raise InputError(
            f"the disk of {out} has {max(free, 0) / 1e9:.2f} GB free, and about {needed / 1e9:.2f} GB are to be written; "
            "make room, or name a folder elsewhere"
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

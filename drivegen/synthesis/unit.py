"""One frame with all its cameras, made and written completely: what a worker does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from drivegen.datasets import SceneSource
from drivegen.datasets.nuscenes.parts import Part, part
from drivegen.pipeline.manifest import model_facts
from drivegen.pipeline.pipeline import Pipeline
from drivegen.scene import Frame, Scene
from drivegen.support import strict_yaml
from drivegen.support.errors import InputError
from drivegen.support.files import make_subfolder, sha256, write_atomically
from drivegen.synthesis import audit
from drivegen.synthesis.commits import Commits
from drivegen.synthesis.digest import SceneDigest
from drivegen.synthesis.files import lidar_name, picture_name
from drivegen.synthesis.plan import Plan, settings_of, unit_seed
from drivegen.synthesis.provenance import encode, provenance
from drivegen.synthesis.recipe import Recipe
from drivegen.synthesis.truth import annotated, truth
from drivegen.synthesis.variants import Varied, vary
from drivegen.workers import Later
from drivegen.workers.process import Work, find

Job = Mapping[str, Any]
"""A frame to make: `scene` of the source, the variant's `label`, `number` of the frame, source `sample`, and its `token`."""


class Units:
    """Makes the frames of a plan; the scene that is in work is read once."""

    def __init__(self, source: SceneSource, out: Path, recipe: Recipe, pipe: Pipeline, plan: Plan) -> None:
        """Keep what every frame is made from.

        Args:
            source: the dataset that the plan was made for.
            out: the dataset's folder, begun.
            recipe: the plan's.
            pipe: the plan's model.
            plan: the run's.
        """
        self.source, self.out, self.recipe, self.pipe, self.plan = source, out, recipe, pipe, plan
        self.commits = Commits(out)
        self._variants = {label: variant for variant, label in recipe.labels}
        self._digest = SceneDigest()
        self._scene = lru_cache(1)(self._read)
        self._varied = lru_cache(1)(self._vary)

    def make(self, job: Job, beat: Callable[[], None]) -> Later:
        """Make a frame; what is left for later is to write its pictures, its sweep, and last the record that it is complete.

        The result is its token. Raises InputError where the source is another than when it was planned.

        Args:
            job: the frame.
            beat: called after each denoising step.
        """
        with threads(int(self.plan.facts["computing"]["threads"])):
            varied, scene = self._varied(job["scene"], job["label"])
            number, token = int(job["number"]), str(job["token"])
            if number >= len(scene.frames) or scene.frames[number].token != token:
                raise InputError(f"{self.source.root} has changed since the plan was made: {job['scene']!r} has other samples")
            write = self._made(varied, number, scene.frames[number], beat)

        def finish() -> str:
            write()
            return token

        return Later(finish)

    def _read(self, name: str) -> Scene:
        scene = self.source.scene(name)
        if self._digest.of(scene) != self.plan.facts["source_sha256"].get(scene.name):
            raise InputError(f"scene {name!r} of {self.source.root} has changed since the plan was made; begin a new folder")
        return scene

    def _vary(self, name: str, label: str) -> tuple[Varied, Scene]:
        """Return a variant, and its scene with the neighbours that plugins need."""
        varied = vary(self._scene(name), self.recipe, self._variants[label], label, self.plan.run)
        near = self.pipe.neighbours
        return varied, varied.scene.with_neighbours(*near) if any(near) else varied.scene

    def _made(self, varied: Varied, number: int, frame: Frame, beat: Callable[[], None]) -> Callable[[], None]:
        """Generate a frame, and return what writes it."""
        variant, edited = self.recipe.variants[varied.variant], varied.edits[number]
        settings = settings_of(self.recipe, variant, unit_seed(self.recipe, varied, number))
        try:
            found = truth(frame, edited, variant.only_seen)
            (planned,) = self.pipe.plans(annotated(frame, found.boxes), self.pipe.settings(settings))
            views = self.pipe.run(planned, lambda step: beat())
        except InputError as error:
            raise InputError(f"scene {varied.scene.name!r}, source sample {varied.sources[number]}: {error}") from error
        images, own, verdict = views.pictures(), varied.scene.frames[number], None
        if self.recipe.audit is not None:
            verdict = audit.judged(self.recipe.audit, planned.frame, images)
            images = audit.masked(images, verdict)
            if verdict.drops_frame:
                line = verdict.line(frame.token, len(images))
                return lambda: self.commits.add(frame.token, [], {}, {}, line)
            if self.recipe.audit.omitted == "drop" and verdict.omitted:
                own, edited = audit.without(own, edited, verdict.omitted)
                found = truth(own, edited, variant.only_seen)
        about = provenance(self.plan, varied, number, views.settings, planned.digest()) | {"lidar": found.lidar}
        true = annotated(own, found.boxes)
        return lambda: self._write(varied, number, true, found.sweep, images, about, verdict)

    def _write(
        self, varied: Varied, number: int, true: Frame, sweep: bytes, images: Mapping[str, Image], about: Mapping[str, Any],
        verdict: audit.Verdict | None,
    ) -> None:  # fmt: skip
        """Write a frame.

        Args:
            varied: its scene.
            number: which of the scene's it is.
            true: the frame, with the boxes that are true of the pictures.
            sweep: its lidar's, as a file.
            images: by camera.
            about: the provenance.
            verdict: the audit's, where there is one.
        """
        frame, files, lines, pictures = varied.scene.frames[number], {}, [], {}
        for channel, image in images.items():
            said = {"sample_token": frame.token, "camera": channel, **about}
            name = picture_name(varied.scene, frame, channel, self.recipe.images)
            files[name] = self._file(name, encode(image, self.recipe.images, said))
            lines.append({"file": name, "sha256": files[name], **said})
            pictures[channel] = self.out / name
        name = lidar_name(varied.scene, frame)
        files[name] = self._file(name, sweep)
        height, width = map(int, self.plan.facts["size"])
        # What plugins were given of the source stays with the source: its files are not the new dataset's.
        recorded = replace(true.resized(width, height).with_pictures(pictures), lidar_path=self.out / name, extras={})
        rows = self._rows(varied, number, recorded)
        if verdict is None:
            self.commits.add(frame.token, lines, files, rows)
        else:
            self.commits.add(frame.token, lines, files, audit.marked(rows, verdict), verdict.line(frame.token, len(images)))

    def _rows(self, varied: Varied, number: int, recorded: Frame) -> Part:
        frames = [*varied.scene.frames]
        frames[number] = recorded
        return part(replace(varied.scene, frames=tuple(frames)), number, self.out, "generated")

    def _file(self, name: str, data: bytes) -> str:
        path = make_subfolder(self.out, *Path(name).parent.parts) / Path(name).name
        write_atomically(path, data)
        return sha256(path)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with a number of threads, on which the last bits depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def setup(source: SceneSource, out: Path, recipe: Recipe, pipe: Pipeline, plan: Plan, device: str) -> dict[str, Any]:
    """Return what another process needs to make frames, as JSON values.

    Args:
        source: the dataset.
        out: the dataset that is made.
        recipe: the plan's.
        pipe: the plan's model, unchanged since it was loaded.
        plan: the run's.
        device: on which the process computes.
    """
    folder = pipe.model.folder
    if folder is None or plan.facts["model"]["added_sha256"]:
        raise InputError(
            "other processes load the model from its folder, and this one has none, or plugins or LoRAs were added to it; "
            "save it and load that, or use one worker"
        )
    reader = type(source)
    return {
        "reader": f"{reader.__module__}:{reader.__qualname__}", "root": str(Path(source.root).absolute()),
        "version": source.version, "out": str(out.absolute()), "recipe": dataclasses.asdict(recipe), "plan": dict(plan.facts),
        "model": str(folder.absolute()), "device": device,
    }  # fmt: skip


def prepare() -> None:
    """Import what loading any model imports, which takes longer than loading a small one."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401


def begin(given: Mapping[str, Any]) -> Work:
    """Open dataset and model in a process of its own; raises InputError where they are not those of the plan.

    Args:
        given: what `setup` returned.
    """
    plan = Plan(given["plan"])
    recipe = strict_yaml.build(Recipe, given["recipe"])
    if recipe.sha256 != plan.facts["recipe_sha256"]:
        raise InputError("a worker read another recipe than the plan's")
    source = find(given["reader"]).open(Path(given["root"]), given["version"] or None)
    computing = plan.facts["computing"]
    pipe = Pipeline.from_pretrained(given["model"], given["device"], computing["dtype"])
    facts = {k: v for k, v in model_facts(pipe.model, pipe.extensions.sha256).items() if k != "model"}
    if facts != plan.facts["model"]:
        raise InputError(f"the model in {given['model']} has changed since the plan was made")
    out = Path(given["out"])
    if not (out / "plan.json").is_file():
        raise InputError(f"a worker does not see {out}; name a folder that all machines share")
    return Units(source, out, recipe, pipe, plan).make

"""`drivegen edit`: recorded frames with objects put in, taken away, moved; or generated again from their own noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from drivegen.cli.generate import Selection, Where
from drivegen.cli.screen import Screen
from drivegen.edit import paint
from drivegen.edit.changes import Edits
from drivegen.edit.script import Entry
from drivegen.pipeline.checks import RECORDED
from drivegen.pipeline.manifest import Manifest, describe, made_by, model_facts
from drivegen.pipeline.pipeline import Pipeline
from drivegen.pipeline.settings import GenerationSettings
from drivegen.pipeline.told import inpaints
from drivegen.pipeline.views import SHEETS, Views
from drivegen.saved.model import library_versions
from drivegen.scene import Frame
from drivegen.scene.pictures import load_image
from drivegen.support.errors import InputError
from drivegen.support.files import make_subfolder
from drivegen.support.locks import locked_folder
from drivegen.support.names import check_file_name
from drivegen.support.progress import progress
from drivegen.support.signals import raised_by_sigterm


def edit(
    out: Path, selection: Selection, entries: Sequence[Entry], where: Where, screen: Screen, settings: GenerationSettings,
    invert: int | None,
) -> None:  # fmt: skip
    """Edit frames into OUT/<sample_token>/: every view, masks, and a sheet, with a manifest.

    Pictures of an earlier run that were made in the same way are kept.

    Args:
        out: the folder.
        selection: the data; each entry says its frame.
        entries: what changes of each frame; all are checked before anything is written.
        where: the model, and what it runs on.
        screen: where is said what was written.
        settings: how the pictures are drawn.
        invert: evaluations per step by which the recorded pictures' noise is found, of which the whole frame is generated
            again; None draws what changes into the recorded pictures.
    """
    work = []
    for entry in entries:
        edits, chosen = entry.edits(), replace(selection, samples=() if entry.sample is None else (entry.sample,))
        frames = chosen.frames()
        check_file_name(frames[0].token, "sample token")
        if invert is not None and (part := "--mask" if edits.masks else "--keep" if edits.keep else ""):
            raise InputError(f"--invert generates the whole frame again, and {part} says a part of it; give one of them")
        paint.planned(frames[0], edits)  # what it refuses is refused before a model is loaded
        for camera in frames[0].cameras:
            if camera.image_path is None or not camera.image_path.is_file():
                load_image(camera)  # says what is missing
        work.append((frames, edits, settings if entry.seed is None else settings.replaced(seed=entry.seed)))
    tokens = [frames.tokens[0] for frames, _, _ in work]
    if twice := next((token for i, token in enumerate(tokens) if token in tokens[:i]), None):
        raise InputError(f"two entries are of sample {twice!r}; write all edits of a frame in one entry")
    pipe = where.pipeline()
    for frames, edits, given in work:
        if invert is None:
            pipe.settings(given, **_options(pipe, frames[0], edits, given))
    each = len(settings.timesteps or ()) or settings.steps or pipe.model.sampling.steps
    with raised_by_sigterm(), locked_folder(out), Manifest(out) as manifest:
        desk = _Desk(out, pipe, manifest, model_facts(pipe.model, pipe.extensions.sha256))
        try:
            with progress("editing", len(work) * each, "steps") as advance:
                for number, (frames, edits, given) in enumerate(work):
                    frames.neighbours = pipe.neighbours
                    step = partial(_within, advance, number * each, each)
                    if invert is not None:
                        desk.invert(frames[0], edits, given, invert)
                    elif _is_part(edits):
                        desk.part(frames[0], edits, given, step)
                    else:
                        desk.whole(frames[0], edits, given, step)
                    advance(to=(number + 1) * each)
        finally:
            for said in desk.said:
                screen.line(said)


def _is_part(edits: Edits) -> bool:
    """Tell whether something is drawn into the recorded pictures; else the whole frame is generated again."""
    return edits.of_objects or bool(edits.masks)


def _options(pipe: Pipeline, frame: Frame, edits: Edits, settings: GenerationSettings) -> dict[str, Any]:
    """Give what a generation is asked for besides the settings; a model that inpaints draws whole pictures by a mask, too.

    Args:
        pipe: the model.
        frame: the frame.
        edits: what changes of it.
        settings: how it is drawn.
    """
    options: dict[str, Any] = {} if edits.prompt is None else {"prompt": edits.prompt}
    if _is_part(edits) or inpaints(pipe.model):
        options |= {"image": RECORDED, "mask": dict.fromkeys(frame.channels, True)}
    elif settings.strength is not None:
        options["image"] = RECORDED
    return options


def _within(advance: Any, before: int, most: int, step: int) -> None:
    """Say that a frame is `step` of its `most` steps further; some samplers take more than was said."""
    advance(to=before + min(step, most))


@dataclass(frozen=True, eq=False)
class _Desk:
    """Where frames are edited: the folder, the model and its hashes, and what is to be said of each frame."""

    out: Path
    pipe: Pipeline
    manifest: Manifest
    model: Mapping[str, Any]
    said: list[str] = field(default_factory=list)

    def part(self, frame: Frame, edits: Edits, settings: GenerationSettings, step: Callable[[int], None]) -> None:
        """Draw what changes into the recorded pictures."""
        work = paint.prepared(self.pipe, frame, edits, settings)
        common: dict[str, Any] = {**self.model, "conditions_sha256": work.digest(), "versions": library_versions()}
        if work.plan is not None:
            common = made_by(self.pipe.used(work.plan), self.model, work.digest())
        if self._kept(frame, common, (paint.SHEET, *work.masks)):
            return
        done = paint.run(self.pipe, work, step)
        folder = done.save(make_subfolder(self.out, frame.token))
        (folder / SHEETS[1]).unlink(missing_ok=True)  # of the whole frame, generated before
        self.manifest.add(describe(frame.token, done.after, folder, self.out, common))
        changed = [channel for channel, area in done.areas.items() if area.bounds is not None]
        said = f"{len(changed)} of {len(done.after)} views changed ({', '.join(changed)})" if changed else "nothing changed"
        self.said.append(f"{said}; look at {folder / paint.SHEET}")

    def whole(self, frame: Frame, edits: Edits, settings: GenerationSettings, step: Callable[[int], None]) -> None:
        """Generate the whole frame again."""
        options = self.pipe.settings(settings, **_options(self.pipe, frame, edits, settings))
        plan = next(self.pipe.plans(frame, options))
        common = made_by(self.pipe.used(plan), self.model, plan.digest())
        if not self._kept(frame, common, SHEETS):
            self._write(self.pipe.run(plan, step), common)

    def invert(self, frame: Frame, edits: Edits, settings: GenerationSettings, iterations: int) -> None:
        """Generate the whole edited frame again, from the noise of the recorded pictures.

        Args:
            frame: the recorded one.
            edits: what changes.
            settings: how it is drawn; what the inversion needs goes before the model's own.
            iterations: evaluations per step of the inversion.
        """
        after, _ = edits.apply(frame)
        noise = self.pipe.invert(frame, replace(settings, guidance=None), iterations=iterations)
        own = {} if edits.prompt is None else {"prompt": edits.prompt}
        options = self.pipe.settings(noise.settings, **own, guidance=settings.guidance, latents=noise)
        plan = next(self.pipe.plans(after, options))
        self._write(self.pipe.run(plan), made_by(self.pipe.used(plan), self.model, plan.digest()))

    def _kept(self, frame: Frame, common: Mapping[str, Any], sheets: Sequence[str]) -> bool:
        """Tell whether a frame's pictures are there, made in the same way."""
        folder = self.out / frame.token
        kept = self.manifest.holds(folder, frame.token, frame.channels, common, sheets)
        if kept:
            self.said.append(f"{folder} was there already, made in the same way: it stays as it is")
        return kept

    def _write(self, views: Views, common: Mapping[str, Any]) -> None:
        token = views.frame.token
        folder = views.save(make_subfolder(self.out, token))
        paint.remove_masks(folder, views)
        self.manifest.add(describe(token, views, folder, self.out, common))
        self.said.append(f"{len(views)} views of {token} in {folder}")

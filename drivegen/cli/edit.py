"""`drivegen edit`: recorded frames with objects put in, taken away, moved; or generated again from their own noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drivegen.cli.generate import Selection, Where
from drivegen.cli.screen import Screen
from drivegen.edit.changes import Edits
from drivegen.edit.paint import edit as paint
from drivegen.edit.paint import planned
from drivegen.edit.script import Entry
from drivegen.pipeline.pipeline import Pipeline
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from drivegen.support.files import make_subfolder
from drivegen.support.locks import locked_folder
from drivegen.support.names import check_file_name
from drivegen.support.signals import raised_by_sigterm


def edit(
    out: Path, selection: Selection, entries: Sequence[Entry], where: Where, screen: Screen, settings: dict[str, Any],
    invert: int | None,
) -> None:  # fmt: skip
    """Edit frames into OUT/<sample_token>/: every view, masks, and a sheet.

    Args:
        out: the folder.
        selection: the data; each entry says its frame.
        entries: what changes of each frame; all are checked before anything is written.
        where: the model, and what it runs on.
        screen: where is said what was written.
        settings: steps, guidance and seed; None = the model's own.
        invert: evaluations per step by which the recorded pictures' noise is found, of which the whole frame is generated
            again; None draws what changes into the recorded pictures.
    """
    work = []
    for entry in entries:
        edits, chosen = entry.edits(), replace(selection, samples=() if entry.sample is None else (entry.sample,))
        frames = chosen.frames()
        check_file_name(frames[0].token, "sample token")
        if invert is not None and edits.masks:
            raise InputError("--invert generates the whole frame again, and --mask says a part of it; give one of them")
        planned(frames[0], edits)  # what it refuses is refused before a model is loaded
        work.append((frames, edits, settings if entry.seed is None else {**settings, "seed": entry.seed}))
    tokens = [frames.tokens[0] for frames, _, _ in work]
    if twice := next((token for i, token in enumerate(tokens) if token in tokens[:i]), None):
        raise InputError(f"two entries are of sample {twice!r}; write all edits of a frame in one entry")
    pipe = where.pipeline()
    with locked_folder(out), raised_by_sigterm():
        for frames, edits, given in work:
            frames.neighbours = pipe.neighbours
            _one(out, pipe, frames[0], edits, given, invert, screen)


def _one(
    out: Path, pipe: Pipeline, frame: Frame, edits: Edits, settings: dict[str, Any], invert: int | None, screen: Screen
) -> None:  # fmt: skip
    if invert is None and (edits.of_objects or edits.masks):
        done = paint(pipe, frame, edits, **settings)
        folder = done.save(make_subfolder(out, frame.token))
        changed = [channel for channel, area in done.areas.items() if area.bounds is not None]
        said = f"{len(changed)} of {len(done.after)} views changed ({', '.join(changed)})" if changed else "nothing changed"
        screen.line(f"{said}; look at {folder / 'sheet.png'}")
        return
    given = settings if edits.prompt is None else {**settings, "prompt": edits.prompt}
    after, _ = edits.apply(frame)
    if invert is None:
        views = pipe(after, **given)
    else:
        noise = pipe.invert(frame, steps=settings["steps"], iterations=invert)
        views = pipe(after, noise.settings, **{**given, "steps": None, "latents": noise})
    views.save(make_subfolder(out, frame.token))
    screen.line(f"{len(views.images)} views of {frame.token} in {out / frame.token}")

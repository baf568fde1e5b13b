"""`drivegen edit`: one recorded frame again, with another prompt, boxes moved or taken away; from its own noise where asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivegen.cli.generate import Selection, Where
from drivegen.cli.screen import Screen
from drivegen.pipeline.views import Views
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from drivegen.support.files import make_subfolder
from drivegen.support.locks import locked_folder
from drivegen.support.signals import raised_by_sigterm


@dataclass(frozen=True)
class Edits:
    """What changes: the description, boxes that are moved (INSTANCE=FORWARD,LEFT in metres) or taken away."""

    prompt: str | None = None
    move: Sequence[str] = ()
    remove: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.prompt is None and not self.move and not self.remove:
            raise InputError("nothing is to be edited; give --prompt, --move or --remove")

    def apply(self, frame: Frame) -> Frame:
        """Return the edited frame; raises InputError for a box that it does not have."""
        for text in self.move:
            instance, forward_m, left_m = read_move(text)
            frame = frame.move_box(instance, forward_m, left_m)
        for instance in self.remove:
            frame = frame.remove_box(instance)
        return frame


def read_move(text: str) -> tuple[str, float, float]:
    """Read INSTANCE=FORWARD,LEFT in metres."""
    instance, equals, numbers = text.rpartition("=")
    parts = numbers.split(",")
    try:
        forward_m, left_m = (float(part) for part in parts)
    except ValueError:
        forward_m = left_m = math.nan
    if not equals or not instance or not math.isfinite(forward_m + left_m):
        raise InputError(f"--move {text!r:.80} must be INSTANCE=FORWARD,LEFT in metres, such as 6f1c=2.5,0")
    return instance, forward_m, left_m


def edit(
    out: Path, selection: Selection, edits: Edits, where: Where, screen: Screen, settings: dict[str, Any], invert: int | None
) -> None:  # fmt: skip
    """Generate one edited frame into OUT: every view, and sheets.

    Args:
        out: the folder.
        selection: which frame; the first of it.
        edits: what changes.
        where: the model, and what it runs on.
        screen: where is said what was written.
        settings: steps, guidance and seed; None = the model's own.
        invert: evaluations per step by which the recorded pictures' noise is found; None starts from the seed's noise.
    """
    frames = selection.frames()
    edits.apply(frames[0])  # what it refuses is refused before a model is loaded
    pipe = where.pipeline()
    frames.neighbours = pipe.neighbours
    frame: Frame = frames[0]
    given = settings if edits.prompt is None else {**settings, "prompt": edits.prompt}
    with locked_folder(out), raised_by_sigterm():
        if invert is None:
            views: Views = pipe(edits.apply(frame), **given)
        else:
            noise = pipe.invert(frame, steps=settings["steps"], iterations=invert)
            views = pipe(edits.apply(frame), noise.settings, **{**given, "steps": None, "latents": noise})
        views.save(make_subfolder(out, frame.token))
    screen.line(f"{len(views.images)} views of {frame.token} in {out / frame.token}")

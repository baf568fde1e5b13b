"""Are the conditions used: frames generated with one condition removed, taken from another frame, or with the front camera
turned, judged as any generated frame is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import radians

import numpy as np

from drivegen.datasets import SceneSource
from drivegen.evaluate.judges import Judge
from drivegen.evaluate.metrics.control import recalls
from drivegen.evaluate.metrics.scores import Estimate, bootstrap, ratio, relative
from drivegen.evaluate.report import Figure
from drivegen.evaluate.seen import Seen, see
from drivegen.pipeline.pipeline import Pipeline
from drivegen.pipeline.plan import Plan
from drivegen.pipeline.settings import GenerationSettings
from drivegen.scene import Frame
from drivegen.scene.geometry import Array
from drivegen.support.errors import InputError
from drivegen.support.progress import progress

TURN_DEG = 20.0
FIGURES = ("vehicle IoU", "drivable IoU", "recall of boxes")


@dataclass(frozen=True, eq=False)
class Used:
    """Figures of every change, and why some could not be made."""

    figures: tuple[Figure, ...]
    notes: tuple[str, ...]


def conditions_used(
    pipe: Pipeline, source: SceneSource, tokens: Sequence[str], judge: Judge, steps: int | None, found_at: float, own: str
) -> Used:
    """Generate recorded frames as they are and with each change, from the same noise, and judge them.

    The changes: each plugin null ("removed"); each plugin given another frame's condition ("another frame's"), of another scene
    where there is one with as many cameras; the most forward camera turned by 20°, judged by what it would see then.

    Args:
        pipe: the model.
        source: the recorded dataset.
        tokens: of the frames.
        judge: the referee.
        steps: of the sampler; None takes the model's.
        found_at: the evidence at which a box is found.
        own: the fingerprint's name.
    """
    height, width = pipe.model.image_size

    def read(token: str) -> Frame:
        return source.frame_with_neighbours(token, *pipe.neighbours).resized(width, height)

    settings = pipe.settings(GenerationSettings(steps=steps, seed=0))
    names = list(pipe.host.plugins)
    rows: dict[str, list[tuple[Seen, Seen]]] = {}
    notes: dict[str, None] = {}
    with progress("changing conditions", len(tokens) * (2 + 2 * len(names)), "generations") as advance:
        for token in tokens:
            frame = read(token)
            plan = _plan(pipe, frame, settings)
            asis = _seen(pipe, plan, judge)
            advance()
            other = _other(source, token)
            donor = None if other is None else _plan(pipe, read(other), settings)
            for what, changed in _changes(pipe, frame, plan, donor, settings, names):
                advance()
                if isinstance(changed, str):
                    notes[changed] = None
                else:
                    rows.setdefault(what, []).append((_seen(pipe, changed, judge), asis))
    return Used(tuple(_figures(rows, found_at, own)), tuple(notes))


def _changes(
    pipe: Pipeline, frame: Frame, plan: Plan, donor: Plan | None, settings: GenerationSettings, names: Sequence[str]
) -> Iterator[tuple[str, Plan | str]]:
    """Yield each change with its plan, or with why there is none."""
    for name in names:
        try:
            yield f"{name} removed", _plan(pipe, frame, pipe.settings(settings, without=(name,)))
        except InputError as error:
            yield "", f"{name} cannot be removed: {error}"
    for name in names:
        if donor is None:
            yield "", f"no other frame has as many cameras as {frame.token}: its conditions are not exchanged"
        else:
            arrays = {**plan.batch.arrays, name: donor.batch.arrays[name]}
            yield f"{name} of another frame", replace(plan, batch=replace(plan.batch, arrays=arrays))
    forward = min(frame.cameras, key=lambda camera: abs(camera.yaw_rad)).channel
    turned = frame.move_camera(forward, yaw_rad=radians(TURN_DEG))
    yield f"{forward} turned by {TURN_DEG:g}°", _plan(pipe, turned, settings)


def _plan(pipe: Pipeline, frame: Frame, settings: GenerationSettings) -> Plan:
    return next(iter(pipe.plans(frame, settings)))


def _seen(pipe: Pipeline, plan: Plan, judge: Judge) -> Seen:
    pictures = pipe.run(plan).pictures()
    return see(plan.frame, {channel: np.asarray(picture) for channel, picture in pictures.items()}, judge, None)[0]


def _other(source: SceneSource, token: str) -> str | None:
    """Choose another sample with as many cameras: of the next scene that has one, else of its own scene."""
    scenes = list(source.scenes)
    own = next((i for i, scene in enumerate(scenes) if token in source.samples(scene)), 0)
    for scene in (*scenes[own + 1 :], *scenes[:own], scenes[own]):
        for other in source.samples(scene):
            if other != token and source.views(other) == source.views(token):
                return other
    return None


def _figures(rows: Mapping[str, Sequence[tuple[Seen, Seen]]], found_at: float, own: str) -> Iterator[Figure]:
    for what, pairs in rows.items():
        for figure in FIGURES:
            changed, asis = (np.stack([_counts(pair[side], figure, found_at) for pair in pairs]) for side in (0, 1))
            if changed[:, 1].sum() and asis[:, 1].sum():
                both = np.concatenate([changed, asis], 1)
                left = _finite(bootstrap(both, relative))
                values = _finite(bootstrap(changed, ratio)), _finite(bootstrap(asis, ratio))
                yield Figure("conditions", f"{what}: {figure}", *values, left, fingerprint=own)


def _finite(estimate: Estimate) -> Estimate | None:
    return estimate if np.isfinite(estimate.value) else None


def _counts(seen: Seen, figure: str, found_at: float) -> Array:
    if figure == "recall of boxes":
        return recalls(seen.boxes, found_at).get("all", np.zeros(2))
    return seen.overlaps.get(figure.removesuffix(" IoU"), np.zeros(2))

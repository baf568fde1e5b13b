"""Obedience: how much better a model denoises recorded pictures with a frame's own condition than with another frame's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from drivegen.datasets import SceneSource
from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.evaluate.metrics.scores import Estimate, bootstrap, ratio
from drivegen.host import batch as data
from drivegen.plugin import Arrays, Grid
from drivegen.plugin.unknown import KNOWN
from drivegen.sampling.noise import generator_of
from drivegen.saved.model import Model
from drivegen.scene import Frame
from drivegen.scene.geometry import Array
from drivegen.support.errors import InputError, nearest
from drivegen.support.progress import track
from drivegen.training.fill import to_unit
from drivegen.training.frames import pixels_of
from drivegen.training.noise import training_noise
from drivegen.training.order import spread

CONDITIONS = ("own", "other", "null", "absent")
"""A frame's own condition, that of a frame of another scene, null (unknown to the plugin), absent (scale 0)."""

TIMESTEPS = 4
"""Noise levels per frame, evenly apart."""


@dataclass(frozen=True)
class Obedience:
    """What one plugin of a model does for its denoising error.

    Args:
        plugin: its instance name.
        error: by `CONDITIONS`, the mean squared error of the prediction.
        rise: by "other", "null" and "absent", the share by which the error is larger than with the frame's own condition.
        frames: how many were measured.
        unknown: how many of the frames looked at the plugin knows nothing of.
    """

    plugin: str
    error: Mapping[str, Estimate]
    rise: Mapping[str, Estimate]
    frames: int
    unknown: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


@torch.no_grad()
def obedience(model: Model, names: Sequence[str], source: SceneSource, frames: int = 40) -> list[Obedience]:
    """Measure plugins of a model on a dataset's recorded pictures.

    Per frame, at four noise levels, the noise is predicted with all other conditions as they are and this plugin's in each of
    the `CONDITIONS`; noise and levels depend on the frame's token alone. Intervals are by bootstrap over scenes.

    Args:
        model: the model.
        names: instance names of the plugins.
        source: the dataset.
        frames: at most this many, spread over all scenes.

    Raises InputError for an unknown name, and where the dataset has no two scenes with a frame that a plugin knows.
    """
    plugins = {name: model.host.plugin(name) for name in model.host.plugins}
    for name in names:
        if name not in plugins:
            raise InputError(f"the model has no plugin {name!r}{nearest(name, plugins)}; it has {', '.join(plugins)}")
    height, width = model.image_size
    wanted = data.neighbours_wanted(plugins)
    light = {name: plugin.weightless() for name, plugin in plugins.items()}
    tokens = [(scene, token) for scene in source.scenes for token in source.samples(scene)]
    looked_at: list[_Seen] = []
    for scene, token in track(spread(tokens, frames), "reading", unit="frames"):
        frame = source.frame_with_neighbours(token, *wanted).resized(width, height)
        looked_at.append(_Seen(scene, frame, data.prepare(frame, light, training=True)))
    model.host.eval()
    return [_measured(model, name, looked_at) for name in names]


@dataclass(frozen=True, eq=False)
class _Seen:
    """A frame, its scene, and what every plugin prepared of it."""

    scene: str
    frame: Frame
    prepared: data.Prepared


def _measured(model: Model, name: str, looked_at: Sequence[_Seen]) -> Obedience:
    known = [seen for seen in looked_at if KNOWN not in seen.prepared[name]]
    pairs = [(seen, other) for i, seen in enumerate(known) if (other := _other(known, i)) is not None]
    scenes = sorted({seen.scene for seen, _ in pairs})
    if len(scenes) < 2:
        raise InputError(
            f"{name!r} knows something of frames of {len(scenes)} scenes, among {len(looked_at)} frames looked at; frames of"
            " two scenes with as many cameras are needed, for another frame's condition and for the spread"
        )
    sums = np.zeros((len(scenes), 2 * len(CONDITIONS)))
    for seen, other in track(pairs, f"measuring {name}", unit="frames"):
        errors = _errors(model, name, seen, other)
        sums[scenes.index(seen.scene)] += np.stack([errors, np.ones_like(errors)], 1).reshape(-1)
    columns = {what: slice(2 * i, 2 * i + 2) for i, what in enumerate(CONDITIONS)}
    own = columns["own"]
    return Obedience(
        name, {what: bootstrap(sums[:, columns[what]], ratio) for what in CONDITIONS},
        {
            what: bootstrap(np.concatenate([sums[:, columns[what]], sums[:, own]], 1), _rise)
            for what in CONDITIONS if what != "own"
        },
        len(pairs), len(looked_at) - len(known),
    )  # fmt: skip


def _rise(sums: Array) -> Array:
    return ratio(sums[..., 0:2]) / ratio(sums[..., 2:4]) - 1


def _other(known: Sequence[_Seen], i: int) -> _Seen | None:
    """Choose the next frame of another scene with as many cameras; None where there is none."""
    mine = known[i]
    for seen in (*known[i + 1 :], *known[:i]):
        if seen.scene != mine.scene and len(seen.frame.cameras) == len(mine.frame.cameras):
            return seen
    return None


def _errors(model: Model, name: str, seen: _Seen, other: _Seen) -> Array:
    """Return the mean squared error with each of the `CONDITIONS`, over the views and the noise levels."""
    host = model.host
    device = next(host.backbone.unet.parameters()).device
    plugins = {each: host.plugin(each) for each in host.plugins}
    # Collated together, so that both have the same shapes.
    views = len(seen.frame.cameras)
    both = data.collate([seen.prepared, other.prepared], plugins, views, [seen.frame.token, other.frame.token]).to(device)
    own, others = ({n: _row(arrays, row) for n, arrays in both.arrays.items()} for row in (0, 1))
    grid = Grid(1, 1, views)
    encoded = [
        host.encode(own, grid), host.encode({**own, name: others[name]}, grid), host.encode(own, grid, {name: False}),
        host.encode(own, grid, scales={name: 0.0}),
    ]  # fmt: skip
    first_stage = host.backbone.first_stage
    clean = first_stage.scale(first_stage.moments(to_unit(_pixels(seen.frame).to(device))).float().chunk(2, 1)[0])
    schedule, generator = NoiseSchedule.trained(host.backbone.scheduler), generator_of(f"obedience/{seen.frame.token}")
    errors = np.zeros(len(CONDITIONS))
    start = float(torch.rand(1, generator=generator))
    for k in range(TIMESTEPS):
        t = torch.full((views,), int((start + k / TIMESTEPS) % 1 * schedule.steps), device=device)
        shape = (clean.shape[1], clean.shape[2], clean.shape[3])
        noise = training_noise(model.sampling.noise, grid, shape, [seen.frame.cameras], generator).to(clean)
        noisy, target = schedule.add_noise(clean, noise, t), schedule.target(clean, noise, t)
        for i, conditions in enumerate(encoded):
            errors[i] += float((host(noisy, t, conditions).float() - target).square().mean()) / TIMESTEPS
    return errors


def _row(arrays: Arrays, row: int) -> Arrays:
    return {key: value[row : row + 1] for key, value in arrays.items()}


def _pixels(frame: Frame) -> torch.Tensor:
    return torch.from_numpy(pixels_of(frame))


def markdown(found: Sequence[Obedience], notes: Mapping[str, Any]) -> str:
    """Write the table in Markdown, followed by what was measured, how and where."""
    head = "| plugin | error | another frame's | null | absent | frames | unknown |"
    lines = [head, "|---" * 7 + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(found)]
    lines += ["", "Error: of the predicted noise, with the frame's own condition; the others are by how much it rises.", ""]
    lines += ["In brackets: 95 % intervals by bootstrap over scenes.", ""]
    return "\n".join(lines + [f"- {name}: {value}" for name, value in notes.items()]) + "\n"


def rows(found: Sequence[Obedience]) -> list[list[str]]:
    """Return the table's cells, a row per plugin."""
    return [
        [
            one.plugin, f"{one.error['own'].value:.4f}", *(_percent(one.rise[what]) for what in CONDITIONS[1:]),
            str(one.frames), str(one.unknown),
        ]
        for one in found
    ]  # fmt: skip


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.1f} % ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"

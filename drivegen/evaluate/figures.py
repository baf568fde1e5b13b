"""The figures of the table, computed from judged images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from drivegen.evaluate.labels import (
    Judged,
    Labels,
    Place,
    floor_overlaps,
    overlaps,
    right,
    scene_sums,
    truth_labels,
)
from drivegen.evaluate.metrics.frechet import frechet_distance
from drivegen.evaluate.metrics.scores import Estimate, bootstrap, control, excess, ratio, relative, share
from drivegen.evaluate.metrics.spectrum import greatest_departure
from drivegen.evaluate.referee import DRIVABLE_GROUP, VEHICLE_GROUP, Referee
from drivegen.evaluate.variants import TURNED, Key
from drivegen.scene.geometry import Array
from drivegen.world import View

GROUPS_SCORED = {"drivable": DRIVABLE_GROUP, "vehicle": VEHICLE_GROUP}


@dataclass(frozen=True)
class Figure:
    """One number of the table: its column, the number of frames behind it, and its interval."""

    name: str
    column: str
    value: float
    low: float | None = None
    high: float | None = None
    frames: int = 0
    scenes: int = 0


@dataclass(frozen=True, eq=False)
class Truth:
    """The true labels of a measurement's frames, by view; time of day and weather (indices), by frame."""

    scenes: int
    time: Mapping[Key, int] = field(default_factory=dict)
    weather: Mapping[Key, int] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    renders: Judged = field(default_factory=Judged)

    def see(self, referee: Referee, key: Key, views: Mapping[str, View]) -> None:
        """Add a frame: its true labels, and the referee's labels of its renders.

        Args:
            referee: judges the renders.
            key: the frame.
            views: the renders by camera channel.
        """
        self.labels.update({(key, channel): truth_labels(view.classes) for channel, view in views.items()})
        self.renders.add(referee, key, {channel: view.rgb for channel, view in views.items()})

    def only(self, keys: Sequence[Key], channel: str | None = None) -> Labels:
        """Labels of some frames, of all their cameras or of one."""
        chosen = set(keys)
        return {p: v for p, v in self.labels.items() if p[0] in chosen and channel in (None, p[1])}


def keys_of(judged: Judged) -> list[Key]:
    """List the frames that were judged."""
    return sorted({place[0] for place in judged.labels})


def figure_of(name: str, column: str, estimate: Estimate, frames: int) -> Figure:
    """Make a figure of an estimate.

    Args:
        name: of the figure.
        column: of the table.
        estimate: its value and interval.
        frames: how many are behind it.
    """
    return Figure(name, column, estimate.value, estimate.low, estimate.high, frames, estimate.scenes)


def _sums(truth: Labels, generated: Labels, renders: Labels, floor: Labels, group: int, scenes: int) -> Array:
    """(S, 6) for `scores.control`, without the scenes that have no frame here."""
    own = [overlaps(truth, labels, group, scenes) for labels in (generated, renders)]
    return np.concatenate([*own, floor_overlaps(truth, floor, group, scenes)], 1)


def present(sums: Array, keys: Sequence[Key]) -> Array:
    """Leave out the rows (S, K) of scenes that have no frame among the keys."""
    return sums[sorted({key.scene for key in keys})]


def control_figures(truth: Truth, images: Judged, column: str) -> list[Figure]:
    """Compute control scores, raw IoU and its ratio to the renders' IoU.

    Args:
        truth: the true labels.
        images: the judged images.
        column: of the table.
    """
    keys = keys_of(images)
    labels = truth.only(keys)
    out = []
    for name, group in GROUPS_SCORED.items():
        sums = present(_sums(labels, images.labels, truth.renders.labels, images.labels, group, truth.scenes), keys)
        out.append(figure_of(f"{name}_control", column, bootstrap(sums, control), len(keys)))
        out.append(figure_of(f"{name}_iou", column, bootstrap(sums[:, :2], ratio), len(keys)))
        out.append(figure_of(f"{name}_iou_ratio", column, bootstrap(sums[:, :4], relative), len(keys)))
        out.append(figure_of(f"{name}_iou_renders", column, bootstrap(sums[:, 2:4], ratio), len(keys)))
        out.append(figure_of(f"{name}_iou_other_frames", column, bootstrap(sums[:, 4:6], ratio), len(keys)))
    return out


def iou_figures(truth: Truth, images: Judged, prefix: str, column: str) -> list[Figure]:
    """Compute the raw IoU of another set of images: VAE reconstructions, or every plugin null.

    Args:
        truth: the true labels.
        images: the judged images.
        prefix: of the figures' names.
        column: of the table.
    """
    keys = keys_of(images)
    out = []
    for name, group in GROUPS_SCORED.items():
        sums = present(overlaps(truth.only(keys), images.labels, group, truth.scenes), keys)
        out.append(figure_of(f"{prefix}_{name}_iou", column, bootstrap(sums, ratio), len(keys)))
    return out


def condition_figures(truth: Truth, images: Judged, column: str) -> list[Figure]:
    """Compute the accuracy of time of day and weather per view, relative to the same classifier's on renders.

    Args:
        truth: the true labels.
        images: the judged images.
        column: of the table.
    """
    keys = keys_of(images)
    out = []
    for name, known, said, on_renders in (
        ("time_of_day", truth.time, images.time, truth.renders.time),
        ("weather", truth.weather, images.weather, truth.renders.weather),
    ):
        places = [place for place in images.labels if place in on_renders]
        pair = (right(known, said, places, truth.scenes), right(known, on_renders, places, truth.scenes))
        sums = present(np.concatenate(pair, 1), keys)
        out.append(figure_of(f"{name}_relative", column, bootstrap(sums, relative), len(keys)))
        out.append(figure_of(f"{name}_accuracy", column, bootstrap(sums[:, :2], ratio), len(keys)))
        out.append(figure_of(f"{name}_accuracy_renders", column, bootstrap(sums[:, 2:], ratio), len(keys)))
    return out


def wrong_boxes_figures(truth: Truth, images: Judged, wrong: Judged, column: str) -> list[Figure]:
    """Compute the vehicle control score with another frame's boxes, and its share of the score with the frame's own.

    Args:
        truth: the true labels.
        images: the judged images of the frames' own boxes, which give the floor of both scores.
        wrong: the judged images with other frames' boxes.
        column: of the table.
    """
    keys = [key for key in keys_of(wrong) if any(place[0] == key for place in images.labels)]
    labels = truth.only(keys)
    own = _sums(labels, images.labels, truth.renders.labels, images.labels, VEHICLE_GROUP, truth.scenes)
    sums = present(np.concatenate([overlaps(labels, wrong.labels, VEHICLE_GROUP, truth.scenes), own[:, 2:], own], 1), keys)
    return [
        figure_of("vehicle_control_wrong_boxes", column, bootstrap(sums[:, :6], control), len(keys)),
        figure_of("wrong_boxes_share_left", column, bootstrap(sums, share), len(keys)),
    ]


def turned_figures(truth: Truth, images: Judged, turned_truth: Truth, turned: Judged, column: str) -> list[Figure]:
    """Compute the control score of the front camera turned by 20°, and its share of the unturned one on the same frames.

    Args:
        truth: the true labels.
        images: the judged images.
        turned_truth: the true labels with the camera turned.
        turned: the judged images with the camera turned.
        column: of the table.
    """
    keys = [key for key in keys_of(turned) if (key, TURNED) in images.labels]
    out = []
    for name, group in GROUPS_SCORED.items():
        parts = []
        for reality, made in ((turned_truth, turned), (truth, images)):
            labels = reality.only(keys, TURNED)
            parts.append(_sums(labels, made.labels, reality.renders.labels, made.labels, group, truth.scenes))
        sums = present(np.concatenate(parts, 1), keys)
        out.append(figure_of(f"{name}_control_turned", column, bootstrap(sums[:, :6], control), len(keys)))
        out.append(figure_of(f"{name}_turned_share", column, bootstrap(sums, share), len(keys)))
    return out


def consistency_figure(rows: Mapping[Key, Array], scenes: int, column: str) -> list[Figure]:
    """Compute the cross-view error.

    Args:
        rows: (6,) per frame: sums and counts of the same seed, of different seeds, of renders.
        scenes: number of scenes.
        column: of the table.
    """
    sums = present(scene_sums(rows.items(), scenes, 6), list(rows))
    out = [figure_of("consistency", column, bootstrap(sums, excess), len(rows))]
    for i, name in enumerate(("same_seed", "different_seeds", "renders")):
        out.append(figure_of(f"consistency_{name}", column, bootstrap(sums[:, 2 * i : 2 * i + 2], ratio), len(rows)))
    return out


def energy_figures(rows: Mapping[Key, Array], scenes: int, column: str) -> list[Figure]:
    """Compute the energy of generated latents over that of the renders' by band of spatial frequency, and how far it is from 1.

    Args:
        rows: (2 · bands,) per frame: energies of the generated latents by band, then of the renders'.
        scenes: number of scenes.
        column: of the table.
    """
    bands = len(next(iter(rows.values()))) // 2
    sums = present(scene_sums(rows.items(), scenes, 2 * bands), list(rows))
    out = [figure_of("latent_energy_departure", column, bootstrap(sums, greatest_departure), len(rows))]
    for band in range(bands):
        out.append(figure_of(f"latent_energy_band_{band + 1}", column, bootstrap(sums[:, band::bands], ratio), len(rows)))
    return out


def frechet_figure(name: str, column: str, images: Judged, renders: Judged) -> Figure:
    """Compute the Fréchet distance between the referee's pooled features of images and of renders of the same views.

    Args:
        name: of the figure.
        column: of the table.
        images: the judged images.
        renders: the judged renders.
    """
    places: list[Place] = [place for place in images.features if place in renders.features]
    made = np.stack([images.features[place] for place in places])
    real = np.stack([renders.features[place] for place in places])
    scenes = len({key.scene for key, _ in places})
    return Figure(name, column, frechet_distance(made, real), frames=len(keys_of(images)), scenes=scenes)

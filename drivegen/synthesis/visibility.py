"""The visible share of each box: boxes hide each other, as seen by the cameras of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drivegen.scene import Box3D, Camera, Frame
from drivegen.scene.geometry import NEAR_M, Array, project
from drivegen.synthesis.rays import Rays

PLACES = 7
"""Places along each edge of a side at which it is asked what is seen, its corners among them."""

_u, _v = (axis.ravel() for axis in np.meshgrid(np.linspace(-1, 1, PLACES), np.linspace(-1, 1, PLACES)))
_UNIT = np.concatenate(
    [np.insert(np.stack([_u, _v], -1), axis, side, axis=1) for axis in range(3) for side in (-1.0, 1.0)]
)  # fmt: skip
_NORMALS = np.repeat(np.array([np.eye(3)[axis] * side for axis in range(3) for side in (-1.0, 1.0)]), PLACES**2, axis=0)


@dataclass(frozen=True, eq=False)
class Seen:
    """What cameras see of a box: places (P, 3) on it, in the global frame, and the share of what faces them.

    share is None where no camera is turned to it, 0 where other boxes hide all of it.
    """

    share: float | None
    places: Array


def seen(frame: Frame, boxes: Sequence[Box3D]) -> list[Seen]:
    """Return what the cameras of a frame see of each box; what several cameras see counts once.

    Places on a box's sides are weighed by the solid angle that they take, seen from the middle of the rig. What is beyond the
    border of every picture is not seen.

    Args:
        frame: its cameras.
        boxes: all that hide each other.
    """
    if not boxes:
        return []
    half = np.array([box.size_wlh_m[[1, 0, 2]] / 2 for box in boxes])
    places = np.stack([box.global_SE3_object.transform(_UNIT * h) for box, h in zip(boxes, half, strict=True)])
    normals = np.stack([_NORMALS @ box.global_SE3_object.rotation.T for box in boxes])
    middle = np.mean([camera.global_SE3_camera.translation for camera in frame.cameras], axis=0)
    weights = _weights(places, normals, half, middle)
    owner = np.repeat(np.arange(len(boxes)), places.shape[1])
    flat, flat_normals = places.reshape(-1, 3), normals.reshape(-1, 3)
    shown, found = np.zeros(len(flat), dtype=bool), np.zeros(len(flat), dtype=bool)
    for camera in frame.cameras:
        inside = _in_picture(camera, flat, flat_normals)
        shown[inside] = True
        rays = Rays(camera.global_SE3_camera.translation, flat[inside])
        hidden = np.zeros(len(inside), dtype=bool)
        for i, box in enumerate(boxes):
            met, enter, _ = rays.through(box)
            hidden[met[(enter < 1) & (owner[inside][met] != i)]] = True
        found[inside[~hidden]] = True
    shown, found = shown.reshape(len(boxes), -1), found.reshape(len(boxes), -1)
    total = weights.sum(1)
    return [
        Seen(_share(float((weights[i] * found[i]).sum()), float(total[i])) if shown[i].any() else None, places[i][found[i]])
        for i in range(len(boxes))
    ]  # fmt: skip


def _share(part: float, total: float) -> float:
    return min(part / total, 1.0) if total else 1.0  # the rig is inside of the box


def _weights(places: Array, normals: Array, half: Array, middle: Array) -> Array:
    """Return (M, P) the solid angle of the part of a side about each place, up to a factor per box, 0 where it faces away."""
    way = middle - places
    area = np.stack([half[:, 1] * half[:, 2], half[:, 0] * half[:, 2], half[:, 0] * half[:, 1]], -1)
    sides = np.repeat(area, 2 * PLACES**2, axis=1)
    facing = (way * normals).sum(-1).clip(0)
    return np.asarray(sides * facing / np.linalg.norm(way, axis=-1).clip(1e-6) ** 3)


def _in_picture(camera: Camera, places: Array, normals: Array) -> np.ndarray:
    """Number the places in a camera's picture whose side faces it."""
    local = camera.global_SE3_camera.inverse().transform(places)
    width, height = camera.image_size
    pixels, depth = project(camera.K_image, local)
    facing = ((camera.global_SE3_camera.translation - places) * normals).sum(-1) > 0
    with np.errstate(invalid="ignore"):
        inside = (pixels >= 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    return np.flatnonzero(inside & facing & (depth > NEAR_M))


def level(share: float | None) -> int:
    """Return nuScenes' level of visibility, 1 (0-40 %) to 4 (80-100 %); what no camera sees has the lowest."""
    return 1 if share is None else 1 + sum(share >= least for least in (0.4, 0.6, 0.8))

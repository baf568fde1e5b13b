"""Masks by which a network learns to inpaint: of a scene's objects, and of places where some might stand."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from drivegen.raster.object_masks import object_mask
from drivegen.scene import Box3D, Frame
from drivegen.scene.box_changes import placed

PLACED = ("car", "car", "truck", "bus", "pedestrian", "bicycle", "motorcycle", "traffic_cone")
"""Classes of which the places are drawn where something might stand."""

MOST_PLACED = 4
FURTHEST_M, ASIDE_M = 30.0, 12.0

KINDS = 4
"""How many sets of masks a frame has."""


def drawn_masks(frame: Frame) -> NDArray[np.bool_]:
    """Return sets of masks (KINDS, V, H, W) at the generated size, True where something is drawn anew; equal for equal frames.

    The first is of some of the frame's objects; the second of places about the vehicle where objects might stand, as an object
    that is not there any more must be learned too; the third of both; the last is all of every picture.
    """
    seed = hashlib.sha256(f"masks/{frame.token}".encode()).digest()[:8]
    generator = np.random.default_rng(int.from_bytes(seed, "big"))
    own, other = (_some(generator, frame.boxes) for _ in range(2))
    places, more = (_places(generator, frame) for _ in range(2))
    sets = [[object_mask(camera, boxes) for camera in frame.cameras] for boxes in (own or places, places, (*other, *more))]
    width, height = frame.cameras[0].image_size
    every = np.ones((len(frame.cameras), height, width), bool)
    return np.stack([*(np.stack(masks) if any(mask.any() for mask in masks) else every for masks in sets), every])


def _some(generator: np.random.Generator, boxes: tuple[Box3D, ...]) -> tuple[Box3D, ...]:
    """Draw how many of the boxes there are, and then which."""
    chosen = generator.random(len(boxes)) < generator.uniform(0.1, 1)
    return tuple(box for box, taken in zip(boxes, chosen, strict=True) if taken)


def _places(generator: np.random.Generator, frame: Frame) -> tuple[Box3D, ...]:
    out = []
    for i in range(generator.integers(1, MOST_PLACED + 1)):
        place = (generator.uniform(-FURTHEST_M, FURTHEST_M), generator.uniform(-ASIDE_M, ASIDE_M))
        category, yaw = PLACED[generator.integers(len(PLACED))], generator.uniform(-np.pi, np.pi)
        box = placed(category, frame.global_SE3_ego, place, yaw, f"place-{i}", frame.boxes)
        assert box is not None  # the sizes of these classes are known
        out.append(box)
    return tuple(out)

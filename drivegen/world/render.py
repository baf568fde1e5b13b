"""Views of a frame: builds static and moving objects, sorts them for the ray caster, and tone-maps the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from drivegen.scene import Camera, Frame
from drivegen.scene.geometry import SE3, Array
from drivegen.world.cast import TILE_PX, bin_rectangles, screen_bounds
from drivegen.world.fields import Fields, draw_fields
from drivegen.world.kernels import drop_stale
from drivegen.world.light import EXPOSURE, FOG, SUN, SUN_RGB, WET, environment, lamps
from drivegen.world.parts import AXES, Parts
from drivegen.world.shade import COLUMNS, GRID_M
from drivegen.world.shapes import shape_of
from drivegen.world.static_objects import static_parts
from drivegen.world.streets import HALF_M
from drivegen.world.trace import colours_of, labels_of
from drivegen.world.view import View

if TYPE_CHECKING:
    from drivegen.world.city import CityScene

Counts = NDArray[np.int64]

drop_stale(colours_of.stats.cache_path)


@dataclass(frozen=True, eq=False)
class Prepared:
    """One frame ready to be drawn: the scene's static part is shared between frames."""

    frame: Frame
    offset: Array
    fields: Fields
    static: Parts
    parts: Parts
    env: Array
    scene: tuple[Any, ...]


def _ground_grid(rectangles: Array) -> tuple[Array, Array]:
    """Lists of rectangles (N, 4: x0, y0, x1, y1 in metres) for each cell of the ground grid."""
    bounds = np.zeros((len(rectangles), 5))
    bounds[:, :4] = rectangles + HALF_M
    return bin_rectangles(bounds, np.arange(len(rectangles)), GRID_M, COLUMNS, COLUMNS)


def _casters(parts: Parts, env: Array) -> tuple[Array, Array]:
    """Which primitives can shade the ground of a cell: their frames, projected along the sun onto z = 0."""
    n = parts.numbers
    if not len(n) or env[SUN_RGB] <= 0.2:
        return _ground_grid(np.zeros((0, 4)))
    axes = n[:, AXES : AXES + 9].reshape(-1, 3, 3)
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], dtype=float)
    corners = n[:, None, :3] + np.einsum("kc,ncx->nkx", signs, axes)
    flat = corners[..., :2] - corners[..., 2:] * env[SUN : SUN + 2] / env[SUN + 2]
    return _ground_grid(np.concatenate([flat.min(1), flat.max(1)], axis=1))


def _feet(city: CityScene, boxes: list[tuple[SE3, Array]]) -> Array:
    """Footprints (N, 8) that darken the ground: x, y, cos, sin, half-length, half-width, reach, strength."""
    rows = []
    for pose, size in boxes:
        yaw = pose.yaw_rad
        small = size[1] < 1.2
        rows.append(
            (
                *pose.translation[:2],
                math.cos(yaw),
                math.sin(yaw),
                size[1] / 2,
                size[0] / 2,
                0.3 if small else 0.7,
                0.55 if small else 0.88,
            )
        )
    for b in city.blocks.buildings:
        rows.append((*b.centre, math.cos(b.heading_rad), math.sin(b.heading_rad), b.length_m / 2, b.width_m / 2, 2.2, 0.5))
    for t in city.blocks.trees:
        rows.append((*t.centre, 1.0, 0.0, 0.2, 0.2, 1.2 if t.kind else 2.2, 0.4))
    return np.array(rows).reshape(-1, 8)


def prepare(city: CityScene, frame: Frame, before: Prepared | None = None) -> Prepared:
    """Make a frame ready for `render`.

    Args:
        city: the scene with its surroundings.
        frame: one of its frames, edited or not.
        before: what was made of another frame of the same city; its static part is used again.
    """
    offset = city.offset
    if before is None:
        fields, static = draw_fields(city.plan), static_parts(city.blocks)
        env = environment(city.conditions, city.blocks, city.seed * 1_000_003 + city.index)
    else:
        fields, static, env = before.fields, before.static, before.env
    local = SE3(np.eye(3), np.array([-offset[0], -offset[1], 0.0]))
    posed = [(box, local @ box.global_SE3_object) for box in frame.boxes]
    moving = [part for i, (box, pose) in enumerate(posed) if (part := shape_of(box, i, pose)) is not None]
    parts = Parts.join(static, *moving)
    lights = lamps(city.conditions, city.blocks, posed, local @ frame.global_SE3_ego)
    reach = lights[:, 10:11]
    feet = _feet(city, [(pose, box.size_wlh_m) for box, pose in posed])
    wide = np.hypot(feet[:, 4], feet[:, 5])[:, None] + feet[:, 6:7] * 1.1
    ground = (
        fields.areas, fields.line, fields.along, fields.ident, fields.line_kind, fields.line_length_m, fields.crossing,
        fields.lot,
    )  # fmt: skip
    scene = (
        parts.numbers, parts.labels, env, ground, _casters(parts, env), lights,
        _ground_grid(np.concatenate([lights[:, :2] - reach, lights[:, :2] + reach], axis=1)),
        feet, _ground_grid(np.concatenate([feet[:, :2] - wide, feet[:, :2] + wide], axis=1)),
    )  # fmt: skip
    return Prepared(frame, offset, fields, static, parts, env, scene)


def _bins(parts: Parts, pose: Array, K: Array, width: int, height: int, mirror: bool) -> tuple[Array, Array, Array]:
    bounds = screen_bounds(parts.numbers, len(parts.numbers), pose, K, width, height, mirror, 0.02)
    if mirror:  # rough water scatters a little
        bounds[:, :4] += (-6, -10, 6, 10)
    order = np.argsort(bounds[:, 4], kind="stable")
    columns, rows = -(-width // TILE_PX), -(-height // TILE_PX)
    if mirror:
        bounds[:, 4] = 0.0
    starts, items = bin_rectangles(bounds, order, TILE_PX, columns, rows)
    return bounds, starts, items


def _develop(image: Array, env: Array) -> NDArray[np.uint8]:
    """Expose, add bloom around bright lamps, and apply a film curve."""
    image = image * env[EXPOSURE]
    veil = 0.6 if env[FOG] > 0.02 or env[WET] > 0 else 0.35
    bright = np.maximum(image - 1.4, 0).astype(np.float32)
    if bright.max() > 0:
        scale = image.shape[1] / 224
        glow = sum(w * cv2.GaussianBlur(bright, (0, 0), s * scale) for w, s in ((0.5, 1.2), (0.35, 3.5), (0.2, 9.0)))
        image = image + veil * glow
    image = np.maximum(image, 0)
    curve = (image * (2.51 * image * 0.36 + 0.03)) / (image * 0.6 * (2.43 * image * 0.6 + 0.59) + 0.14) / 0.92  # ACES-like
    return (np.clip(curve, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


def render(prepared: Prepared, camera: Camera, counts: tuple[Counts, Counts] | None = None) -> View:
    """Draw one camera's view.

    Args:
        prepared: what `prepare` made of its frame.
        camera: the camera, drawn at its K_image and image_size.
        counts: (alone, seen), (boxes + 1,) int64 each: gets each object's pixels added, drawn alone and in the picture.
    """
    width, height = camera.image_size
    pose = camera.global_SE3_camera
    eye = pose.translation - np.array([*prepared.offset, 0.0])
    rotation, K = np.ascontiguousarray(pose.rotation), np.ascontiguousarray(camera.K_image)
    inverse = np.ascontiguousarray(np.concatenate([rotation.T, -(rotation.T @ eye)[:, None]], axis=1))
    bins = _bins(prepared.parts, inverse, K, width, height, False)
    mirror = _bins(prepared.parts, inverse, K, width, height, True) if prepared.env[WET] > 0 else bins
    classes = np.zeros((height, width), dtype=np.uint8)
    instances = np.zeros((height, width), dtype=np.int32)
    depth = np.zeros((height, width), dtype=np.float32)
    alone, seen = counts if counts is not None else (np.zeros(len(prepared.frame.boxes) + 1, dtype=np.int64) for _ in range(2))
    labels_of(prepared.scene, eye, rotation, K, width, height, bins, classes, instances, depth, alone, seen)
    image = np.zeros((height, width, 3))
    colours_of(prepared.scene, eye, rotation, K, width, height, bins, mirror, image)
    return View(_develop(image, prepared.env), classes, instances, depth)

"""The appearance of the ten detection classes, fitted into their boxes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from drivegen.scene import JOINTS, Box3D
from drivegen.scene.geometry import SE3, Array
from drivegen.world.classes import CLASSES
from drivegen.world.look import DARK, Look
from drivegen.world.parts import BALL, BOX, CONE, CYLINDER, GLASS, LIGHT, MATTE, PAINT, STRIPED, TAPERED, Builder, Colour, Parts
from drivegen.world.people import person

_TINT: Colour = (0.04, 0.05, 0.06)
_LAMP: Colour = (1.0, 0.95, 0.8)
_TAIL: Colour = (0.75, 0.02, 0.02)
_STEEL: Colour = (0.25, 0.26, 0.28)

_CAR_COLOURS: tuple[Colour, ...] = (
    (0.75, 0.76, 0.78), (0.4, 0.41, 0.43), (0.025, 0.025, 0.03), (0.55, 0.03, 0.03), (0.03, 0.1, 0.42), (0.12, 0.14, 0.17),
    (0.7, 0.42, 0.03), (0.04, 0.25, 0.14), (0.02, 0.24, 0.35), (0.7, 0.7, 0.66), (0.35, 0.06, 0.1), (0.5, 0.16, 0.02),
)  # fmt: skip


MARGIN_M = 0.004
"""Objects end this far inside their boxes, so that lidar points on them are inside whatever the rounding."""


def _lights(b: Builder, l: float, w: float, front_z: float, rear_z: float, size: float, moving: bool) -> None:
    """Head and tail lights at the ends (half-sizes l, w)."""
    on = 1.0 if moving else 0.0
    for side in (1, -1):
        b.put(BOX, (l - 0.03, side * w * 0.7, front_z), (0.025, w * 0.2, size), _LAMP, LIGHT, night=9 * on, day=0.25)
        b.put(BOX, (-l + 0.03, side * w * 0.74, rear_z), (0.025, w * 0.17, size), _TAIL, LIGHT, night=3.2 * on, day=0.25)


def _car(b: Builder, look: Look, l: float, w: float, h: float, moving: bool) -> None:
    paint = look.pick(_CAR_COLOURS)
    kind = look.uniform()
    radius = min(0.34, h * 0.46)
    floor = -h + radius * 0.62
    waist = -h + 2 * h * (0.56 if kind < 0.75 else 0.52)
    b.put(TAPERED, (0, 0, (floor + waist) / 2), (l - 0.05, w - 0.02, (waist - floor) / 2), paint, PAINT, (0.06, 0.08))
    b.put(BOX, (0, 0, floor + 0.06), (l - 0.02, w - 0.05, 0.07), DARK)
    if kind < 0.45:  # saloon
        middle, reach, slope = -0.1 * l, 0.56 * l, 0.42
    elif kind < 0.75:  # hatchback
        middle, reach, slope = -0.24 * l, 0.7 * l, 0.28
    else:  # van
        middle, reach, slope = -0.14 * l, 0.82 * l, 0.16
    b.put(TAPERED, (middle, 0, (waist + h) / 2), (reach, w * 0.9, (h - waist) / 2 - 0.015), _TINT, GLASS, (slope, 0.2))
    b.put(TAPERED, (middle, 0, h - 0.05), (reach * (1 - slope) + 0.06, w * 0.79, 0.045), paint, PAINT, (0.08, 0.1))
    if kind >= 0.45:
        for x in (0.0, -0.5):  # pillars
            b.put(
                TAPERED,
                (middle + x * reach, 0, (waist + h) / 2),
                (0.06, w * 0.905, (h - waist) / 2 - 0.02),
                paint,
                PAINT,
                (0, 0.2),
            )
    for x in (0.6, -0.6):
        for y in (1, -1):
            b.wheel(x * l, y * (w - 0.13), -h + radius, radius, 0.24)
    b.put(BOX, (l - 0.03, 0, (floor + waist) / 2 - 0.02), (0.02, w * 0.42, 0.09), DARK)
    b.put(BOX, (-l + 0.03, 0, (floor + waist) / 2), (0.02, w * 0.3, 0.06), (0.6, 0.6, 0.55))
    _lights(b, l, w, waist - 0.2, waist - 0.18, 0.085, moving)


def _truck(b: Builder, look: Look, l: float, w: float, h: float, moving: bool) -> None:
    cab, cargo = (
        look.vivid(0.55),
        look.pick(((0.75, 0.75, 0.73), (0.6, 0.6, 0.58), (0.05, 0.2, 0.4), (0.55, 0.35, 0.05), (0.15, 0.3, 0.15))),
    )
    front, top = l - 2.1, -h + min(2 * h * 0.82, 2.5)
    b.put(
        TAPERED,
        ((front + l) / 2, 0, (-h + 0.5 + top) / 2),
        ((l - front) / 2 - 0.03, w - 0.08, (top + h - 0.5) / 2),
        cab,
        PAINT,
        (0.1, 0.04),
    )
    b.put(BOX, (l - 0.12, 0, top - 0.55), (0.09, w * 0.84, 0.32), _TINT, GLASS)
    b.put(BOX, (l - 0.75, 0, top - 0.55), (0.35, w - 0.06, 0.28), _TINT, GLASS)
    if look.uniform() < 0.75:  # a box body, else a flat bed with a load
        b.put(
            BOX,
            ((front - 0.15 - l) / 2, 0, (-h + 0.95 + h) / 2),
            ((front - 0.15 + l) / 2 - 0.03, w - 0.02, (2 * h - 0.95) / 2 - 0.02),
            cargo,
        )
        b.put(BOX, ((front - 0.15 - l) / 2, 0, -h + 1.5), ((front + l) / 2 - 0.4, w - 0.01, 0.14), cab)
    else:
        b.put(BOX, ((front - l) / 2 - 0.1, 0, -h + 1.05), ((front + l) / 2 - 0.12, w - 0.02, 0.12), _STEEL)
        b.put(
            BOX,
            ((front - l) / 2 - 0.1, 0, -h + 1.15 + h * 0.45),
            ((front + l) / 2 - 0.35, w - 0.2, h * 0.45),
            (0.3, 0.18, 0.08),
        )
        b.put(BOX, (front - 0.2, 0, -0.1 * h), (0.06, w - 0.05, h * 0.75), _STEEL)
    b.put(BOX, (0, 0, -h + 0.65), (l - 0.1, w * 0.45, 0.16), DARK)
    for x in (l - 1.2, -l + 1.1, -l + 2.2):
        for y in (1, -1):
            b.wheel(x, y * (w - 0.2), -h + 0.48, 0.48, 0.34)
    _lights(b, l, w, -h + 0.75, -h + 0.8, 0.11, moving)


def _bus(b: Builder, look: Look, l: float, w: float, h: float, moving: bool) -> None:
    paint, trim = (
        look.pick(
            ((0.6, 0.05, 0.04), (0.75, 0.75, 0.72), (0.04, 0.22, 0.5), (0.1, 0.4, 0.16), (0.75, 0.45, 0.03), (0.6, 0.6, 0.62))
        ),
        look.vivid(0.4),
    )
    b.put(BOX, (0, 0, 0.13), (l - 0.04, w - 0.03, h - 0.15), paint, PAINT)
    b.put(BOX, (0, 0, -h + 0.62), (l - 0.03, w - 0.02, 0.14), trim, PAINT)
    lit = 0.9 if moving else 0.0
    b.put(BOX, (-0.1, 0, 0.28 * h), (l - 0.5, w - 0.01, h * 0.29), _TINT, GLASS, night=lit)
    for i in range(1, 6):
        b.put(BOX, (-l + i * l / 3, 0, 0.28 * h), (0.07, w - 0.005, h * 0.29), paint, PAINT)
    b.put(BOX, (l - 0.03, 0, 0.18 * h), (0.025, w * 0.88, h * 0.42), _TINT, GLASS, night=0.4 * lit)
    b.put(BOX, (l - 0.028, 0, 0.76 * h), (0.027, w * 0.6, 0.13), (0.9, 0.45, 0.05), LIGHT, night=2.0, day=0.6)
    b.put(BOX, (-l + 0.03, 0, 0.35 * h), (0.025, w * 0.7, h * 0.25), _TINT, GLASS, night=lit)
    for x in (l * 0.62, -l * 0.55):
        for y in (1, -1):
            b.wheel(x, y * (w - 0.18), -h + 0.48, 0.48, 0.34)
    _lights(b, l, w, -h + 0.65, -h + 0.85, 0.12, moving)


def _trailer(b: Builder, look: Look, l: float, w: float, h: float, moving: bool) -> None:
    skin = look.pick(((0.75, 0.75, 0.74), (0.5, 0.52, 0.55), (0.08, 0.16, 0.36), (0.55, 0.08, 0.06), (0.6, 0.5, 0.3)))
    b.put(BOX, (0, 0, 0.45), (l - 0.02, w - 0.02, h - 0.5), skin)
    band = look.vivid(0.5)
    b.put(BOX, (0, 0, 0.55), (l * 0.6, w - 0.01, h * 0.24), band)
    b.put(BOX, (0, 0, -h + 0.8), (l - 0.1, w * 0.5, 0.14), DARK)
    for i in range(int(l)):  # ribs
        b.put(BOX, (-l + 0.6 + i * 2.0, 0, 0.45), (0.04, w - 0.012, h - 0.52), (skin[0] * 0.6, skin[1] * 0.6, skin[2] * 0.6))
    for x in (-l + 1.0, -l + 2.1):
        for y in (1, -1):
            b.wheel(x, y * (w - 0.2), -h + 0.46, 0.46, 0.34)
    for leg in (0.5, -0.5):
        b.put(BOX, (l * 0.55, leg * w, -h + 0.42), (0.07, 0.07, 0.4), _STEEL)
    b.put(BOX, (-l + 0.02, 0, -h + 0.62), (0.018, w * 0.9, 0.08), (0.8, 0.75, 0.7), STRIPED)
    _lights(b, l, w, -h + 0.8, -h + 0.8, 0.09, moving)


def _digger(b: Builder, look: Look, l: float, w: float, h: float, moving: bool) -> None:
    body = look.pick(((0.8, 0.48, 0.02), (0.8, 0.3, 0.02), (0.75, 0.6, 0.05)))
    for y in (1, -1):
        b.put(BOX, (-0.28 * l, y * w * 0.74, -h + 0.36), (l * 0.68, w * 0.23, 0.34), DARK)
        for x in (-0.9, 0.33):
            b.put(
                CYLINDER,
                (x * l, y * w * 0.74, -h + 0.36),
                (0.33, 0.33, w * 0.24),
                _STEEL,
                axes=np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]]),
            )
    b.put(TAPERED, (-0.45 * l, 0, -h + 1.12), (l * 0.5, w * 0.9, 0.42), body, PAINT, (0.1, 0.06))
    b.put(TAPERED, (-0.12 * l, w * 0.4, 0.22 * h), (l * 0.24, w * 0.42, h * 0.5), _TINT, GLASS, (0.12, 0.1))
    b.put(BOX, (-0.12 * l, w * 0.4, 0.72 * h), (l * 0.22, w * 0.42, 0.05), body, PAINT)
    lean = look.uniform(0.3, 0.5)
    elbow = (lean * l, -w * 0.3, 0.82 * h)
    b.beam((-0.1 * l, -w * 0.3, -0.3 * h), elbow, (0.16, 0.14), body)
    b.beam(elbow, (0.84 * l, -w * 0.3, -0.25 * h), (0.12, 0.12), body)
    b.put(TAPERED, (0.82 * l, -w * 0.3, -0.5 * h), (l * 0.12, w * 0.34, h * 0.26), _STEEL, MATTE, (0.5, 0.0))
    b.put(CYLINDER, (-0.12 * l, w * 0.4, 0.72 * h + 0.13), (0.09, 0.09, 0.07), (1.0, 0.5, 0.05), LIGHT, night=5, day=0.8)


def _pedestrian(b: Builder, look: Look, l: float, w: float, h: float, moving: bool) -> None:
    # the gait follows the place, so it moves on from frame to frame
    place = b.pose.translation
    stride = math.sin((place[0] + place[1]) * 2.1 + look.uniform(0, 6)) * l * 0.62 if moving else 0.04
    person(b, look, 0.0, -h * 0.06, h - 0.01, 0.0, ((stride, w * 0.24), (-stride, -w * 0.24)), -h + 0.03, w * 0.72)


def _two_wheels(b: Builder, look: Look, l: float, w: float, h: float, motor: bool, moving: bool, rider: bool) -> None:
    radius = 0.31 if motor else 0.33
    colour = look.vivid(0.6)
    for x in (l - radius - 0.02, -l + radius + 0.02):
        b.wheel(x, 0.0, -h + radius, radius, 0.14 if motor else 0.06)
    if motor:
        b.put(TAPERED, (0.05 * l, 0, -h + 0.6), (l * 0.5, 0.15, 0.2), colour, PAINT, (0.2, 0.3))
        b.put(BOX, (-0.35 * l, 0, -h + 0.82), (l * 0.32, 0.13, 0.05), DARK)
        b.put(BALL, (0.62 * l, 0, -h + 0.9), (0.13, 0.12, 0.12), _LAMP, LIGHT, night=9.0 * moving, day=0.4)
        b.put(BOX, (-0.75 * l, 0, -h + 0.75), (0.03, 0.08, 0.05), _TAIL, LIGHT, night=4.0 * moving, day=0.3)
        b.beam((0.66 * l, 0, -h + radius), (0.42 * l, 0, -h + 1.0), (0.05, 0.05), _STEEL)
    else:
        top, axle = -h + 0.85, -h + radius
        tubes = (
            ((0.6, axle), (0.42, top)), ((0.42, top - 0.1), (-0.2, top - 0.1)), ((-0.2, top), (0.0, axle)),
            ((-0.6, axle), (-0.2, top - 0.1)), ((0.0, axle), (0.42, top - 0.15)), ((0.0, axle), (-0.6, axle)),
        )  # fmt: skip
        for a, c in tubes:
            b.beam((a[0] * l, 0, a[1]), (c[0] * l, 0, c[1]), (0.028, 0.028), colour)
        b.put(BOX, (-0.2 * l, 0, top + 0.03), (0.12, 0.07, 0.03), DARK)
        b.put(BOX, (-l + 0.06, 0, -h + 0.62), (0.03, 0.05, 0.05), _TAIL, LIGHT, night=2.5 * moving, day=0.3)
    bar = -h + (1.02 if motor else 1.0)
    b.put(BOX, (0.42 * l, 0, bar), (0.04, w - 0.03, 0.025), DARK)
    if rider:
        seat = -h + (0.86 if motor else 0.92)
        person(b, look, -0.22 * l, seat, h - 0.01, 0.26, ((0.18, 0.17), (0.1, -0.17)), -h + 0.28, min(w, 0.36) * 0.85)


def _barrier(b: Builder, look: Look, l: float, w: float, h: float, moving: bool) -> None:
    if look.uniform() < 0.6:
        for z in (0.5, -0.2):
            b.put(BOX, (0, 0, z * h), (min(l, 0.09), w - 0.01, h * 0.26), (0.8, 0.04, 0.03), STRIPED)
        for y in (1, -1):
            b.put(BOX, (0, y * w * 0.86, -0.1 * h), (0.05, 0.06, h * 0.88), (0.6, 0.6, 0.58))
            b.put(BOX, (0, y * w * 0.86, -h + 0.06), (l - 0.01, 0.12, 0.05), DARK)
    else:
        b.put(TAPERED, (0, 0, -0.4 * h), (l - 0.01, w - 0.01, h * 0.59), (0.5, 0.49, 0.46), MATTE, (0.55, 0.0))
        b.put(
            BOX,
            (0, 0, 0.55 * h),
            (l * 0.46, w - 0.01, h * 0.42),
            (0.8, 0.04, 0.03) if look.uniform() < 0.5 else (0.75, 0.3, 0.02),
            STRIPED,
        )


def _cone(b: Builder, look: Look, l: float, w: float, h: float, moving: bool) -> None:
    b.put(BOX, (0, 0, -h + 0.03), (l - 0.01, w - 0.01, 0.028), (0.06, 0.05, 0.05))
    b.put(CONE, (0, 0, 0.02), (l * 0.74, w * 0.74, h - 0.03), (0.9, 0.2, 0.01), STRIPED, (0.85, 0.85))


_Maker = Callable[[Builder, Look, float, float, float, bool], None]
_MAKERS: dict[str, _Maker] = {
    "car": _car, "truck": _truck, "construction_vehicle": _digger, "bus": _bus, "trailer": _trailer, "barrier": _barrier,
    "pedestrian": _pedestrian, "traffic_cone": _cone,
}  # fmt: skip


_WITH_PEOPLE = ("pedestrian", "motorcycle", "bicycle")


def shape_of(box: Box3D, number: int, pose: SE3) -> Parts | None:
    """Build the object of a box; None without a detection class.

    Args:
        box: the annotated object.
        number: index of the box in its frame; the object is labelled number + 1.
        pose: of the box, in the renderer's frame.
    """
    built = _built(box, number, pose)
    return None if built is None else built.done(_limit(box))


def joints_of(box: Box3D, number: int, pose: SE3) -> Array | None:
    """Return the joints (17, 3) of the person whom `shape_of` draws for a box, in the box's frame; None where it draws none.

    Args:
        box: the annotated object.
        number: index of the box in its frame.
        pose: of the box, in the renderer's frame: the gait follows the place.
    """
    if box.detection_class not in _WITH_PEOPLE:
        return None
    built = _built(box, number, pose)
    if built is None or not built.joints:
        return None
    return np.array([built.joints[name] for name in JOINTS]) * built.squeeze(_limit(box))


def _limit(box: Box3D) -> Array:
    """Half-sizes along the object's axes that it is squeezed into."""
    w, l, h = (float(v) / 2 for v in box.size_wlh_m)
    return np.array([l, w, h]) - MARGIN_M


def _built(box: Box3D, number: int, pose: SE3) -> Builder | None:
    name = box.detection_class
    if name is None:
        return None
    look = Look(box.instance or box.token or str(number))
    builder = Builder(pose, CLASSES.index(name), number + 1, look.seed)
    w, l, h = (float(v) / 2 for v in box.size_wlh_m)
    moving = box.attribute not in ("vehicle.parked", "cycle.without_rider", "pedestrian.standing")
    if name in ("motorcycle", "bicycle"):
        _two_wheels(builder, look, l, w, h, name == "motorcycle", moving, box.attribute != "cycle.without_rider")
    else:
        _MAKERS[name](builder, look, l, w, h, moving)
    return builder

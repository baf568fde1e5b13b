"""What a scene's description says, and the plain sentence that says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from drivegen.scene import Box3D
from drivegen.world.blocks import Style
from drivegen.world.conditions import Conditions
from drivegen.world.streets import Plan

_NAMES = {
    "truck": ("a truck", "trucks"), "construction_vehicle": ("a construction vehicle", "construction vehicles"),
    "bus": ("a bus", "buses"), "trailer": ("a trailer", "trailers"), "motorcycle": ("a motorcycle", "motorcycles"),
    "bicycle": ("a bicycle", "bicycles"), "pedestrian": ("a pedestrian", "pedestrians"), "barrier": ("a barrier", "barriers"),
    "traffic_cone": ("a traffic cone", "traffic cones"),
}  # fmt: skip

NEAR_M = 40.0
"""Only objects within this distance of the ego are described."""


@dataclass(frozen=True)
class Facts:
    """What is said of a scene, in the plain sentence's words."""

    time_of_day: str
    weather: str
    street: str
    """`Junction`, `Two-way street` or `One-way street`."""
    where: str
    """`in the city centre`, `in a suburb`, `between terraced houses` …"""
    things: tuple[str, ...]
    """`parked cars`, `a crossing`, `a bus`, `pedestrians` …"""


def facts(
    conditions: Conditions, plan: Plan, style: Style, boxes: Iterable[Box3D], ego_xy: np.ndarray, offset: np.ndarray
) -> Facts:
    """Find what there is to say of a frame; only what lies within NEAR_M of the ego is named.

    Args:
        conditions: time of day and weather.
        plan: the streets.
        style: how the quarter is built.
        boxes: the annotated objects, in the global frame.
        ego_xy: (2,), the ego's position in the global frame.
        offset: (2,) metres, from the plan's coordinates to the global ones.
    """
    near = [b for b in boxes if np.hypot(*(b.global_SE3_object.translation[:2] - ego_xy)) < NEAR_M]
    counts = Counter(b.detection_class for b in near)
    parked = sum(b.attribute == "vehicle.parked" for b in near)
    things = []
    if parked > 1:
        things.append("parked cars")
    if counts["car"] - parked > 3:
        things.append("dense traffic")
    elif counts["car"] - parked > 0:
        things.append("cars")
    if any(np.hypot(*(c.origin + offset - ego_xy)) < NEAR_M for c in plan.crossings):
        things.append("a crossing")
    if any(np.hypot(*(lot.centre + offset - ego_xy)) < NEAR_M for lot in plan.carparks):
        things.append("a car park")
    for name, (one, many) in _NAMES.items():
        if counts[name]:
            things.append(one if counts[name] == 1 else many)
    if any(np.hypot(*(plan.roads[0].curve.at(g.s_m)[0] + offset - ego_xy)) < NEAR_M for g in plan.gaps[0]):
        street = "Junction"
    else:
        street = "Two-way street" if plan.roads[0].backward else "One-way street"
    where = {"city centre": "in the city centre", "park": "in a park"}.get(
        style.name, f"in a{'n' if style.name[0] in 'aeiou' else ''} {style.name}"
    )
    where = "between terraced houses" if style.name == "terraced houses" else where
    return Facts(conditions.time_of_day, conditions.weather, street, where, tuple(things))


def plain(said: Facts) -> str:
    """Say it in fixed words: `Night, rain. Two-way street in a suburb with parked cars, a crossing, a bus and pedestrians.`"""
    return f"{said.time_of_day.capitalize()}, {said.weather}. {said.street} {said.where}{listed(said.things, ' with ')}."


def listed(things: tuple[str, ...], begin: str = "") -> str:
    """Join words: `a bus, cars and pedestrians`, after `begin`; nothing for none."""
    if not things:
        return ""
    return f"{begin}{', '.join(things[:-1])}{' and ' if len(things) > 1 else ''}{things[-1]}"

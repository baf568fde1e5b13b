"""The light of a scene as numbers for the renderer: sun, sky, haze, wetness, and lamps that are on."""

from __future__ import annotations

import colorsys
import math

import numpy as np

from drivegen.scene import Box3D
from drivegen.scene.geometry import SE3, Array
from drivegen.world.blocks import Blocks
from drivegen.world.conditions import Conditions

SUN, SUN_RGB, ZENITH, HORIZON, SKY, BOUNCE, FOG, FOG_RGB, WET, LAMPS, CLOUDS, LIT, CLOUD_RGB = (
    0,
    3,
    6,
    9,
    12,
    15,
    18,
    19,
    22,
    23,
    24,
    25,
    26,
)
ASPHALT, PAVING, TERRAIN, TERRAIN_KIND, SEED, EXPOSURE, SIZE = 29, 32, 35, 38, 39, 40, 41


def _rgb(*values: float) -> Array:
    return np.array(values)


def environment(conditions: Conditions, blocks: Blocks, seed: int) -> Array:
    """Return the (SIZE,) vector of a scene's light and ground colours (linear rgb).

    Args:
        conditions: time of day and weather.
        blocks: the static objects; their style gives the ground's colours.
        seed: draws small variations.
    """
    rng = np.random.default_rng([seed, 77])
    e = np.zeros(SIZE)
    azimuth, elevation = conditions.sun_azimuth_rad, conditions.sun_elevation_rad
    time, weather = conditions.time_of_day, conditions.weather
    e[0:3] = math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)
    sun, zenith, horizon, sky = {
        "day": (_rgb(2.2, 1.98, 1.62), _rgb(0.13, 0.33, 0.85), _rgb(0.62, 0.78, 0.98), _rgb(0.46, 0.6, 0.86)),
        "dusk": (_rgb(1.5, 0.62, 0.22), _rgb(0.10, 0.10, 0.30), _rgb(0.95, 0.42, 0.2), _rgb(0.27, 0.22, 0.33)),
        "night": (_rgb(0.0, 0.0, 0.0), _rgb(0.004, 0.007, 0.022), _rgb(0.04, 0.036, 0.058), _rgb(0.028, 0.032, 0.055)),
    }[time]
    grey = {"day": _rgb(0.72, 0.75, 0.79), "dusk": _rgb(0.30, 0.25, 0.33), "night": _rgb(0.04, 0.037, 0.044)}[time]
    clouds, density = 0.35 + 0.25 * conditions.variety, 0.0012
    if weather == "overcast":
        sun, zenith, horizon, clouds, density = sun * 0.06, grey * 0.72, grey * 1.05, 0.9, 0.002
        sky = grey * (0.95 if time != "night" else 0.7)
    elif weather == "rain":
        sun, zenith, horizon, clouds, density = sun * 0.0, grey * 0.42, grey * 0.62, 0.8, 0.0065
        sky = grey * (0.62 if time != "night" else 0.6)
    elif weather == "fog":
        sun, zenith, horizon, clouds, density = sun * 0.02, grey * 1.0, grey * 1.0, 0.0, 0.026 + 0.018 * conditions.variety
        sky = grey * (0.95 if time != "night" else 0.9)
    if time == "night" and weather == "fog":
        zenith = horizon = grey * 1.3
    e[3:6], e[6:9], e[9:12], e[12:15] = sun, zenith, horizon, sky
    e[15:18] = sky * 0.35 + sun * max(e[2], 0.1) * 0.12
    e[FOG], e[19:22] = density, horizon
    e[WET] = 1.0 if weather == "rain" else 0.0
    e[LAMPS] = {"day": 0.0, "dusk": 0.55, "night": 1.0}[time]
    if time == "day" and weather in ("rain", "fog"):
        e[LAMPS] = 0.12  # headlights are on
    e[CLOUDS] = clouds
    e[LIT] = {"day": 0.03, "dusk": 0.3, "night": 0.36}[time] + (0.08 if weather in ("rain", "fog") else 0.0)
    e[26:29] = _rgb(1, 1, 1) * 0.95 if weather == "clear" and time == "day" else (zenith + horizon) * 0.62
    if time == "dusk" and weather == "clear":
        e[26:29] = 0.75, 0.33, 0.3
    e[29:32] = rng.uniform(0.055, 0.105) * np.array([1.0, 1.0, rng.uniform(1.0, 1.12)])
    warm = rng.uniform(0.85, 1.0)
    e[32:35] = rng.uniform(0.27, 0.42) * np.array([1.0, (1 + warm) / 2, warm])
    kind = blocks.style.terrain
    if kind == 0:
        e[35:38] = colorsys.hsv_to_rgb(rng.uniform(0.2, 0.31), rng.uniform(0.6, 0.8), rng.uniform(0.17, 0.3))
    elif kind == 1:
        e[35:38] = rng.uniform(0.2, 0.34) * np.array([1.0, 0.96, rng.uniform(0.8, 0.95)])
    else:
        e[35:38] = rng.uniform(0.2, 0.3) * np.array([1.0, 0.86, 0.66])
    e[TERRAIN_KIND], e[SEED] = kind, int(rng.integers(1 << 20))
    e[EXPOSURE] = {"day": 0.9, "dusk": 1.25, "night": 1.9}[time]
    return e


_HEADLIGHTS = ("car", "truck", "bus", "motorcycle", "trailer")


def lamps(conditions: Conditions, blocks: Blocks, boxes: list[tuple[Box3D, SE3]], ego: SE3) -> Array:
    """Return lights that are on (M, 11): position, direction, cosine of the cone's half-angle, rgb, range in metres.

    Args:
        conditions: time of day and weather; by day no lamp is on.
        blocks: the static objects, street lamps among them.
        boxes: annotated objects with their poses in the renderer's frame; moving vehicles have headlights.
        ego: pose of the ego in the renderer's frame.
    """
    if conditions.time_of_day == "day":
        return np.zeros((0, 11))
    rows: list[tuple[float, ...]] = []
    strength = 1.0 if conditions.time_of_day == "night" else 0.45
    for pole in blocks.poles:
        if pole.kind == 0:
            c, s = math.cos(pole.heading_rad), math.sin(pole.heading_rad)
            place = (pole.centre[0] + 1.8 * c, pole.centre[1] + 1.8 * s, pole.height_m)
            rows.append((*place, 0, 0, -1, 0.1, *(strength * v for v in (27.0, 19.5, 11.5)), 22.0))

    def beam(pose: SE3, forward: float, up: float, power: float) -> None:
        place = pose.transform((forward, 0, up))
        aim = pose.rotation @ np.array([0.99, 0, -0.1])
        rows.append((*place, *aim, 0.8, *(strength * power * v for v in (1.0, 0.95, 0.8)), 26.0))

    beam(ego, 3.8, 0.7, 30.0)
    for box, pose in boxes:
        name = box.detection_class
        if name not in _HEADLIGHTS or box.attribute in ("vehicle.parked", "cycle.without_rider"):
            continue
        l, h = box.size_wlh_m[1:]
        if name != "trailer":
            beam(pose, l / 2 + 0.05, -h / 2 + 0.7, 26.0)
        rear = pose.transform((-l / 2 - 0.4, 0, -h / 2 + 0.8))
        rows.append((*rear, 0, 0, -1, -2.0, 3.5 * strength, 0.1, 0.06, 5.0))
    return np.array(rows).reshape(-1, 11)

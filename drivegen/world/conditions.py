"""Time of day and weather, which determine the light."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TIMES = ("day", "dusk", "night")
WEATHERS = ("clear", "overcast", "rain", "fog")


@dataclass(frozen=True)
class Conditions:
    """When and in what weather a scene is driven; the sun's direction is (azimuth, elevation) in the global frame."""

    time_of_day: str
    weather: str
    sun_azimuth_rad: float
    sun_elevation_rad: float
    variety: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Conditions:
        """Draw conditions of a scene."""
        time = str(rng.choice(TIMES, p=(0.46, 0.22, 0.32)))
        weather = str(rng.choice(WEATHERS, p=(0.34, 0.24, 0.22, 0.20)))
        low, high = {"day": (28, 60), "dusk": (5, 10), "night": (35, 60)}[time]
        elevation = math.radians(rng.uniform(low, high))
        return cls(time, weather, float(rng.uniform(-math.pi, math.pi)), elevation, float(rng.uniform()))

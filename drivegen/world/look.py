"""Appearances that are drawn from a name."""

from __future__ import annotations

import colorsys
import zlib

import numpy as np

from drivegen.world.parts import Colour

DARK: Colour = (0.03, 0.03, 0.035)


class Look:
    """Draws an object's appearance from its instance name alone, so that it is the same in every frame."""

    def __init__(self, name: str) -> None:
        self.seed = zlib.crc32(name.encode()) & 0x7FFFFFFF
        self._rng = np.random.default_rng(self.seed)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a number in [low, high)."""
        return float(self._rng.uniform(low, high))

    def pick(self, colours: tuple[Colour, ...]) -> Colour:
        """Draw one of some colours."""
        return colours[int(self._rng.integers(len(colours)))]

    def vivid(self, value: float = 0.5) -> Colour:
        """Draw a saturated colour."""
        return colorsys.hsv_to_rgb(self.uniform(), self.uniform(0.6, 0.95), value * self.uniform(0.7, 1.3))

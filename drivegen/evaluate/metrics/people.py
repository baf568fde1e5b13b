"""Who is there: each person that a view shows, and whether a mask of people has it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivegen.evaluate.metrics.control import FOUND_AT
from drivegen.evaluate.people import KINDS, kind_of
from drivegen.scene import Frame
from drivegen.world import View

LEAST_SHARE = 0.0005
"""People who fill less of a picture (14 pixels of 128x224) are not looked for: the renders themselves do not show them well."""

SIZES = (0.0015, 0.005)
SIZE_NAMES = ("small", "medium", "large")
"""Below 0.15 % of the picture (43 pixels of 128x224, about a pedestrian at 25 m), to 0.5 %, and above."""


BINS = ("people", *KINDS, *SIZE_NAMES)
"""Names of the counts: everybody, by kind, by size."""


@dataclass(frozen=True, eq=False)
class Person:
    """Someone in one view: a kind of `people.KINDS`, and the pixels (H, W) in which a view shows them."""

    kind: str
    pixels: NDArray[np.bool_]

    @property
    def size_name(self) -> str:
        """Which of SIZE_NAMES the share of the picture is."""
        return SIZE_NAMES[sum(self.pixels.mean() >= edge for edge in SIZES)]

    @property
    def bins(self) -> tuple[str, ...]:
        """Which of BINS count this person."""
        return BINS[0], self.kind, self.size_name

    def found_in(self, mask: NDArray[np.bool_]) -> bool:
        """Tell whether a mask (H, W) of people has enough of the pixels: FOUND_AT of them."""
        return bool(mask[self.pixels].mean() >= FOUND_AT)


def people_in(frame: Frame, view: View) -> list[Person]:
    """List the people that a view of the city shows; the frame is the one whose boxes the view's instances count."""
    found = []
    for number in np.unique(view.instances[view.instances > 0]).tolist():
        kind, pixels = kind_of(frame.boxes[number - 1]), view.instances == number
        if kind is not None and pixels.mean() >= LEAST_SHARE:
            found.append(Person(kind, pixels))
    return found

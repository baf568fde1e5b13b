"""The map as polygons and lines, by nuScenes layer name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from shapely import STRtree
from shapely import box as rectangle

from drivegen.scene.geometry import FAR_AWAY_M, Array, items_of, numbers
from drivegen.support import values
from drivegen.support.errors import InputError

BEV_CLASSES = (
    "drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "road_divider", "lane_divider", "road_block",
)  # fmt: skip
"""The eight bird's-eye classes, in MagicDrive's order."""

LINE_LAYERS = ("road_divider", "lane_divider")
"""Map layers made of lines; every other layer is made of polygons."""


def _points(given: ArrayLike, least: int, what: str) -> Array:
    array = numbers(given, what)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < least:
        raise InputError(f"{what} has shape {array.shape}, expected (P, 2) with P >= {least}")
    if np.abs(array).max() <= FAR_AWAY_M:  # so it is finite, too
        return array
    if not np.isfinite(array).all():
        raise InputError(f"{what} is not finite: {array.tolist()[:8]}")
    if np.abs(array).max() > FAR_AWAY_M:
        raise InputError(
            f"{what} has a point {array[np.abs(array).max(1).argmax()].tolist()} m away; use metres of the map's frame"
        )
    return array


@dataclass(frozen=True, eq=False)
class MapPolygon:
    """An area of the map: exterior (P, 2) and holes, each (Q, 2), global metres, not closed."""

    exterior: Array
    holes: tuple[Array, ...] = ()
    token: str = ""

    def __post_init__(self) -> None:
        where = f"map polygon {self.token!r}"
        object.__setattr__(self, "exterior", _points(self.exterior, 3, where))
        object.__setattr__(self, "holes", tuple(_points(hole, 3, f"{where}: hole") for hole in self.holes))


@dataclass(frozen=True, eq=False)
class MapLine:
    """A line of the map: points (P, 2) in global metres."""

    points: Array
    token: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", _points(self.points, 2, f"map line {self.token!r}"))


def polygon_of(exterior: Array, holes: tuple[Array, ...], token: str) -> MapPolygon:
    """Return a polygon of arrays that are known to be right: three corners at least, all near.

    Args:
        exterior: (P, 2).
        holes: each (Q, 2).
        token: its name.
    """
    made = object.__new__(MapPolygon)
    made.__dict__.update(exterior=exterior, holes=holes, token=token)
    return made


def line_of(points: Array, token: str) -> MapLine:
    """Return a line of points (P, 2) that are known to be right: two at least, all near."""
    made = object.__new__(MapLine)
    made.__dict__.update(points=points, token=token)
    return made


def _rectangles(shapes: list[Array]) -> NDArray[np.object_]:
    bounds = np.array([[*points.min(0), *points.max(0)] for points in shapes]).reshape(-1, 4)
    return np.asarray(rectangle(*bounds.T), dtype=object)


@dataclass(frozen=True, eq=False)
class VectorMap:
    """Polygons and lines by nuScenes layer name, in global metres."""

    location: str
    polygons: Mapping[str, tuple[MapPolygon, ...]] = field(default_factory=dict)
    lines: Mapping[str, tuple[MapLine, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"map of {self.location!r}"
        for name in ("polygons", "lines"):
            values.by_name(getattr(self, name), f"{where}: {name}", "elements of layers")
        polygons = {layer: items_of(group, MapPolygon, f"{where}: {layer}") for layer, group in self.polygons.items()}
        lines = {layer: items_of(group, MapLine, f"{where}: {layer}") for layer, group in self.lines.items()}
        object.__setattr__(self, "polygons", polygons)
        object.__setattr__(self, "lines", lines)

    @cached_property
    def _trees(self) -> dict[str, STRtree]:
        shapes = {name: [p.exterior for p in group] for name, group in self.polygons.items()}
        shapes |= {name: [p.points for p in group] for name, group in self.lines.items()}
        return {name: STRtree(_rectangles(group)) for name, group in shapes.items()}

    def near(self, center_xy: ArrayLike, radius_m: float) -> VectorMap:
        """Return the map of the elements whose bounding box meets the square of half-width radius_m about center_xy.

        Found in one tree of bounding boxes per layer (shapely's), so that a larger city takes no longer.
        """
        x, y = np.asarray(center_xy, dtype=np.float64)[:2]
        square = rectangle(x - radius_m, y - radius_m, x + radius_m, y + radius_m)

        def hits(name: str) -> NDArray[np.intp]:
            return np.sort(self._trees[name].query(square))

        return VectorMap(
            self.location,
            {name: tuple(group[i] for i in hits(name)) for name, group in self.polygons.items()},
            {name: tuple(group[i] for i in hits(name)) for name, group in self.lines.items()},
        )

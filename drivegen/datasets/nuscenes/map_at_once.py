"""A map expansion whose every part is right, read with all of its nodes at a time, and nothing that is not used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from drivegen.scene import MapPolygon, VectorMap
from drivegen.scene.geometry import FAR_AWAY_M, Array
from drivegen.scene.vector_map import line_of, polygon_of

POLYGON_LAYERS = (
    "drivable_area", "road_segment", "road_block", "lane", "ped_crossing", "walkway", "stop_line", "carpark_area",
    "lane_connector",
)  # fmt: skip
MAP_LINE_LAYERS = ("road_divider", "lane_divider", "traffic_light")


class _Node(msgspec.Struct, gc=False):
    token: str
    x: float
    y: float


class _Course(msgspec.Struct, gc=False):
    node_tokens: list[str]


class _Line(_Course, gc=False):
    token: str


class _Polygon(msgspec.Struct, gc=False):
    token: str
    exterior_node_tokens: list[str]
    holes: list[_Course] = []


class _Drivable(msgspec.Struct, gc=False):
    polygon_tokens: list[str]


class _Area(msgspec.Struct, gc=False):
    token: str
    polygon_token: str


class _Marking(msgspec.Struct, gc=False):
    token: str
    line_token: str


_KINDS: Mapping[str, Any] = {"node": _Node, "polygon": _Polygon, "line": _Line, "drivable_area": _Drivable}
_LAYERS = [
    (layer, list[_KINDS.get(layer, _Marking if layer in MAP_LINE_LAYERS else _Area)])  # type: ignore[misc]
    for layer in ("node", "polygon", "line", *POLYGON_LAYERS, *MAP_LINE_LAYERS)
]
_DECODER: Any = msgspec.json.Decoder(msgspec.defstruct("_Expansion", _LAYERS))


def at_once(content: bytes, location: str) -> VectorMap | None:
    """Return the map of a map-expansion file, or None where something in it is not as it should be.

    What that is, a reader of one record after the other can say.

    Args:
        content: the file's, JSON in UTF-8.
        location: the map's name.
    """
    try:
        return _vector_map(_DECODER.decode(content), location)
    except (ValueError, KeyError, RecursionError):
        return None


def _vector_map(data: Any, location: str) -> VectorMap | None:
    nodes = data.node
    places = np.empty((len(nodes), 2))
    places[:, 0], places[:, 1] = [node.x for node in nodes], [node.y for node in nodes]
    if not (np.abs(places) <= FAR_AWAY_M).all():
        return None
    rings: list[Sequence[str]] = []  # the nodes of all exteriors, holes and lines in turn
    polygons_of = {area.token: area for area in data.polygon}
    owners = {layer: list(_areas(getattr(data, layer), polygons_of, rings)) for layer in POLYGON_LAYERS}
    courses = {line.token: line.node_tokens for line in data.line}
    drawn = {
        layer: [(record.token, courses[record.line_token]) for record in getattr(data, layer)] for layer in MAP_LINE_LAYERS
    }
    rings += [course for group in drawn.values() for _, course in group]
    shapes = iter(_shapes(places, {node.token: number for number, node in enumerate(data.node)}, rings))
    polygons = {layer: tuple(_polygon(token, count, shapes) for token, count in found) for layer, found in owners.items()}
    lines = {
        layer: tuple(line_of(points, token) for (token, _), points in zip(group, shapes, strict=False) if len(points) >= 2)
        for layer, group in drawn.items()
    }
    return VectorMap(location, polygons, lines)


def _areas(records: Sequence[Any], polygons: Mapping[str, _Polygon], rings: list[Sequence[str]]) -> Iterator[tuple[str, int]]:
    """Yield token and number of rings of a layer's areas, and append these rings."""
    for record in records:
        if isinstance(record, _Drivable):  # the one layer whose records hold several polygons
            named = [(token, token) for token in record.polygon_tokens]
        else:
            named = [(record.token, record.polygon_token)]
        for token, polygon_token in named:
            area = polygons[polygon_token]
            rings.append(area.exterior_node_tokens)
            rings.extend(hole.node_tokens for hole in area.holes)
            yield token, 1 + len(area.holes)


def _polygon(token: str, count: int, shapes: Iterator[Array]) -> MapPolygon:
    exterior, *holes = (next(shapes) for _ in range(count))
    if len(exterior) < 3:
        raise ValueError(token)
    return polygon_of(exterior, tuple(hole for hole in holes if len(hole) >= 3), token)


def _shapes(places: Array, numbers: Mapping[str, int], rings: Sequence[Sequence[str]]) -> list[Array]:
    """Return the places of each ring's nodes, views of one array."""
    lengths = list(map(len, rings))
    every = np.fromiter(map(numbers.__getitem__, chain.from_iterable(rings)), np.intp, sum(lengths))
    points, ends = places[every], np.cumsum(lengths, dtype=np.intp).tolist()
    return [points[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]

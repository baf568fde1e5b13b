"""The map expansion: JSON to `VectorMap` and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drivegen.datasets.nuscenes.collecting import collecting_later
from drivegen.datasets.nuscenes.map_at_once import MAP_LINE_LAYERS, POLYGON_LAYERS, at_once
from drivegen.datasets.nuscenes.schema import ROW_ERRORS, check_text, make_token
from drivegen.scene import MapLine, MapPolygon, VectorMap
from drivegen.scene.geometry import FAR_AWAY_M, Array
from drivegen.support.errors import InputError

MAP_LAYERS = (*POLYGON_LAYERS, *MAP_LINE_LAYERS)

# What the devkit reads from a record besides its geometry.
_RECORD_FIELDS: dict[str, dict[str, Any]] = {
    "road_segment": {"is_intersection": False, "drivable_area_token": ""},
    "road_block": {"from_edge_line_token": "", "to_edge_line_token": "", "road_segment_token": ""},
    "lane": {"lane_type": "CAR", "from_edge_line_token": "", "to_edge_line_token": "",
             "left_lane_divider_segments": [], "right_lane_divider_segments": []},
    "ped_crossing": {"road_segment_token": ""},
    "stop_line": {"stop_line_type": "STOP_SIGN", "ped_crossing_tokens": [], "traffic_light_tokens": [], "road_block_token": ""},
    "carpark_area": {"orientation": 0.0, "road_block_token": ""},
    "road_divider": {"road_segment_token": ""},
    "lane_divider": {"lane_divider_segments": []},
    "traffic_light": {"traffic_light_type": "VERTICAL", "from_road_block_token": "", "items": [], "pose": {}},
}  # fmt: skip


def read_map(path: Path, location: str) -> VectorMap:
    """Read a map-expansion file; every layer must be there, if only as an empty list.

    Raises InputError for a missing layer, a broken token link, a shape with too few points and a node that is not finite.
    Lines without nodes and holes without nodes are left out, as in the devkit.
    """
    with collecting_later():
        return _read(path, location)


def _read(path: Path, location: str) -> VectorMap:
    try:
        content = path.read_bytes()
        if (found := at_once(content, location)) is not None:
            return found
        data = json.loads(content.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"map {path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"map {path} is not a map expansion: a {type(data).__name__} and not an object of layers")
    missing = [name for name in ("node", "line", "polygon", *MAP_LAYERS) if name not in data]
    if missing:
        raise InputError(f"map {path} has no layer {', '.join(missing)}; add it (an empty list means there are none)")
    reader = _Reader(path, data)
    try:
        return reader.vector_map(location)
    except InputError:
        raise
    except ROW_ERRORS as error:
        what = f"{type(error).__name__} {error}"
        raise InputError(f"map {path}: {reader.at}: {what}; it is not as in the map expansion's schema") from error


class _Reader:
    """Reads one record after the other, so that an error names the one that is wrong."""

    def __init__(self, path: Path, data: Mapping[str, Any]) -> None:
        self.path, self.data = path, data
        self.at = ""
        self.nodes: dict[str, int] = {}
        self.places = np.zeros((0, 2))
        self.checked = True
        """Whether all nodes are finite and near, so that the shapes need not be looked at one by one."""
        self.lines: dict[str, Any] = {}
        self.areas: dict[str, Any] = {}

    def records(self, layer: str) -> Iterator[Any]:
        """Yield the records of a layer, with `at` saying which one is being read."""
        self.at = layer
        for index, record in enumerate(self.data[layer]):
            self.at = f"{layer} record {index}"
            yield record

    def points(self, tokens: Iterable[str], where: str) -> Array:
        try:
            points = self.places[[self.nodes[token] for token in tokens]].reshape(-1, 2)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"map {self.path}: {where} names node {error}, which is missing or not a point") from error
        if self.checked:
            return points
        if not np.isfinite(points).all():
            raise InputError(f"map {self.path}: {where} has a node that is not finite")
        if len(points) and np.abs(points).max() > FAR_AWAY_M:
            far = points[np.abs(points).max(1).argmax()].tolist()
            raise InputError(f"map {self.path}: {where} has a node {far} m away; use metres of the map's frame")
        return points

    def polygon(self, layer: str, polygon_token: str, token: str) -> MapPolygon:
        where = f"{layer} {token}"
        if polygon_token not in self.areas:
            raise InputError(f"map {self.path}: {where} names polygon {polygon_token!r}, which is not in the file")
        area = self.areas[polygon_token]
        exterior = self.points(area["exterior_node_tokens"], where)
        if len(exterior) < 3:
            raise InputError(f"map {self.path}: {where} has {len(exterior)} corners; a polygon needs three")
        holes = [self.points(hole["node_tokens"], where) for hole in area.get("holes", [])]
        return MapPolygon(exterior, tuple(hole for hole in holes if len(hole) >= 3), token)

    def _read_nodes(self) -> None:
        """Number the nodes; those whose coordinates are no numbers are missing."""
        nodes = self.data["node"]
        try:
            xs, ys, tokens = ([node[name] for node in nodes] for name in ("x", "y", "token"))
        except ROW_ERRORS:
            for node in self.records("node"):  # which says where it is
                node["x"], node["y"], node["token"]
            raise
        if not set(map(type, xs)) | set(map(type, ys)) <= {float, int}:
            there = [i for i, pair in enumerate(zip(xs, ys, strict=True)) if all(type(v) in (float, int) for v in pair)]
            xs, ys, tokens = ([values[i] for i in there] for values in (xs, ys, tokens))
        self.at = "node"
        self.nodes = {token: number for number, token in enumerate(tokens)}
        self.places = np.array([xs, ys], dtype=np.float64).T
        self.checked = bool((np.abs(self.places) <= FAR_AWAY_M).all())

    def vector_map(self, location: str) -> VectorMap:
        self._read_nodes()
        self.lines = {line["token"]: line for line in self.records("line")}
        self.areas = {area["token"]: area for area in self.records("polygon")}
        polygons, lines = {}, {}
        for layer in POLYGON_LAYERS:
            found = []
            for record in self.records(layer):
                if layer == "drivable_area":  # the one layer whose records hold several polygons
                    found += [self.polygon(layer, token, token) for token in record["polygon_tokens"]]
                else:
                    found.append(self.polygon(layer, record["polygon_token"], record["token"]))
            polygons[layer] = tuple(found)
        for layer in MAP_LINE_LAYERS:
            kept = []
            for record in self.records(layer):
                where = f"{layer} {record['token']}"
                if record["line_token"] not in self.lines:
                    raise InputError(f"map {self.path}: {where} names line {record['line_token']!r}, which is not in the file")
                points = self.points(self.lines[record["line_token"]]["node_tokens"], where)
                if len(points) >= 2:
                    kept.append(MapLine(points, record["token"]))
            lines[layer] = tuple(kept)
        return VectorMap(location, polygons, lines)


def merge_maps(maps: Iterable[VectorMap], location: str) -> VectorMap:
    """Join maps of one location; elements with the same token and shape are kept once.

    Raises InputError when two elements share a token and differ, or a layer is none of the map expansion's.
    """
    polygons: dict[str, dict[str, Any]] = {name: {} for name in POLYGON_LAYERS}
    lines: dict[str, dict[str, Any]] = {name: {} for name in MAP_LINE_LAYERS}
    for one in dict.fromkeys(maps):
        for into, groups in ((polygons, one.polygons), (lines, one.lines)):
            for layer, group in groups.items():
                if layer not in into:
                    raise InputError(f"map of {location!r}: {layer!r} is not a layer of that kind; known: {', '.join(into)}")
                for element in group:
                    check_text(element.token, f"map of {location!r}: token of a {layer}")
                    token = element.token or make_token(layer, *(part.tobytes() for part in _parts(element)))
                    old = into[layer].setdefault(token, element)
                    if old is not element and not _same(old, element):
                        raise InputError(f"map of {location!r}: two different {layer} have the token {token!r}; rename one")
    return VectorMap(
        location,
        {name: tuple(MapPolygon(e.exterior, e.holes, token) for token, e in group.items()) for name, group in polygons.items()},
        {name: tuple(MapLine(e.points, token) for token, e in group.items()) for name, group in lines.items()},
    )


def _parts(element: MapPolygon | MapLine) -> tuple[Array, ...]:
    return (element.points,) if isinstance(element, MapLine) else (element.exterior, *element.holes)


def _same(a: MapPolygon | MapLine, b: MapPolygon | MapLine) -> bool:
    return len(_parts(a)) == len(_parts(b)) and all(np.array_equal(x, y) for x, y in zip(_parts(a), _parts(b), strict=True))


def map_json(vector_map: VectorMap) -> dict[str, Any]:
    """Return the map-expansion tables (version 1.3) of a map; layers that it does not have are empty."""
    nodes: dict[str, dict[str, Any]] = {}
    out: dict[str, Any] = {"version": "1.3", "polygon": [], "line": [], "node": []}

    def node_tokens(points: Array) -> list[str]:
        tokens = []
        for x, y in points.tolist():
            token = make_token("node", x, y)[:16]  # most of the file is these
            nodes[token] = {"token": token, "x": x, "y": y}
            tokens.append(token)
        return tokens

    for layer in POLYGON_LAYERS:
        out[layer] = []
        for area in vector_map.polygons.get(layer, ()):
            drivable = layer == "drivable_area"
            polygon_token = area.token if drivable else make_token("polygon", layer, area.token)
            holes = [{"node_tokens": node_tokens(hole)} for hole in area.holes]
            exterior = node_tokens(area.exterior)
            out["polygon"].append({"token": polygon_token, "exterior_node_tokens": exterior, "holes": holes})
            link = {"polygon_tokens": [polygon_token]} if drivable else {"polygon_token": polygon_token}
            token = make_token(layer, area.token) if drivable else area.token
            out[layer].append({"token": token} | link | _RECORD_FIELDS.get(layer, {}))
    for layer in MAP_LINE_LAYERS:
        out[layer] = []
        for line in vector_map.lines.get(layer, ()):
            line_token = make_token("line", layer, line.token)
            out["line"].append({"token": line_token, "node_tokens": node_tokens(line.points)})
            out[layer].append({"token": line.token, "line_token": line_token} | _RECORD_FIELDS[layer])
    out["node"] = list(nodes.values())
    edge = np.array([[node["x"], node["y"]] for node in nodes.values()] or [[1.0, 1.0]]).max(0)
    out |= {"canvas_edge": np.maximum(edge, 1.0).tolist(), "arcline_path_3": {}, "connectivity": {}}
    return out

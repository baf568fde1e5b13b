"""Reading a map with all nodes at a time gives what reading one record after the other gives, errors too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivegen.datasets.nuscenes import vectormap
from drivegen.scene import MapLine, MapPolygon, VectorMap
from drivegen.support.errors import InputError

RING = np.array([[0.0, 0], [4, 0], [4, 3], [0, 3]])


def expansion() -> dict[str, Any]:
    hole = np.array([[1.0, 1], [2, 1], [2, 2]])
    polygons = {name: (MapPolygon(RING + i, (hole + i,), f"{name} a"), MapPolygon(RING - i, (), f"{name} b"))
                for i, name in enumerate(vectormap.POLYGON_LAYERS)}  # fmt: skip
    lines = {name: (MapLine(RING[:3] * (i + 1), f"{name} ü"),) for i, name in enumerate(vectormap.MAP_LINE_LAYERS)}
    return vectormap.map_json(VectorMap("town", polygons, lines))


def described(found: VectorMap) -> Any:
    polygons = {
        name: [(p.token, p.exterior.tolist(), [hole.tolist() for hole in p.holes]) for p in group]
        for name, group in found.polygons.items()
    }
    return (
        found.location,
        polygons,
        {name: [(c.token, c.points.tolist()) for c in group] for name, group in found.lines.items()},
    )


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda data: None,
    "whole numbers": lambda data: data["node"][0].update(x=1, y=-2),
    "a hole of two corners": lambda data: data["polygon"][0]["holes"].append({"node_tokens": [data["node"][0]["token"]] * 2}),
    "a line of one point": lambda data: data["line"][0].update(node_tokens=data["line"][0]["node_tokens"][:1]),
    "no holes": lambda data: data["polygon"][0].pop("holes"),
    "tokens of another type": lambda data: data["lane"][0].update(token=3),
    "a node that is nowhere": lambda data: data["line"][0]["node_tokens"].append("nowhere"),
    "a polygon that is nowhere": lambda data: data["walkway"][1].update(polygon_token="nowhere"),
    "a line that is nowhere": lambda data: data["lane_divider"][0].update(line_token="nowhere"),
    "two corners": lambda data: data["polygon"][3].update(exterior_node_tokens=data["polygon"][3]["exterior_node_tokens"][:2]),
    "NaN": lambda data: data["node"][2].update(x=float("nan")),
    "far away": lambda data: data["node"][2].update(x=10**20),
    "a text for a number": lambda data: data["node"][2].update(y="3"),
    "true for a number": lambda data: data["node"][2].update(y=True),
    "no y": lambda data: data["node"][2].pop("y"),
    "no layer": lambda data: data.pop("stop_line"),
    "a layer that is no list": lambda data: data.update(stop_line={"a": 1}),
    "an unused node that is far": lambda data: data["node"].append({"token": "far", "x": 1e30, "y": 0}),
    "no nodes": lambda data: [data.update({name: []}) for name in data if isinstance(data[name], list)],
}


@pytest.mark.parametrize("change", CHANGES)
def test_both_ways_agree(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = expansion()
    CHANGES[change](data)
    (tmp_path / "map.json").write_text(json.dumps(data))

    def outcome() -> Any:
        try:
            return described(vectormap.read_map(tmp_path / "map.json", "town"))
        except InputError as error:
            return str(error)

    at_once = outcome()
    monkeypatch.setattr(vectormap, "at_once", lambda text, location: None)
    assert at_once == outcome()


def test_a_right_map_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(vectormap, "_Reader")
    (tmp_path / "map.json").write_text(json.dumps(expansion()))
    assert len(vectormap.read_map(tmp_path / "map.json", "town").polygons["lane"]) == 2

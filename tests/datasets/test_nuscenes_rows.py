"""Rows of any form: reading names what is wrong or works, and `validate` finds all that reading refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivegen.datasets import nuscenes
from drivegen.datasets.nuscenes.schema import TABLES
from drivegen.datasets.nuscenes.vectormap import read_map
from drivegen.scene import Box3D, Frame, MapLine, MapPolygon, Scene, VectorMap
from drivegen.scene.geometry import SE3
from drivegen.scene.pictures import load_image
from drivegen.support.errors import InputError
from tests.street import camera, rectangle

VALUES: tuple[Any, ...] = (None, 7, -1, 1e300, 10**400, True, "nothing", [], {}, [[{}]], float("nan"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset: two frames of two cameras and a box, with a map."""
    folder = tmp_path_factory.mktemp("rows")
    hole = MapPolygon(rectangle(0, 0, 5, 5), (rectangle(1, 1, 2, 2),), "hole")
    line = MapLine(np.array([[0.0, 0], [5, 5]]), "line")
    place = VectorMap("here", {"walkway": (hole,), "drivable_area": (replace(hole, token="d"),)}, {"lane_divider": (line,)})
    boxes = (Box3D("car", SE3.identity(), np.array([2.0, 4, 1.5]), "car", visibility=4, attribute="vehicle.moving"),)
    cameras = (camera("CAM_FRONT", 0, size=(16, 12)), camera("CAM_BACK", 180, size=(16, 12)))
    frames = tuple(Frame(f"f{i}", cameras, boxes, place, "words", "here", "drive", 500_000 * i) for i in range(2))
    nuscenes.write([Scene("drive", frames)], folder)
    return folder


def refusal(root: Path) -> str:
    """Read all there is; return why it was refused, or nothing. Any other exception than InputError ends the test."""
    try:
        data = nuscenes.open(root)
        for token in data.samples():
            for view in data.frame(token).cameras:
                load_image(view)
    except InputError as error:
        return str(error)
    return ""


def changed(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the rows with the first one's fields gone, and each of VALUES in their place."""
    for field in rows[0] if rows else ():
        first = {name: value for name, value in rows[0].items() if name != field}
        yield f"without {field}", [first, *rows[1:]]
        for value in VALUES:
            yield f"{field} {value!r:.20}", [first | {field: value}, *rows[1:]]
    for value in VALUES:
        yield f"row {value!r:.20}", [value, *rows[1:]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # a devkit's velocity over a time that is none
@pytest.mark.parametrize("table", TABLES)
def test_what_reading_refuses_is_listed(table: str, root: Path) -> None:
    path = root / "v1.0-mini" / f"{table}.json"
    whole = path.read_text()
    cases = [*changed(json.loads(whole)), *((f"table {value!r:.20}", value) for value in VALUES)]
    missed, needless = [], []
    try:
        for what, rows in cases:
            path.write_text(json.dumps(rows))
            refused = refusal(root)
            listed = [str(problem) for problem in nuscenes.validate(root) if problem.severity == "error"]
            if refused and not listed:
                missed.append(f"{what}: {refused}")
            if listed and not refused:
                needless.append(f"{what}: {listed}")
    finally:
        path.write_text(whole)
    assert not missed
    assert not needless
    assert not refusal(root)
    assert not [problem for problem in nuscenes.validate(root) if problem.severity == "error"]


def test_maps_of_any_form_are_read_or_refused(root: Path, tmp_path: Path) -> None:
    whole = json.loads((root / "maps" / "expansion" / "here.json").read_text())
    refused = {}
    for layer, records in whole.items():
        found = changed(records) if isinstance(records, list) and records and isinstance(records[0], dict) else ()
        for what, value in [*found, *((f"{value!r:.20}", value) for value in VALUES)]:
            (tmp_path / "map.json").write_text(json.dumps(whole | {layer: value}))
            try:
                read_map(tmp_path / "map.json", "here")
            except InputError as error:
                refused[f"{layer} {what}"] = str(error)
    assert len(refused) > 100
    assert not {what: message for what, message in refused.items() if "map.json" not in message}

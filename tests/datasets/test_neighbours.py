"""Readers give neighbouring moments; what a table's clock does not say is unknown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivegen import datasets, nuscenes
from drivegen.datasets import SceneSource
from drivegen.scene import Frame
from drivegen.scene.pictures import load_image
from drivegen.support.errors import InputError
from tests.street import street_scene


@pytest.fixture
def root(tmp_path: Path) -> Path:
    other = street_scene(2, "other")
    boxes = tuple(replace(b, token=f"{b.token}-o", instance=f"{b.instance}-o") for b in other.frames[0].boxes)
    other = replace(other, frames=tuple(replace(f, boxes=boxes if i == 0 else ()) for i, f in enumerate(other.frames)))
    nuscenes.write([street_scene(5), other], tmp_path)
    return tmp_path


def test_nuscenes_gives_what_a_scene_of_its_frames_gives(root: Path) -> None:
    data = datasets.open(root)
    built = {f.token: f for f in data.scene("street").with_neighbours(1.0, 0.5).frames}
    for token, expected in built.items():
        for read in (data.frame_with_neighbours, lambda *a: SceneSource.frame_with_neighbours(Generic(data), *a)):
            found: Frame = read(token, 1.0, 0.5)
            assert [m.token for m in found.neighbours] == [m.token for m in expected.neighbours]
            for one, other in zip(found.neighbours, expected.neighbours, strict=True):
                assert one.timestamp_us == other.timestamp_us
                assert np.array_equal(one.global_SE3_ego.translation, other.global_SE3_ego.translation)
                assert [b.instance for b in one.boxes] == [b.instance for b in other.boxes]
                assert [c.image_path for c in one.cameras] == [c.image_path for c in other.cameras]
    assert not data.frame(data.samples()[0]).neighbours
    assert not data.frame_with_neighbours(data.samples()[0], 0, 0).neighbours


class Generic:
    """A reader that has only what it must."""

    def __init__(self, data: Any) -> None:
        self.scenes, self.samples, self.frame = data.scenes, data.samples, data.frame

    nearby, moment = SceneSource.nearby, SceneSource.moment


def test_a_neighbours_picture_is_read_when_it_is_asked_for(root: Path) -> None:
    data = datasets.open(root)
    first, second, *_ = data.samples("street")
    (path,) = [p for p in data.files(second) if p.parent.name == "CAM_FRONT"]
    path.unlink()
    later = data.frame_with_neighbours(first, 0.0, 0.5).neighbours[0]
    camera = later.camera("CAM_FRONT")
    assert camera is not None
    with pytest.raises(InputError, match="is missing"):
        load_image(camera)
    with pytest.raises(InputError, match="is missing"):
        data.frame(second)


def change(root: Path, table: str, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    path = next(root.glob(f"v1.0-*/{table}.json"))
    rows = json.loads(path.read_text())
    edit(rows)
    path.write_text(json.dumps(rows))


@pytest.mark.parametrize("time", [1_600_000_000_500_000, 1_600_000_000_000_000, 5])
def test_beyond_a_clock_that_stands_still_or_turns_back_all_is_unknown(root: Path, time: int) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        next(row for row in rows if row["token"] == "street-2")["timestamp"] = time

    change(root, "sample", edit)
    data = datasets.open(root)
    assert data.nearby("street-0", 0.0, 9.0) == ("street-1",)
    assert data.nearby("other-1", 9.0, 9.0) == ("other-0",)
    with pytest.raises(InputError, match="has no sample 'nothing'"):
        data.nearby("nothing", 1.0, 1.0)

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from drivegen.catalog.formats import make
from drivegen.export import export
from drivegen.support.errors import InputError
from tests.export.conftest import Exported, read

START_US = 1_600_000_000_000_000
NAME = "nuscenes_infos_temporal_train.pkl"


def message(i: int) -> dict[str, object]:
    return {
        "accel": [i + 0.1, 0, 0], "orientation": [1, 0, 0, i], "pos": [i, 0.5, 0], "rotation_rate": [0, i + 0.2, 0],
        "utime": START_US - 20_000 + 20_000 * i, "vel": [i + 0.3, 0, 0],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bus").mkdir()
    (tmp_path / "bus" / "beta_pose.json").write_text(json.dumps([message(i) for i in range(15)]))
    return tmp_path / "bus"


def test_vectors_are_bevformers(root: Path, folder: Path, tmp_path: Path) -> None:
    exporter = make("bevformer", {"can_bus": str(folder)})
    report = export(root, tmp_path / "out", exporter, split={"train": ["alpha", "beta"]})
    whole = read(tmp_path / "out" / NAME)
    assert whole["metadata"]["scenes_without_can_bus"] == ["alpha"]
    assert any("without CAN bus" in note for note in report.notes)
    found = [info["can_bus"] for info in whole["infos"]]
    assert [vector.shape for vector in found] == [(18,)] * 5
    assert not np.any(found[:3])
    # beta was moved in time, and its messages are still those of its recording: the second one is at the first sample's time.
    np.testing.assert_array_equal(found[3], [1, 0.5, 0, 1, 0, 0, 1, 2.1, 0, 0, 0, 2.2, 0, 2.3, 0, 0, 0, 0])
    np.testing.assert_array_equal(found[4], [14, 0.5, 0, 1, 0, 0, 14, 14.1, 0, 0, 0, 14.2, 0, 14.3, 0, 0, 0, 0])


def test_zeros_and_a_mark_without_any(exported: Exported) -> None:
    whole = read(exported("bevformer") / NAME)
    assert whole["metadata"]["scenes_without_can_bus"] == ["alpha", "beta"]
    assert all(not info["can_bus"].any() for info in whole["infos"])


@pytest.mark.parametrize("text", ["[", "{}x", '[{"utime": 1}]', "[3]", "5", json.dumps([message(0) | {"vel": [1, "a", 2]}])])
def test_damaged_files_are_refused(root: Path, folder: Path, tmp_path: Path, text: str) -> None:
    (folder / "beta_pose.json").write_text(text)
    with pytest.raises(InputError, match=r"beta_pose\.json is not a CAN bus file"):
        export(root, tmp_path / "out", make("bevformer", {"can_bus": str(folder)}))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        export(root, tmp_path / "out", make("bevformer", {"can_bus": "nowhere"}))

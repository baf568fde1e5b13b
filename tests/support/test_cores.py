"""Cores that a process may use: its affinity, and less where its control group or one above it has a quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drivegen.support import cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight cores, and a process in the group ``a/b``."""
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    (tmp_path / "groups" / "cpu").mkdir()
    (tmp_path / "own").write_text("0::/a/b\n")
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(cores, "_OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("OMP_NUM_THREADS")
    return tmp_path / "groups"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8), ({"a/b/cpu.max": "max 100000"}, 8), ({"a/b/cpu.max": "200000 100000"}, 2), ({"cpu.max": "150000 100000"}, 2),
        ({"a/cpu.max": "300000 100000", "a/b/cpu.max": "400000 100000"}, 3), ({"cpu.max": "1000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 8), ({"cpu.max": "half of it"}, 8), ({"cpu.max": "100000 0"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"}, 5),
    ],
)  # fmt: skip
def test_the_least_quota_counts_and_what_is_none_does_not(groups: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (groups / name).write_text(text + "\n")
    assert cores.cores() == expected
    cores.limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == (None if expected == 8 else str(expected))


def test_what_is_set_goes_first(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (groups / "cpu.max").write_text("200000 100000\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    cores.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "7"

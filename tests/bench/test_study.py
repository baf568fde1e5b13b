"""Studies: what they refuse, and in which order their work is done; the work itself is training and generation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.study import Arm, Budget, Plan, Study
from drivegen.support.errors import InputError


def plan(out: Path, **changes) -> Plan:
    arms = [Arm("base", {"model": {"base": "tiny"}}, trains=False), Arm("a", {"train": {}}), Arm("b", {"train": {}})]
    whole = Plan(out, arms, (0, 1), out / "data", 4, 31, out / "cache", {"steps": 2}, 3, 7)
    return replace(whole, **changes)


def test_arms_are_trained_seed_by_seed_and_what_trains_nothing_is_first(tmp_path: Path) -> None:
    names = [(arm.name, seed) for arm, seed in plan(tmp_path).runs]
    assert names == [("base", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    study = Study(plan(tmp_path), Budget(None))
    assert study.model(plan(tmp_path).arms[0], 0) == "tiny"
    assert [study.has_trained(arm, 0) for arm in study.plan.arms] == [True, False, False]


def test_a_spent_budget_begins_nothing(tmp_path: Path, capsys) -> None:
    trained = plan(tmp_path, arms=[Arm("a", {"train": {}})])
    assert list(Study(trained, Budget(0.0)).run()) == []
    assert "the same command goes on" in capsys.readouterr().out
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("changes", [{"scenes": 1}, {"seeds": ()}, {"train_scenes": 1}, {"second": 4}])
def test_what_is_no_study_is_refused(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(InputError, match="make no study"):
        plan(tmp_path, **changes)


def test_a_folder_keeps_to_its_settings_and_takes_more_seeds(tmp_path: Path) -> None:
    Study(plan(tmp_path), Budget(None))
    Study(plan(tmp_path, seeds=(0, 1, 2)), Budget(None))
    with pytest.raises(InputError, match=r"train was .* and is"):
        Study(plan(tmp_path, train={"steps": 3}), Budget(None))

"""Damaged inputs are read or refused in a sentence, never anything else; the long form is scripts/fuzz.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzzing import TARGETS, limits, run

CASES = {"config": 40, "weights": 60, "lora_file": 60, "dataset": 6, "picture": 80, "model": 6, "manifest": 40}
"""How many of each, so that all take a few seconds."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_damaged_inputs_are_read_or_refused(name: str, tmp_path: Path) -> None:
    outcomes = [run(name, seed, tmp_path / str(seed)) for seed in range(CASES[name])]
    faults = [outcome for outcome in outcomes if outcome.is_fault]
    assert not faults, "\n".join(f"{o.target}, seed {o.seed}: {o.result}: {o.said}" for o in faults)
    assert sum(outcome.result == "refused" for outcome in outcomes) > CASES[name] / 10, "the damage does not reach it"


def test_a_case_follows_from_its_seed(tmp_path: Path) -> None:
    first, second = (run("lora_file", 3, tmp_path / "case") for _ in range(2))
    assert (first.result, first.said) == (second.result, second.said)


def test_what_takes_too_much_is_found() -> None:
    with pytest.raises(MemoryError), limits():
        bytearray(8 << 30)

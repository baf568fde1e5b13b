"""How the training within a given time counts its steps."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))


def test_the_pace_is_the_trainings_own_without_a_slow_beginning() -> None:
    from train_embedded import pace

    line = "step {0}/900  loss 0.5  {1} s per step  0:10:00 left\n"
    assert pace("".join(line.format(step, seconds) for step, seconds in ((50, 11.784), (100, 1.33), (150, 1.31)))) == 1.33
    assert pace(line.format(50, 11.784)) is None
    assert pace("wrote runs/model") is None

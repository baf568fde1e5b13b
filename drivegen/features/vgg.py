"""VGG-16 (Simonyan and Zisserman 2015), from the user's file of weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from drivegen.support import weights
from drivegen.support.errors import InputError

_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Numbers of the convolutions in ``features``, stage by stage; a maximum over 2×2 lies between the stages."""


class VGG16(nn.Module):
    """The convolutions of VGG-16, frozen; pictures are (N, 3, H, W) in [−1, 1]."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, state: weights.State) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        for number in (n for stage in _STAGES for n in stage):
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            with torch.no_grad():
                layer.weight.copy_(weight)
                assert layer.bias is not None
                layer.bias.copy_(bias)
            self.layers[str(number)] = layer
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Return the last feature map of each of the five stages."""
        x = (pictures / 2 + 0.5 - self.mean) / self.deviation
        out: list[Tensor] = []
        for stage in _STAGES:
            x = nn.functional.max_pool2d(x, 2) if out else x
            for number in stage:
                x = nn.functional.relu(self.layers[str(number)](x))
            out.append(x)
        return out


def load(path: Path) -> VGG16:
    """Load the network from a file in torchvision's layout; raises InputError for any other."""
    state = {key: value.float() for key, value in weights.load_file(path).items()}
    missing = [f"features.{n}.weight" for stage in _STAGES for n in stage if f"features.{n}.weight" not in state]
    if missing:
        raise InputError(f"{path} does not hold the weights of VGG-16: no {missing[0]}")
    try:
        return VGG16(state)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{path} does not hold the weights of VGG-16: {error}") from error

"""A distance of pictures in the features of a network (Zhang et al. 2018, LPIPS, eq. 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivegen.features import efficientnet, vgg
from drivegen.support import weights
from drivegen.support.errors import InputError
from drivegen.training.first_stage.settings import PerceptualConfig


class PerceptualDistance(nn.Module):
    """The mean over layers of the squared distance of channel-normalised features, averaged over positions."""

    def __init__(self, network: Any, linear: list[Tensor] | None = None) -> None:
        super().__init__()
        self.network = network
        self.linear = nn.ParameterList([nn.Parameter(w, requires_grad=False) for w in linear or ()])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare pictures a and b (N, 3, H, W) in [−1, 1]; gradients reach a alone. Returns a scalar."""
        with torch.no_grad():
            wanted = [F.normalize(f.float(), dim=1, eps=1e-6) for f in self.network.features(b)]
        found = [F.normalize(f.float(), dim=1, eps=1e-6) for f in self.network.features(a)]
        total = a.new_zeros(())
        for i, (x, y) in enumerate(zip(found, wanted, strict=True)):
            squares = (x - y).square()
            total = total + (squares * self.linear[i] if len(self.linear) else squares).sum(1).mean()
        return total / (1 if len(self.linear) else len(found))


def build(settings: PerceptualConfig) -> PerceptualDistance:
    """Load the network that the settings name; raises InputError where its weights are missing or of another network."""
    path = None if settings.weights is None else Path(settings.weights)
    if settings.network == "efficientnet-lite0":
        return PerceptualDistance(efficientnet.load(path))
    assert path is not None
    network, linear = vgg.load(path), None
    if settings.linear is not None:
        state = weights.load_file(Path(settings.linear))
        names = [f"lin{i}.model.1.weight" for i in range(5)]
        if any(name not in state for name in names):
            raise InputError(f"{settings.linear} does not hold LPIPS's weights: {', '.join(names)} are needed")
        linear = [state[name].float() for name in names]
    return PerceptualDistance(network, linear)

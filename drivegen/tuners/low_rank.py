"""Changes of a layer's weight by few parameters: W + ΔW, computed beside the layer, which keeps W."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drivegen.lora.layer import applied
from drivegen.plugin.tuner import Site


class LowRank(nn.Module):
    """LoRA (Hu et al. 2022): ΔW = B·A · alpha / rank; a convolution's A has its kernel.

    Args:
        layer: the layer to change.
        rank: of A and B.
        alpha: strength.
    """

    def __init__(self, layer: Any, rank: int, alpha: float) -> None:
        super().__init__()
        out, *ins = layer.weight.shape
        self.factor = alpha / rank
        self.A, self.B = nn.Parameter(torch.empty(rank, *ins)), nn.Parameter(torch.zeros(out, rank, *(1 for _ in ins[1:])))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor, y: Tensor, site: Site) -> Tensor:
        """Return y + B·A·x · alpha / rank.

        Args:
            x: what the layer was given.
            y: what it gave.
            site: the layer.
        """
        inner = applied(site.layer, x, self.A)
        return y + self.factor * (F.conv2d(inner, self.B) if self.B.ndim == 4 else F.linear(inner, self.B))

    def delta(self) -> Tensor:
        """Return ΔW in the weight's shape."""
        return self.factor * (self.B.flatten(1) @ self.A.flatten(1)).reshape(len(self.B), *self.A.shape[1:])


class Decomposed(LowRank):
    """DoRA (Liu et al. 2024, eq. 5): W' = m · (W + B·A) / ‖W + B·A‖ with a length m per output, whose norm has no gradient
    (sec. 4.3).

    Args:
        layer: the layer to change.
        rank: of A and B.
        alpha: strength.
    """

    def __init__(self, layer: Any, rank: int, alpha: float) -> None:
        super().__init__(layer, rank, alpha)
        self.magnitude = nn.Parameter(_norms(layer.weight.detach().float()))

    def forward(self, x: Tensor, y: Tensor, site: Site) -> Tensor:
        """Return y + (W' − W)·x.

        Args:
            x: what the layer was given.
            y: what it gave.
            site: the layer.
        """
        weight = site.layer.weight.to(self.A.dtype)
        moved = weight + self.delta()
        lengths = (self.magnitude / _norms(moved.detach())).reshape(-1, *(1 for _ in weight.shape[1:]))
        return y + applied(site.layer, x, lengths * moved - weight)


def _norms(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight.flatten(1), dim=1)


class Hadamard(nn.Module):
    """LoHa (Hyeon-Woo et al. 2022, prop. 2): ΔW = (w1_a·w1_b) ∘ (w2_a·w2_b) · alpha / rank, of rank up to rank².

    Args:
        layer: the layer to change.
        rank: of either product.
        alpha: strength.
    """

    def __init__(self, layer: Any, rank: int, alpha: float) -> None:
        super().__init__()
        out, ins = len(layer.weight), layer.weight[0].numel()
        self.factor = alpha / rank
        # LyCORIS's deviations; the one of zeros makes a fresh difference zero.
        self.hada_w1_a, self.hada_w1_b = nn.Parameter(0.1 * torch.randn(out, rank)), nn.Parameter(torch.randn(rank, ins))
        self.hada_w2_a, self.hada_w2_b = nn.Parameter(torch.zeros(out, rank)), nn.Parameter(torch.randn(rank, ins))

    def forward(self, x: Tensor, y: Tensor, site: Site) -> Tensor:
        """Return y + ΔW·x.

        Args:
            x: what the layer was given.
            y: what it gave.
            site: the layer.
        """
        delta = self.factor * (self.hada_w1_a @ self.hada_w1_b) * (self.hada_w2_a @ self.hada_w2_b)
        return y + applied(site.layer, x, delta.reshape(site.layer.weight.shape))


class Kronecker(nn.Module):
    """LoKr (Yeh et al. 2024, sec. 3): ΔW = w1 ⊗ (w2_a·w2_b) · alpha / rank, with a whole w1 of at most factor × factor.

    Args:
        layer: the layer to change.
        rank: of the second product.
        alpha: strength.
        factor: greatest side of w1.
    """

    def __init__(self, layer: Any, rank: int, alpha: float, factor: int) -> None:
        super().__init__()
        out, ins, *kernel = layer.weight.shape
        (o1, o2), (i1, i2) = _split(out, factor), _split(ins, factor)
        self.factor = alpha / rank
        self.lokr_w1 = nn.Parameter(torch.empty(o1, i1))
        self.lokr_w2_a = nn.Parameter(torch.empty(o2, rank))
        self.lokr_w2_b = nn.Parameter(torch.zeros(rank, i2 * math.prod(kernel)))
        for value in (self.lokr_w1, self.lokr_w2_a):
            nn.init.kaiming_uniform_(value, a=math.sqrt(5))

    def forward(self, x: Tensor, y: Tensor, site: Site) -> Tensor:
        """Return y + ΔW·x.

        Args:
            x: what the layer was given.
            y: what it gave.
            site: the layer.
        """
        delta = self.factor * torch.kron(self.lokr_w1, self.lokr_w2_a @ self.lokr_w2_b)
        return y + applied(site.layer, x, delta.reshape(site.layer.weight.shape))


def _split(number: int, most: int) -> tuple[int, int]:
    """Split a number into two factors, the first the greatest that is at most `most` and the other one, as LyCORIS does."""
    first = max(i for i in range(1, min(math.isqrt(number), most) + 1) if number % i == 0)
    return first, number // first

"""What files change in a layer: a weight's difference as two factors, whatever form the file keeps it in.

Every form becomes A and B with ΔW = B·A, so that one way of adding and removing serves all. Those of no low rank get an
identity as one of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from drivegen.support.errors import InputError


class Change(Protocol):
    """A difference of a layer's weight (out, in, …)."""

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return A (r, in, …) and B (out, r, 1…) in fp32.

        Args:
            weight: the layer's own, in fp32, which some forms depend on.

        Raises InputError where the shapes do not fit.
        """
        ...


class LowRank(NamedTuple):
    """LoRA (Hu et al. 2022): A (r, in) and B (out, r), or convolutions, with alpha folded in."""

    a: Tensor
    b: Tensor

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return both as they are; the weight is not looked at."""
        return self.a, self.b


@dataclass(frozen=True, eq=False)
class Whole:
    """A whole difference; of any shape with the weight's number of values whose first side is the weight's."""

    delta: Tensor

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the difference and an identity."""
        return as_factors(fitted(self.delta, weight))


@dataclass(frozen=True, eq=False)
class Hadamard:
    """LoHa (Hyeon-Woo et al. 2022, FedPara, prop. 2): (B₁·A₁) ∘ (B₂·A₂) · scale, whose rank is at most the ranks' product."""

    a1: Tensor
    b1: Tensor
    a2: Tensor
    b2: Tensor
    scale: float

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return factors of rank r₁·r₂, or the difference and an identity where that is no less."""
        rank = len(self.a1) * len(self.a2)
        if rank >= min(len(self.b1), self.a1[0].numel()):
            return as_factors(fitted((self.b1 @ self.a1) * (self.b2 @ self.a2) * self.scale, weight))
        # The product of two sums of r₁ and r₂ terms is a sum of r₁·r₂ terms.
        a = (self.a1[:, None] * self.a2[None]).reshape(rank, -1)
        b = (self.b1[:, :, None] * self.b2[:, None]).reshape(-1, rank) * self.scale
        if (len(b), a.shape[1]) != (len(weight), weight[0].numel()):
            fitted(b @ a, weight)  # says what does not fit
        return a.reshape(rank, *weight.shape[1:]), b.reshape(*b.shape, *(1 for _ in weight.shape[2:]))


@dataclass(frozen=True, eq=False)
class Decomposed:
    """DoRA (Liu et al. 2024, eq. 5): direction and length apart, W' = m · (W + ΔW) / ‖W + ΔW‖.

    magnitude has a length per row (out), or per column (in) where `rows` is false.
    """

    change: Change
    magnitude: Tensor
    rows: bool = True

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the difference from the weight, which the norm depends on, and an identity."""
        side = 0 if self.rows else 1
        if self.magnitude.numel() != weight.shape[side]:
            its, ours = tuple(self.magnitude.shape), tuple(weight.shape)
            raise InputError(f"DoRA's lengths are of shape {its}, and the weight's is {ours}")
        moved = weight + product(*self.change.factors(weight))
        others = [i for i in range(weight.ndim) if i != side]
        norm = torch.linalg.vector_norm(moved, dim=others, keepdim=True)
        wanted = self.magnitude.reshape([-1 if i == side else 1 for i in range(weight.ndim)])
        return as_factors(moved * (wanted / norm.clamp_min(torch.finfo(norm.dtype).eps)) - weight)


@dataclass(frozen=True, eq=False)
class Shift:
    """A difference of a layer's bias, or of a norm's weight and bias; either may be missing."""

    weight: Tensor | None
    bias: Tensor | None


def fitted(delta: Tensor, weight: Tensor) -> Tensor:
    """Return a difference in a weight's shape; raises InputError where it was made for another."""
    if delta.numel() != weight.numel() or len(delta) != len(weight):
        raise InputError(f"it changes weights of shape {tuple(delta.shape)}, and here they have {tuple(weight.shape)}")
    return delta.reshape(weight.shape)


def as_factors(delta: Tensor) -> tuple[Tensor, Tensor]:
    """Return A and B with B·A = delta: delta itself and an identity, the smaller way round."""
    out, ins = delta.shape[:2]
    if delta.ndim == 2 and ins < out:
        return torch.eye(ins, dtype=delta.dtype), delta
    return delta, torch.eye(out, dtype=delta.dtype).reshape(out, out, *(1 for _ in delta.shape[2:]))


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return B·A in the weight's shape (out, in, …)."""
    return (b.flatten(1) @ a.flatten(1)).reshape(len(b), *a.shape[1:])

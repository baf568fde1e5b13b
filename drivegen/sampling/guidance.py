"""Guidance maps a denoiser to a denoiser; where no scale is above 1 there is none, as in diffusers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from drivegen.plugin import Denoiser

Part = tuple[tuple[str, ...], float]
"""Plugins that become known together, and the weight of what they add."""


def classifier_free(denoise: Denoiser, scale: float, null: Iterable[str], rescale: float = 0.0) -> Denoiser:
    """Extrapolate from the prediction with the null plugins to the conditional one (Ho and Salimans 2022, eq. 6).

    Args:
        denoise: the denoiser.
        scale: s of u + s·(c − u).
        null: plugins that are null in the unconditional half u.
        rescale: φ of Lin et al. (2023), eq. 15-16: scales the standard deviation of each row back towards the conditional
            one's.
    """
    return _guided(denoise, [(tuple(dict.fromkeys(null)), scale)], rescale)


def telescoping(denoise: Denoiser, weights: Mapping[str, float], order: Iterable[str], rescale: float = 0.0) -> Denoiser:
    """Guide with a weight per plugin: ε(∅) + Σ wᵢ [ε(c₁…cᵢ) − ε(c₁…cᵢ₋₁)].

    K plugins take K + 1 evaluations, less those whose factor is 0: with equal weights the inner ones cancel, which leaves
    `classifier_free`.

    Args:
        denoise: the denoiser.
        weights: wᵢ by plugin name; plugins without one are known throughout.
        order: plugin names in the order of i, the config's.
        rescale: φ, as in `classifier_free`.
    """
    return _guided(denoise, [((name,), float(weights[name])) for name in order if name in weights], rescale)


def limited(denoise: Denoiser, guided: Denoiser, active: Callable[[], bool]) -> Denoiser:
    """Return a denoiser that is guided at some steps, and bare, at one evaluation, at the others (Kynkäänniemi et al. 2024).

    Args:
        denoise: the bare denoiser.
        guided: the guided one.
        active: tells before each step whether to guide.
    """

    def chosen(x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
        return (guided if active() else denoise)(x, t, known)

    return chosen


def _guided(denoise: Denoiser, parts: Sequence[Part], rescale: float) -> Denoiser:
    # Turbo and distilled models ask for a scale of 0; the sum would then be the prediction without any condition.
    if all(weight <= 1 or not names for names, weight in parts):
        return denoise

    def guided(x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
        known = known or {}
        # What the caller wants null stays null, and then there is no difference to weigh.
        left = [(names, weight) for names, weight in parts if any(known.get(name, True) for name in names)]
        # The same sum by evaluations: ε(c₁…cᵢ) has the factor wᵢ − wᵢ₊₁, with w₀ = 1 and nothing after the last.
        factors = [a - b for a, b in pairwise([1.0, *(weight for _, weight in left), 0.0])]
        predictions: list[tuple[float, Tensor]] = []
        for i in reversed(range(len(factors))):
            if factors[i] != 0 or (i == len(left) and rescale > 0):
                null = {name: False for names, _ in left[i:] for name in names}
                predictions.append((factors[i], denoise(x, t, {**known, **null})))
        out = _mix(predictions)
        if rescale > 0 and left:
            conditional, dims = predictions[0][1], tuple(range(1, out.ndim))
            ratio = conditional.std(dims, keepdim=True) / out.std(dims, keepdim=True)
            out = torch.lerp(out, out * ratio, rescale)
        return out

    return guided


def _mix(predictions: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Sum predictions by their factors, which sum to 1."""
    if len(predictions) == 2:
        return torch.lerp(predictions[1][1], predictions[0][1], predictions[0][0])
    return torch.stack([factor * prediction for factor, prediction in predictions]).sum(0)

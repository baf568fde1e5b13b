"""Classifier guidance: the gradient of a differentiable head on the predicted clean picture (Dhariwal and Nichol 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from drivegen.plugin import Denoiser, ToX0
from drivegen.scene import Frame
from drivegen.support.errors import InputError

SMALLEST_ALPHA = 0.01
"""Below this α (the first step at zero terminal SNR) x holds no information on the picture, and there is no guidance."""


def classifier_guided(
    denoise: Denoiser, to_x0: ToX0, score: Callable[[Tensor], Tensor], scale: float = 1.0, exact: bool = True,
    limit: float | None = None,
) -> Denoiser:  # fmt: skip
    """Add a head's score gradient to the prediction: ε − scale · σ · ∇ₓ score(x̂0(x)).

    Args:
        denoise: the denoiser.
        to_x0: gives the clean latents x̂0 of its predictions.
        score: maps latents (N, C, h, w) to log-likelihoods, () or (N,).
        scale: weight of the gradient.
        exact: differentiate through the network (eq. 14 there, with the head on x̂0); if False, its derivative is approximated
            by that for latents of unit variance, which needs no backward pass through it (Song et al. 2023, ΠGDM).
        limit: largest root mean square of the change of a row's clean latents; None for no limit.
    """

    def guided(x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
        with torch.set_grad_enabled(exact):
            at = x.detach().requires_grad_(exact)
            prediction = denoise(at, t, known)
            clean = to_x0(at, t, prediction)
        with torch.enable_grad():
            if not exact:
                at = clean = clean.detach().requires_grad_()
            total = score(clean).float().sum()
            if not total.requires_grad:
                raise InputError("the classifier's score does not depend on the picture through differentiable operations")
            (gradient,) = torch.autograd.grad(total, at)
        alpha, sigma = to_x0.rates(t, x)
        # σ²/α · ∂x̂0/∂x is the covariance of x0 given x (Tweedie), about σ² where latents have unit variance.
        factor = sigma**2 / alpha.clamp(min=SMALLEST_ALPHA) if exact else sigma**2
        by = torch.where(alpha >= SMALLEST_ALPHA, scale * factor * gradient, 0.0)
        if limit is not None:
            size = by.square().mean(tuple(range(1, by.ndim)), keepdim=True).sqrt()
            by = by * (limit / size.clamp(min=limit))
        return to_x0.shift_x0(t, prediction.detach(), by)

    return guided


@dataclass(frozen=True)
class Classifier:
    """A differentiable head whose score gradient guides generation.

    score(views, frame) gives log-likelihoods, () or (V,), of a frame's views: pictures (V, 3, H, W) in about [−1, 1], or with
    on="latents" scaled latents (V, C, h, w). scale, exact and limit as in `classifier_guided`; name is kept in manifests.
    """

    score: Callable[[Tensor, Frame], Tensor]
    scale: float = 1.0
    on: Literal["pixels", "latents"] = "pixels"
    exact: bool = True
    limit: float | None = None
    name: str = "classifier"

    def __post_init__(self) -> None:
        if self.on not in ("pixels", "latents"):
            raise InputError(f"classifier: on {self.on!r} must be 'pixels' or 'latents'")
        for what, value in (("scale", self.scale), ("limit", self.limit)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"classifier: {what} {value!r} must be a finite number above 0")

    def __str__(self) -> str:
        limit = "" if self.limit is None else f", limit {self.limit:g}"
        return f"{self.name}: scale {self.scale:g} on {self.on}, {'exact' if self.exact else 'not exact'}{limit}"

    def guide(self, denoise: Denoiser, to_x0: ToX0, frame: Frame, decode: Callable[[Tensor], Tensor]) -> Denoiser:
        """Wrap a frame's denoiser with this classifier.

        Args:
            denoise: the denoiser.
            to_x0: gives the clean latents of its predictions.
            frame: what the score may compare the pictures with.
            decode: maps latents to pictures.
        """

        def score(latents: Tensor) -> Tensor:
            return self.score(latents if self.on == "latents" else decode(latents).float(), frame)

        return classifier_guided(denoise, to_x0, score, self.scale, self.exact, self.limit)

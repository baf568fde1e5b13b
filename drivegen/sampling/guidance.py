"""Guidance maps a denoiser to a denoiser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from drivegen.plugin import Denoiser


def classifier_free(denoise: Denoiser, scale: float, null: Iterable[str], rescale: float = 0.0) -> Denoiser:
    """Extrapolate from the prediction with the null plugins to the conditional one (Ho and Salimans 2022, eq. 6).

    rescale is φ of Lin et al. (2023), eq. 15-16: it brings the deviation of each row back to the conditional one's.
    """
    unknown = dict.fromkeys(null, False)
    if scale == 1 or not unknown:
        return denoise

    def guided(x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
        known = known or {}
        conditional = denoise(x, t, known)
        if all(known.get(name) is False for name in unknown):
            return conditional
        out = torch.lerp(denoise(x, t, {**known, **unknown}), conditional, scale)
        if rescale > 0:
            dims = tuple(range(1, out.ndim))
            ratio = conditional.std(dims, keepdim=True) / out.std(dims, keepdim=True)
            out = torch.lerp(out, out * ratio, rescale)
        return out

    return guided

"""Colours of a drawn part matched to the picture around it, so that no edge shows."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]


def matched(drawn: Pixels, recorded: Pixels, alpha: Pixels, there: NDArray[np.bool_]) -> Pixels:
    """Shift a drawn picture (H, W, 3) smoothly, so that it goes over into the recorded one where it fades.

    What both differ by in the fading rim, and closely around it, is continued smoothly into the inside, as Poisson blending
    does (Pérez et al. 2003; its membrane is approximated by averages over ever larger parts: Gortler et al. 1996).

    Args:
        drawn: the picture that is put in.
        recorded: the one around it, (H, W, 3).
        alpha: (H, W), 1 where only the drawn one is seen, 0 where only the recorded one is.
        there: (H, W), where the drawn picture has pixels.
    """
    rows, columns = np.nonzero(alpha)
    if not len(rows):
        return drawn
    about = max(4, round(0.02 * alpha.shape[1]))
    top, bottom = max(0, rows.min() - about), rows.max() + about + 1
    left, right = max(0, columns.min() - about), columns.max() + about + 1
    part = (slice(top, bottom), slice(left, right))
    near = cv2.dilate((alpha[part] > 0).astype(np.uint8), np.ones((2 * (about // 2) + 1,) * 2, np.uint8)) > 0
    known = ((1 - alpha[part]) * (near & there[part])).astype(np.float32)
    if not known.any():
        return drawn  # nothing recorded is left to match
    out = drawn.copy()
    out[part] += filled(recorded[part] - drawn[part], known)
    return out


def filled(values: Pixels, weight: Pixels) -> Pixels:
    """Continue values (H, W, C) of weight 1 smoothly to where the weight (H, W) is less; some weight must be above 0."""
    height, width = weight.shape
    if min(height, width) == 1 or bool((weight >= 1).all()):
        mean = (values * weight[..., None]).sum((0, 1)) / weight.sum()
        return values * weight[..., None] + mean * (1 - weight[..., None])
    half = ((width + 1) // 2, (height + 1) // 2)
    total = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    sums = cv2.resize(values * weight[..., None], half, interpolation=cv2.INTER_AREA)
    coarse = filled(sums / np.maximum(total, 1e-8)[..., None], np.minimum(2 * total, 1))
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    result: Pixels = values * weight[..., None] + fine * (1 - weight[..., None])
    return result

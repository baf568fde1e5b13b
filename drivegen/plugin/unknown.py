"""The result of `prepare` for a frame that lacks a condition's data: unknown, so null for that one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

KNOWN = "_known"
"""Name of the array (B,) kept beside a plugin's own where some frame is unknown; it is never passed to the plugin."""


@dataclass(frozen=True, eq=False)
class Unknown:
    """Returned by `prepare` where a frame lacks the condition's data, such as the future at a scene's end.

    arrays are placeholders of the names, dtypes and shapes that a known frame gives (zeros will do), so that frames can be
    stacked; the host makes the condition null for this frame, in training and generation alike. ``null_`` arrays describe null
    itself and are used as they are.
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def marked(found: Any) -> Any:
    """Return the arrays that `prepare` gave, with a mark if the frame is unknown."""
    return {**found.arrays, KNOWN: np.array(False)} if isinstance(found, Unknown) else found


def unmarked(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plugin's own arrays, without the mark."""
    return {key: value for key, value in arrays.items() if key != KNOWN}


def known_and_kept(arrays: Mapping[str, Tensor], keep: Tensor) -> Tensor:
    """Return which frames (B,) are kept and known; keep itself where none is unknown."""
    return keep & arrays[KNOWN].to(keep.device) if KNOWN in arrays else keep


def known_part(
    arrays: Mapping[str, Tensor], pred: Tensor, target: Tensor, t: Tensor
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]] | None:
    """Return the arguments of `Plugin.loss`: the batch without its unknown frames; None where every frame is unknown.

    Args:
        arrays: a plugin's own (B, …).
        pred: (N, C, h, w).
        target: (N, C, h, w).
        t: timesteps (N,).
    """
    if KNOWN not in arrays:
        return pred, target, t, dict(arrays)
    known = arrays[KNOWN]
    if not bool(known.any()):
        return None
    rows = known.repeat_interleave(len(t) // len(known))
    return pred[rows], target[rows], t[rows], {key: value[known] for key, value in unmarked(arrays).items()}


def neutral(arrays: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    """Return loss weights (N, …) with 1 in the rows of unknown frames."""
    if KNOWN not in arrays:
        return weight
    known = arrays[KNOWN].repeat_interleave(len(weight) // len(arrays[KNOWN]))
    return torch.where(known.view(-1, *([1] * (weight.ndim - 1))), weight, 1.0)

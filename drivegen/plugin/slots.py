"""Frames of different numbers of objects in one batch: slots, the spare ones filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def stack_slots(items: list[dict[str, np.ndarray]], fill: Mapping[str, Any], least: int) -> dict[str, np.ndarray]:
    """Stack arrays (V, M, …) whose M differs to (B, V, slots, …), slots the most of any item.

    Args:
        items: arrays by name, one item per frame.
        fill: what spare slots hold, by the name of the array.
        least: slots that there are at least.
    """
    slots = max(least, *(item[key].shape[1] for item in items for key in fill))

    def pad(array: np.ndarray, value: Any) -> np.ndarray:
        widths = [(0, 0), (0, slots - array.shape[1]), *[(0, 0)] * (array.ndim - 2)]
        return np.pad(array, widths, constant_values=value)

    return {key: np.stack([pad(item[key], value) for item in items]) for key, value in fill.items()}

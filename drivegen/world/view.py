"""A camera's view of the city."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class View:
    """rgb (H, W, 3) uint8, classes (H, W) uint8 (index into `CLASSES`), instances (H, W) int32 (index + 1 into the frame's
    boxes, 0 none) and depth_m (H, W) float32 along the optical axis, inf in the sky.

    Class, instance and depth belong to the pixel's centre: pixel (row, column) is the ray through K_image's
    (column + 0.5, row + 0.5).
    """  # fmt: skip

    rgb: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    instances: NDArray[np.int32]
    depth_m: NDArray[np.float32]

"""Aspect buckets: the sizes that frames are trained in, each frame whole in the one nearest to its pictures' shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from drivegen.support.errors import InputError

MAX_SIDE_PX = 8192
"""The longest side of a picture that is trained on."""

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, kw_only=True)
class BucketConfig:
    """Sizes besides data.size: those that are listed (``aspect_ratio_buckets`` elsewhere), or all of about its area."""

    sizes: tuple[tuple[int, int], ...] = ()
    """(height, width) of each; none = derived from the area of data.size by what follows."""
    reso_steps: int = 64
    """Sides of derived sizes are multiples of so many pixels."""
    min_reso: int | None = None
    """The shortest side of a derived size; None = half of data.size's shorter one."""
    max_reso: int | None = None
    """The longest side of a derived size; None = twice data.size's longer one."""

    def __post_init__(self) -> None:
        for size in self.sizes:
            if any(side % 8 or not 8 <= side <= MAX_SIDE_PX for side in size):
                raise InputError(
                    f"sizes holds {list(size)}; needed is (height, width) in multiples of 8 pixels, up to {MAX_SIDE_PX}"
                )
        if len(set(self.sizes)) < len(self.sizes):
            raise InputError(f"sizes = {[list(size) for size in self.sizes]} holds a size twice; leave one of them out")
        if self.sizes and (self.reso_steps, self.min_reso, self.max_reso) != (64, None, None):
            raise InputError("sizes lists the buckets, so reso_steps, min_reso and max_reso are not read; leave them out")
        if self.reso_steps % 8 or not 8 <= self.reso_steps <= MAX_SIDE_PX:
            raise InputError(f"reso_steps = {self.reso_steps} must be a multiple of 8 pixels, up to {MAX_SIDE_PX}")
        for name in ("min_reso", "max_reso"):
            side = getattr(self, name)
            if side is not None and not 8 <= side <= MAX_SIDE_PX:
                raise InputError(f"{name} = {side} is out of range; allowed: 8 to {MAX_SIDE_PX} pixels")
        if self.min_reso is not None and self.max_reso is not None and self.min_reso > self.max_reso:
            raise InputError(f"min_reso = {self.min_reso} is above max_reso = {self.max_reso}")

    def besides(self, size: Size) -> tuple[Size, ...]:
        """List the sizes of buckets besides data.size; raises InputError where there is none.

        A derived size has the largest width, at a height, with which its area is not above that of data.size.

        Args:
            size: (height, width) that is always a bucket.
        """
        found = [one for one in self.sizes or self._derived(size) if one != size]
        if not found:
            raise InputError(f"data.buckets gives no size besides data.size = {list(size)}; list sizes, or lower reso_steps")
        return tuple(found)

    def _derived(self, size: Size) -> list[Size]:
        least, most = self.min_reso or min(size) // 2, self.max_reso or min(2 * max(size), MAX_SIDE_PX)
        step, found = self.reso_steps, list[Size]()
        for height in range(math.ceil(least / step) * step, most + 1, step):
            width = min(size[0] * size[1] // height, most) // step * step
            if width >= max(least, step):
                found.append((height, width))
        return found


def nearest_bucket(pictures: Sequence[tuple[int, int]], buckets: Sequence[Size]) -> Size:
    """Return the bucket whose shape is nearest to that of a frame's pictures, by the mean of |log| of the shapes' ratios.

    Args:
        pictures: native (width, height) of each camera.
        buckets: of several that are equally near, the first is taken.
    """

    def distance(size: Size) -> float:
        return sum(abs(math.log(size[0] * width / (size[1] * height))) for width, height in pictures) / len(pictures)

    return min(buckets, key=distance)

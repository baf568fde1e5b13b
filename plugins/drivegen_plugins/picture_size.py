"""Picture size: how large each camera's picture was, and what was cut off it, as SDXL is told it (Podell et al. 2023, 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from drivegen.plugin import Arrays, Input, Plugin, Signal, select_or_null
from drivegen.scene import Camera, Frame
from drivegen.support.errors import InputError
from drivegen.support.values import number, sequence

_SIZES = ("original_size", "crop", "target_size")
AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5
"""Of a refiner's picture, and of null; diffusers' own."""


def _pair(frame: Frame, value: Any) -> list[float]:
    """Read two numbers of pixels, (height, width) or (top, left)."""
    pair = sequence(value, "a size or crop", "two numbers of pixels, (height, width) or (top, left)")
    if len(pair) != 2:
        raise InputError(f"{value!r:.80} must be two numbers of pixels, (height, width) or (top, left)")
    return [number(one, "a side or margin", 0, 1_000_000) for one in pair]


def _inputs(begin: str, of: str) -> tuple[Input, ...]:
    whats = (
        "(height, width) before scaling",
        "(top, left) that was cut off the scaled picture",
        "(height, width) that is made",
    )
    return tuple(Input(f"{begin}{name}", "json", f"{what}, {of}", read=_pair) for name, what in zip(_SIZES, whats, strict=True))


class PictureSize(Plugin):
    """Each camera's native size, the crop that its picture is cut by, and the generated size; cameras may differ.

    A network whose last number is an aesthetic score, as a refiner's is, gets that in place of the generated size. The rig is
    known also where a scene is not: null says the same, except for what is given for it.
    """

    accepts = (
        *_inputs("", "of all pictures in place of the cameras' own"),
        *_inputs("negative_", "of null"),
        Input("aesthetic_score", "number", "how good a picture looks, 1 to 10, for a refiner (6)"),
        Input("negative_aesthetic_score", "number", "the same of null (2.5)"),
    )

    def attach(self, backbone: Any) -> None:
        self.numbers = int(backbone.family.added.get("time_ids", 0))
        if self.numbers not in (5, 6):
            raise InputError(f"the network of this {backbone.family.name} model takes no sizes of pictures; leave it out")

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        given = user_input or {}
        return {
            "size": self._of(frame, given, "", AESTHETIC_SCORE),
            "null_size": self._of(frame, given, "negative_", NEGATIVE_AESTHETIC_SCORE),
        }

    def _of(self, frame: Frame, given: Mapping[str, Any], begin: str, score: float) -> np.ndarray:
        """Return the numbers (V, 5 or 6) of each camera.

        Args:
            frame: the frame.
            given: by the caller.
            begin: of the names of inputs.
            score: the aesthetic score where none is given.
        """
        rows = []
        for camera in frame.cameras:
            own = dict(zip(_SIZES, _sizes(camera), strict=True))
            for start in ("", begin):  # null says what the picture does, unless it is told otherwise
                own |= {name: given[f"{start}{name}"] for name in _SIZES if f"{start}{name}" in given}
            row = [*own["original_size"], *own["crop"]]
            looks = [given.get(f"{begin}aesthetic_score", score)]
            rows.append([*row, *(own["target_size"] if self.numbers == 6 else looks)])
        return np.array(rows, dtype=np.float32)

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        chosen = select_or_null(keep, arrays["size"], arrays["null_size"])
        return Signal(added={"time_ids": chosen.flatten(0, 1)})


def _sizes(camera: Camera) -> tuple[list[float], list[float], list[float]]:
    """Return a camera's native (height, width), its crop (top, left) and the generated (height, width), in whole pixels."""
    width, height = camera.image_size
    resize = camera.resize
    crop = [0.0, 0.0] if resize is None else [float(round(resize.top_px)), float(round(resize.left_px))]
    return [camera.height_px, camera.width_px], crop, [height, width]

"""Pose weight: errors count more where something lies that matters, boxes by class, distance, heading and size (HumanSD)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from drivegen import raster
from drivegen.plugin import Arrays, Plugin, TrainingStep
from drivegen.raster import SeenBox
from drivegen.scene import DETECTION_CLASSES, Frame
from drivegen.support.errors import InputError, nearest

Schedule = Literal["constant", "high_noise", "mid_noise", "low_noise"]
Error = Literal["ignored", "above", "below"]

SCHEDULES = ("constant", "high_noise", "mid_noise", "low_noise")
CLASSES = (*DETECTION_CLASSES, "other")
HEADINGS = ("away", "side", "towards")

FAR_M, SMALL = 20.0, 0.1
"""A box at this distance, and one of this share of the picture's height, counts as its class says."""

_ROWS_AT_ONCE = 4
"""Rows that the VAE decodes together, so that its memory does not grow with the batch."""


class PoseWeight(Plugin):
    """Loss weights ``1 + strength · s(t) · W``, W a heat map of the scene's boxes in each view at the latents' size.

    A box's heat is classes[its class] · headings[how it is seen] · (distance / 20 m)^far · (0.1 / size)^small, at most `most`;
    size is the side of a square as large as the box in the picture, as a share of the picture's height.

    Args:
        strength: λ; 0 is the plain loss.
        classes: heat by detection class, "other" for the rest; what is not named has 1, with None all have.
        headings: heat by "away", "side" and "towards" (within 45° of the view from behind, and of head-on); 1 where not named.
        far: above 0, further boxes count more.
        small: above 0, boxes that are small in the picture count more.
        most: the most heat of a box.
        schedule: s(t): "constant" 1, "high_noise" σ², "low_noise" α², "mid_noise" 4 α²σ².
        error: "ignored", W is the heat map. Else W is 1 where the decoded error of the noise, times the heat (at most 1), is
            above the threshold ("above", as HumanSD's paper words it), or is not ("below", as its released code has it).
        threshold: of that product, where the error in a pixel is 0 to 1.
        encoded: with error, W as the VAE encodes it: a weight per channel, which may be negative; as HumanSD's code has it.
    """

    accepts = ()

    def __init__(
        self, strength: float = 1.0, classes: Mapping[str, float] | None = None, headings: Mapping[str, float] | None = None,
        far: float = 0.0, small: float = 0.0, most: float = 10.0, schedule: Schedule = "constant", error: Error = "ignored",
        threshold: float = 0.05, encoded: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes, self.headings = _table("classes", classes, CLASSES), _table("headings", headings, HEADINGS)
        for name, value in (("strength", strength), ("most", most), ("threshold", threshold)):
            if not 0 <= value < math.inf:
                raise InputError(f"pose_weight: {name} = {value} must be a finite number, 0 or above")
        for name, value in (("far", far), ("small", small)):
            if not -4 <= value <= 4:
                raise InputError(f"pose_weight: {name} = {value} is an exponent; allowed: -4 to 4")
        for name, word, words in (("schedule", schedule, SCHEDULES), ("error", error, ("ignored", "above", "below"))):
            if word not in words:
                there = f"{nearest(str(word), words)}; there are {', '.join(words)}"
                raise InputError(f"pose_weight: {name} {word!r} is unknown{there}")
        self.strength, self.far, self.small, self.most = strength, far, small, most
        self.schedule, self.error, self.threshold, self.encoded = schedule, error, threshold, encoded
        self.vae_factor = 0

    def attach(self, backbone: Any) -> None:
        self.vae_factor = int(backbone.vae_factor)

    def importance(self, seen: SeenBox) -> float:
        """Give the heat of a box in one view."""
        quarter = math.pi / 4
        heading = HEADINGS[0 if seen.heading_rad < quarter else 2 if seen.heading_rad > 3 * quarter else 1]
        heat = self.classes.get(seen.box.detection_class or "other", 1.0) * self.headings.get(heading, 1.0)
        return min(heat * (max(seen.distance_m, 1e-3) / FAR_M) ** self.far * (SMALL / seen.size) ** self.small, self.most)

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        if not self.vae_factor:
            raise InputError("pose_weight draws at the latents' size, which it knows once it stands in a host")
        maps = []
        for camera in frame.cameras:
            width, height = camera.image_size
            size = (height // self.vae_factor, width // self.vae_factor)
            maps.append(raster.heat_map(frame, camera, self.importance, size))
        return {"heat": np.stack(maps)}

    def weight(self, arrays: Arrays, step: TrainingStep) -> Tensor:
        heat = arrays["heat"].flatten(0, 1)[:, None].to(step.clean)
        where = heat if self.error == "ignored" else self._from_error(heat.clamp(0, 1), step)
        return 1 + self.strength * self._share(step) * where

    def _share(self, step: TrainingStep) -> Tensor | float:
        """Give s(t), (N, 1, 1, 1)."""
        alpha, sigma = step.schedule.rates(step.t, step.clean)
        signal, noise = alpha.square(), sigma.square()
        if self.schedule == "mid_noise":
            return 4 * signal * noise
        return 1.0 if self.schedule == "constant" else noise if self.schedule == "high_noise" else signal

    @torch.no_grad()
    def _from_error(self, heat: Tensor, step: TrainingStep) -> Tensor:
        """Give W from the error of the noise, decoded, inside of the heat map (N, 1, h, w)."""
        first_stage, error = self.backbone.first_stage, step.noise_error
        # What the VAE makes of no error is a picture too.
        nothing = first_stage.decode(torch.zeros_like(error[:1])).float()
        parts = []
        for rows, hot in zip(error.split(_ROWS_AT_ONCE), heat.split(_ROWS_AT_ONCE), strict=True):
            wrong = (first_stage.decode(rows).float() - nothing).abs().mean(1, keepdim=True) / 2
            found = interpolate(hot, wrong.shape[-2:], mode="bilinear") * wrong.clamp(max=1) > self.threshold
            counts = (found if self.error == "above" else ~found).to(heat)
            if self.encoded:
                parts.append(first_stage.encode(counts.expand(-1, 3, -1, -1)).to(heat))
            else:
                parts.append(interpolate(counts, heat.shape[-2:], mode="area"))
        return torch.cat(parts)


def _table(name: str, given: Mapping[str, float] | None, known: tuple[str, ...]) -> dict[str, float]:
    """Check heat by name; raises InputError for another name, and for what is no finite number from 0."""
    for key, value in (given or {}).items():
        if key not in known:
            raise InputError(f"pose_weight: {name} has no {key!r}{nearest(key, known)}; there are {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise InputError(f"pose_weight: {name}.{key} = {value!r} must be a finite number, 0 or above")
    return {key: float(value) for key, value in (given or {}).items()}

"""The referee as a head for classifier guidance: the likelihood of a frame's own layout in the frame's pictures."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from drivegen import raster
from drivegen.evaluate.referee import DRIVABLE_GROUP, GROUP_OF_CLASS, GROUPS, Referee
from drivegen.scene import BEV_CLASSES, DETECTION_CLASSES, Frame
from drivegen.world import CLASSES

UNKNOWN = 255
BLOCK = 64
"""Side of the blocks that count as one pixel: labels within 8×8 are nearly always equal."""

_DRIVABLE = ("drivable_area", "ped_crossing", "stop_line", "carpark_area")


def layout_labels(frame: Frame) -> NDArray[np.uint8]:
    """Return the labels (V, H, W) that a frame's boxes and map imply, values in GROUPS; UNKNOWN where they imply none."""
    out = []
    for camera in frame.cameras:
        view = raster.layout(frame, camera)
        labels = np.full(view.box_class.shape, UNKNOWN, np.uint8)
        for i, name in enumerate(BEV_CLASSES):
            seen = (view.map_bits >> np.uint8(i)) & 1 == 1
            if name == "walkway":
                labels[seen] = GROUPS.index("walkway")
            elif name in _DRIVABLE:
                labels[seen] = DRIVABLE_GROUP
        for i, name in enumerate(DETECTION_CLASSES):
            labels[view.box_class == 1 + i] = GROUP_OF_CLASS[CLASSES.index(name)]
        out.append(labels)
    return np.stack(out)


class LayoutHead:
    """``head(pixels, frame)``: the referee's log-likelihoods (V,) of a frame's own layout, an 8×8 block counting as one."""

    def __init__(self, referee: Referee) -> None:
        self.net = referee.net
        self._known: tuple[Frame, Tensor] | None = None

    def __call__(self, pixels: Tensor, frame: Frame) -> Tensor:
        """Score pictures (V, 3, H, W) in about [−1, 1]."""
        if self._known is None or self._known[0] is not frame:
            self._known = (frame, torch.from_numpy(layout_labels(frame)).long().to(pixels.device))
        labels = self._known[1]
        height, width = pixels.shape[-2:]
        padded = F.pad(pixels, (0, -width % 16, 0, -height % 16), mode="replicate")
        segments = self.net(padded).segments[:, :, :height, :width].float()
        return -F.cross_entropy(segments, labels, ignore_index=UNKNOWN, reduction="none").sum((1, 2)) / BLOCK

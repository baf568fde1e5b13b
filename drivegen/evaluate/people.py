"""The second referee: it finds people in pictures, those on foot and those on two wheels, which the first hardly sees."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivegen.evaluate.referee import Segmenter, load_net, padded
from drivegen.scene import Box3D, Frame
from drivegen.world import View

ASSET = Path(__file__).parent / "assets" / "people.safetensors"
WIDTHS = (24, 40, 64, 96)
TWO_WHEELS = ("bicycle", "motorcycle")
KINDS = ("pedestrian", "rider")
"""Who is found: people on foot, and people on a bicycle or motorcycle, together with it."""


class PeopleNet(Segmenter):
    """A segmentation into two classes: nobody, and a person."""

    def __init__(self) -> None:
        super().__init__(2, WIDTHS)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, 2, H, W) of pictures (N, 3, H, W) in [−1, 1]; H and W are multiples of 16."""
        return self.segment(pixels)[0]


class PeopleReferee:
    """A trained network; ``referee(images)`` tells which pixels are of a person."""

    def __init__(self, net: PeopleNet) -> None:
        self.net = net.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Iterable[NDArray[np.uint8]]) -> NDArray[np.bool_]:
        """Judge images, each (H, W, 3) uint8 of one size, of at least 16 pixels: (N, H, W)."""
        batches, (height, width) = padded(images, next(self.net.parameters()).device)
        found = torch.cat([self.net(batch).argmax(1)[:, :height, :width] == 1 for batch in batches])
        return cast(NDArray[np.bool_], found.cpu().numpy())


def kind_of(box: Box3D) -> str | None:
    """Say which of KINDS a box is; None for all else, and for two wheels that nobody rides."""
    if box.detection_class in TWO_WHEELS:
        return None if box.attribute == "cycle.without_rider" else "rider"
    return "pedestrian" if box.detection_class == "pedestrian" else None


def people_mask(frame: Frame, view: View) -> NDArray[np.bool_]:
    """Return (H, W): where a view of the city shows a person; the frame is the one whose boxes the view's instances count."""
    people = np.array([False, *(kind_of(box) is not None for box in frame.boxes)])
    mask: NDArray[np.bool_] = people[view.instances]
    return mask


def load(path: Path = ASSET, device: str | torch.device = "cpu") -> PeopleReferee:
    """Load a trained referee of people; raises InputError unless its sha256 is the one in the JSON file beside it."""
    return PeopleReferee(load_net(PeopleNet(), path).to(device))


@cache
def default() -> PeopleReferee:
    """Load the committed referee of people once."""
    return load()

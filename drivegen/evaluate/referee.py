"""The referee: a small network that segments a picture and reads time and weather, trained on the city's renders alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from drivegen.support import weights
from drivegen.support.errors import InputError
from drivegen.support.files import sha256
from drivegen.world import CLASSES, DRIVABLE, VEHICLES
from drivegen.world.conditions import TIMES, WEATHERS

GROUPS = (
    "sky", "drivable", "walkway", "terrain", "building", "vegetation", "pole", "vehicle", "pedestrian", "barrier",
)  # fmt: skip
"""The classes of the referee; "barrier" is a barrier or a traffic cone."""

DRIVABLE_GROUP, VEHICLE_GROUP = GROUPS.index("drivable"), GROUPS.index("vehicle")

ASSET = Path(__file__).parent / "assets" / "referee.safetensors"
WIDTHS = (16, 48, 96, 160)


def _group_of(value: int) -> int:
    if value in DRIVABLE:
        return DRIVABLE_GROUP
    if value in VEHICLES:
        return VEHICLE_GROUP
    name = CLASSES[value]
    return GROUPS.index("barrier" if name in ("barrier", "traffic_cone") else name)


GROUP_OF_CLASS: NDArray[np.uint8] = np.array([_group_of(i) for i in range(len(CLASSES))], dtype=np.uint8)
"""Index into GROUPS of each value of the city's class image."""


class _Block(nn.Sequential):
    """Two 3x3 convolutions with batch normalisation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Reading:
    """The network's output for pictures: segments (N, groups, H, W), time (N, 3), weather (N, 4) as logits; features (N, D)."""

    segments: Tensor
    time: Tensor
    weather: Tensor
    features: Tensor


class Segmenter(nn.Module):
    """A U-Net of four levels whose finest works at half the picture's size.

    Args:
        groups: number of classes of a pixel.
        widths: channels at 1/2, 1/4, 1/8 and 1/16 of the picture's size.
    """

    def __init__(self, groups: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem = nn.Sequential(nn.Conv2d(3, a, 5, 2, 2, bias=False), nn.BatchNorm2d(a), nn.ReLU(inplace=True))
        self.level1 = _Block(a, a)
        self.level2, self.level3, self.level4 = _Block(a, b, 2), _Block(b, c, 2), _Block(c, d, 2)
        self.merge3, self.merge2, self.merge1 = _Block(d + c, c), _Block(c + b, b), _Block(b + a, a)
        self.fine = nn.Conv2d(a, 4 * groups, 1)
        self.coarse = nn.ModuleList(nn.Conv2d(width, groups, 1) for width in (d, c, b))

    def segment(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return segments (N, groups, H, W) as logits, and features (N, D) pooled over the picture.

        pixels (N, 3, H, W) are in [−1, 1]; H and W are multiples of 16.
        """
        x1 = self.level1(self.stem(pixels))
        x2 = self.level2(x1)
        x3 = self.level3(x2)
        x4 = self.level4(x3)
        y3 = self.merge3(torch.cat([_twice(x4), x3], 1))
        y2 = self.merge2(torch.cat([_twice(y3), x2], 1))
        y1 = self.merge1(torch.cat([_twice(y2), x1], 1))
        # Every level votes: the coarse ones learn what is where, the fine one the borders, in half as many steps.
        votes = self.coarse[0](x4).float()
        votes = _larger(votes, 2) + self.coarse[1](y3).float()
        votes = _larger(votes, 2) + self.coarse[2](y2).float()
        segments = _larger(votes, 4) + F.pixel_shuffle(self.fine(y1), 2).float()
        # The finest level joins in the pooling because rain and fog show in small contrasts.
        return segments, torch.cat([x4.mean((2, 3)), x1.mean((2, 3))], 1)


class RefereeNet(Segmenter):
    """The referee's network: a segmentation, and two heads on the pooled coarsest level."""

    def __init__(self) -> None:
        super().__init__(len(GROUPS), WIDTHS)
        a, _, _, d = WIDTHS
        self.hidden = nn.Linear(d + a, d)
        self.time, self.weather = nn.Linear(d, len(TIMES)), nn.Linear(d, len(WEATHERS))

    def forward(self, pixels: Tensor) -> Reading:
        """Segment and classify pictures (N, 3, H, W) in [−1, 1]; H and W are multiples of 16."""
        segments, features = self.segment(pixels)
        hidden = F.relu(self.hidden(features))
        return Reading(segments, self.time(hidden), self.weather(hidden), features)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _larger(x: Tensor, times: int) -> Tensor:
    return F.interpolate(x, scale_factor=times, mode="bilinear")


@dataclass(frozen=True, eq=False)
class Verdict:
    """The referee's answer for N pictures: groups (N, H, W) uint8 (index into GROUPS), time and weather (N,) (index into TIMES
    and WEATHERS), features (N, D) float64.
    """  # fmt: skip

    groups: NDArray[np.uint8]
    time: NDArray[np.int64]
    weather: NDArray[np.int64]
    features: NDArray[np.float64]


class Referee:
    """A trained network; ``referee(images)`` judges pictures."""

    def __init__(self, net: RefereeNet) -> None:
        self.net = net.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Iterable[NDArray[np.uint8]]) -> Verdict:
        """Judge images, each (H, W, 3) uint8 of one size; any size of at least 16 pixels."""
        batches, (height, width) = padded(images, next(self.net.parameters()).device)
        parts = [self.net(batch) for batch in batches]
        segments = torch.cat([part.segments.argmax(1)[:, :height, :width].to(torch.uint8) for part in parts])
        return Verdict(
            cast(NDArray[np.uint8], segments.cpu().numpy()),
            torch.cat([part.time.argmax(1) for part in parts]).cpu().numpy(),
            torch.cat([part.weather.argmax(1) for part in parts]).cpu().numpy(),
            torch.cat([part.features for part in parts]).double().cpu().numpy(),
        )


def padded(images: Iterable[NDArray[np.uint8]], device: torch.device) -> tuple[Sequence[Tensor], tuple[int, int]]:
    """Return pictures as batches (N, 3, H, W) whose sides are multiples of 16, and their own (height, width).

    Args:
        images: (H, W, 3) uint8 of one size, of at least 16 pixels.
        device: where the batches go.
    """
    stacked = np.stack(list(images))
    if stacked.dtype != np.uint8 or stacked.ndim != 4 or stacked.shape[-1] != 3 or min(stacked.shape[1:3]) < 16:
        raise InputError(f"the referee reads (H, W, 3) uint8 images, not {stacked.dtype} of shape {stacked.shape[1:]}")
    height, width = stacked.shape[1:3]
    pixels = to_network(torch.from_numpy(stacked).to(device))
    # Eight pictures at a time stay in the processor's caches.
    return F.pad(pixels, (0, -width % 16, 0, -height % 16), mode="replicate").split(8), (height, width)


def to_network(images: Tensor) -> Tensor:
    """Convert uint8 images (N, H, W, 3) to the network's (N, 3, H, W) in [−1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def load(path: Path = ASSET, device: str | torch.device = "cpu") -> Referee:
    """Load a trained referee; raises InputError unless its sha256 is the one in the JSON file beside it."""
    return Referee(load_net(RefereeNet(), path).to(device))


Net = TypeVar("Net", bound=nn.Module)


def load_net(net: Net, path: Path) -> Net:
    """Load a referee's weights into its network.

    Raises InputError unless their sha256 is the one in the JSON file beside them.
    """
    recorded = weights.read_json(path.with_suffix(".json")).get("sha256")
    found = sha256(path) if path.is_file() else "none (the file is missing)"
    if found != recorded:
        raise InputError(f"{path}: sha256 {found} is not the recorded {recorded}; scores of another referee do not compare")
    state = {k: v.float() if v.is_floating_point() else v for k, v in weights.load_file(path).items()}
    weights.load_strict(net, state, str(path))
    return net


@cache
def default() -> Referee:
    """Load the committed referee once."""
    return load()

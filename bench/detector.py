"""A small standard camera detector: features of every view, sampled at ground points, a bird's-eye CNN, centre heat maps.

After CenterNet and CenterPoint (Zhou et al. 2019; Yin et al. 2021: heat maps of centres, penalty-reduced focal loss) and
Simple-BEV (Harley et al. 2022: bilinear sampling of image features at points above each cell, averaged over the cameras).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from drivegen.scene import DETECTION_CLASSES, Box3D, Frame
from drivegen.scene.geometry import SE3, project
from drivegen.scene.pictures import load_image

REACH_M = 40.0
"""The grid covers a square of this half side about the ego vehicle."""
CELLS = 64
HEIGHTS_M = (0.3, 1.2, 2.2)
"""Where above each cell's centre the views are read."""
STRIDE = 8
"""Of the image features."""
LEAST_HEAT = 0.05
MOST_BOXES = 60
_PEAK = 1e-4
_REGRESSED = 8
"""Offset (2) in cells, height of the centre in metres, log size (3), sine and cosine of the heading."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """One frame: pictures (V, 3, H, W) uint8; for each cell and height its place in each view's features and whether it is
    seen there; targets.

    places (V, P, 2) in [−1, 1] as `grid_sample` reads them, seen (V, P), P = heights × cells × cells; heat (classes, C, C);
    cells (M,) flat indices of the centres, values (M, 8).
    """

    pictures: Tensor
    places: Tensor
    seen: Tensor
    heat: Tensor
    cells: Tensor
    values: Tensor


def lesson(frame: Frame) -> Lesson:
    """Prepare a frame, its cameras set to one size; boxes without lidar points and mostly hidden ones are not taught."""
    pictures = np.stack([np.asarray(load_image(camera)) for camera in frame.cameras])
    places, seen = _places(frame)
    heat, cells, values = targets([box for box in frame.boxes if box.num_lidar_pts != 0 and box.visibility != 1],
                                  frame.global_SE3_ego)  # fmt: skip
    arrays = (pictures.transpose(0, 3, 1, 2), places, seen, heat, cells, values)
    return Lesson(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


def _places(frame: Frame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    middle = (np.arange(CELLS) + 0.5) * (2 * REACH_M / CELLS) - REACH_M
    x, y = np.meshgrid(middle, middle, indexing="ij")
    points = np.concatenate([np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], -1) for z in HEIGHTS_M])
    points = frame.global_SE3_ego.transform(points)
    places, seen = [], []
    for camera in frame.cameras:
        pixels, depth = project(camera.K_image, camera.global_SE3_camera.inverse().transform(points))
        width, height = camera.image_size
        with np.errstate(invalid="ignore"):
            inside = (depth > 0.5) & (pixels > 0).all(1) & (pixels < (width, height)).all(1)
        places.append(np.where(inside[:, None], 2 * pixels / (width, height) - 1, 0).astype(np.float32))
        seen.append(inside)
    return np.stack(places), np.stack(seen)


Targets = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]


def targets(boxes: Sequence[Box3D], global_SE3_ego: SE3) -> Targets:
    """Return heat (classes, C, C), flat cells (M,) and values (M, 8) of the boxes within reach."""
    heat = np.zeros((len(DETECTION_CLASSES), CELLS, CELLS), np.float32)
    cells, values = [], []
    rows, columns = np.mgrid[:CELLS, :CELLS]
    for box in boxes:
        name = box.detection_class
        ego_SE3_object = global_SE3_ego.inverse() @ box.global_SE3_object
        at = (ego_SE3_object.translation[:2] + REACH_M) * (CELLS / (2 * REACH_M))
        i, j = np.floor(at).astype(int)
        if name is None or not (0 <= i < CELLS and 0 <= j < CELLS):
            continue
        spread = max(1.0, float(min(box.size_wlh_m[:2])) * CELLS / (2 * REACH_M) / 2)
        bump = np.exp(-((rows - i) ** 2 + (columns - j) ** 2) / (2 * spread**2))
        channel = heat[DETECTION_CLASSES.index(name)]
        np.maximum(channel, np.where(bump < 0.05, 0, bump).astype(np.float32), out=channel)
        yaw = ego_SE3_object.yaw_rad
        cells.append(i * CELLS + j)
        z = ego_SE3_object.translation[2]
        values.append([at[0] - i, at[1] - j, z, *np.log(box.size_wlh_m), np.sin(yaw), np.cos(yaw)])
    return heat, np.array(cells, np.int64), np.array(values, np.float32).reshape(-1, _REGRESSED)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.layers(x))


def _halved(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Detector(nn.Module):
    """``detector(lessons)`` gives heat logits (B, classes, C, C) and values (B, 8, C, C)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.view = nn.Sequential(_halved(3, 16), _halved(16, 32), _Residual(32), _halved(32, width), _Residual(width))
        self.above = nn.Sequential(
            nn.Conv2d(width * len(HEIGHTS_M), width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            _Residual(width), _Residual(width),
        )  # fmt: skip
        self.heat = nn.Conv2d(width, len(DETECTION_CLASSES), 1)
        self.values = nn.Conv2d(width, _REGRESSED, 1)
        nn.init.constant_(self.heat.bias, -4.6)  # type: ignore[arg-type]  # one in a hundred, as the focal loss wants it

    def forward(self, lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor]:
        pictures = torch.cat([each.pictures for each in lessons]).float() / 127.5 - 1
        features = self.view(pictures).split([len(each.pictures) for each in lessons])
        above = torch.stack([lifted(own, each) for own, each in zip(features, lessons, strict=True)])
        x = self.above(above)
        return self.heat(x), self.values(x)


def lifted(features: Tensor, own: Lesson) -> Tensor:
    """Sample features (V, D, h, w) above each cell: (heights · D, C, C), averaged over the views that see the point."""
    read = F.grid_sample(features, own.places[:, None], align_corners=False, padding_mode="border")[:, :, 0]
    seen = own.seen[:, None].float()
    mean = (read * seen).sum(0) / seen.sum(0).clamp(min=1)  # (D, P)
    return mean.reshape(-1, len(HEIGHTS_M), CELLS, CELLS).flatten(0, 1)


def loss_of(heat: Tensor, values: Tensor, lessons: Sequence[Lesson]) -> Tensor:
    """Return the penalty-reduced focal loss of the heat (α = 2, β = 4) and the L1 distance of the values at true centres.

    Args:
        heat: (B, classes, C, C) logits.
        values: (B, 8, C, C).
        lessons: B frames.
    """
    wanted = torch.stack([each.heat for each in lessons])
    chance = heat.sigmoid().clamp(_PEAK, 1 - _PEAK)
    centre = wanted == 1
    pull = ((1 - chance) ** 2 * chance.log())[centre].sum()
    push = ((1 - wanted) ** 4 * chance**2 * (1 - chance).log())[~centre].sum()
    number = max(1, sum(len(each.cells) for each in lessons))
    apart = heat.new_zeros(())
    for own, each in zip(values.flatten(2), lessons, strict=True):
        apart = apart + (own[:, each.cells].T - each.values).abs().sum()
    return -(pull + push) / number + apart / number / 4


@dataclass(frozen=True, eq=False)
class Detection:
    """A detected box in the ego frame of its sample, with its score."""

    name: str
    score: float
    ego_SE3_object: SE3
    size_wlh_m: NDArray[np.float64]


@torch.no_grad()
def decode(heat: Tensor, values: Tensor) -> list[Detection]:
    """Read the boxes of one frame from heat (classes, C, C), 0 to 1, and values (8, C, C): the peaks of 3×3 cells."""
    peaks = heat * (F.max_pool2d(heat[None], 3, 1, 1)[0] == heat)
    scores, places = peaks.flatten().topk(MOST_BOXES)
    found = []
    for score, place in zip(scores.tolist(), places.tolist(), strict=True):
        if score < LEAST_HEAT:
            break
        number, cell = divmod(place, CELLS * CELLS)
        i, j = divmod(cell, CELLS)
        dx, dy, z, *rest = values[:, i, j].double().tolist()
        size, (sine, cosine) = np.exp(np.clip(rest[:3], -3, 4)), rest[3:]
        x, y = ((v * 2 * REACH_M / CELLS) - REACH_M for v in (i + dx, j + dy))
        found.append(
            Detection(DETECTION_CLASSES[number], score, SE3.from_yaw(float(np.arctan2(sine, cosine)), (x, y, z)), size)
        )
    return found


def train(
    lessons: Sequence[Lesson], added: Sequence[Lesson], steps: int, seed: int, batch: int = 2, rate: float = 2e-3
) -> Detector:
    """Train a detector.

    Args:
        lessons: recorded frames.
        added: synthetic frames, half of each batch where there are any.
        steps: of the optimiser (AdamW, the rate falls to zero by a half cosine).
        seed: of the weights and of the order.
        batch: frames of a step.
        rate: the largest.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = Detector().train()
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.01)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min((i + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * i / steps))
    )
    for _ in range(steps):
        few = batch // 2 if added else 0
        chosen = [lessons[i] for i in rng.integers(0, len(lessons), batch - few)]
        chosen += [added[i] for i in rng.integers(0, len(added), few)] if few else []
        optimiser.zero_grad()
        heat, values = net(chosen)
        loss_of(heat, values, chosen).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimiser.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def detect(net: Detector, own: Lesson) -> list[Detection]:
    """Detect the boxes of a frame."""
    heat, values = net([own])
    return decode(heat[0].sigmoid(), values[0])

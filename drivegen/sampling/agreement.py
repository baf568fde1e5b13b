"""Blends overlapping views: the clean latents predicted for a place are averaged over the views that show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivegen.plugin import Denoiser, ToX0
from drivegen.raster import box_numbers, ground_points
from drivegen.sampling.sphere import cells_that_see, rays_of, sphere_depth
from drivegen.scene import Camera, Frame
from drivegen.scene.geometry import Array

POINTS = 4
"""A cell is looked at in POINTS · POINTS places: how much of another cell shows the same is a share of these."""


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Which latent cells of different views show the same places, numbered through all views.

    pairs (P, 2): a cell and one of another view that shows some of its places. weights (P,) fp32: what the other one counts in
    the first cell's mean, in which the cell itself has the rest of 1.
    """

    pairs: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Overlaps:
        """Return the same on a device."""
        return Overlaps(self.pairs.to(device), self.weights.to(device))


def overlaps(frame: Frame, height: int, width: int) -> Overlaps:
    """Find which latent cells of a frame's views show the same places.

    What a ray shows is the first of: a box, the ground, the sphere of `sphere_noise`. A place is shared where the other view
    shows the same box there, or like it none. The view in which a place lies further inside counts more, as panoramas are
    blended (Szeliski 2006, "Image Alignment and Stitching", section 6.2).

    Args:
        frame: the frame.
        height: of the latents.
        width: of the latents.
    """
    size, grid = height * width, (height * POINTS, width * POINTS)
    seen = [_places(frame, camera, *grid) for camera in frame.cameras]
    coarse = (np.arange(grid[0])[:, None] // POINTS * width + np.arange(grid[1]) // POINTS).ravel()
    found = [np.zeros((0, 2), dtype=np.int64)]
    for i, (points, boxes) in enumerate(seen):
        for j, other in enumerate(frame.cameras):
            if i != j:
                shown, at = cells_that_see(other, points, *grid)
                same = boxes[shown] == seen[j][1][at]
                found.append(np.stack([i * size + coarse[shown[same]], j * size + coarse[at[same]]], -1))
    pairs, count = np.unique(np.concatenate(found), axis=0, return_counts=True)
    inside = np.tile(np.outer(_inside(height), _inside(width)).ravel(), len(frame.cameras))
    others = count / POINTS**2 * inside[pairs[:, 1]]
    whole = inside + np.bincount(pairs[:, 0], others, len(inside))
    return Overlaps(torch.from_numpy(pairs), torch.from_numpy(others / whole[pairs[:, 0]]).float())


def _inside(count: int) -> Array:
    """Weigh the cells of a row by how far from its ends they are: the square of the distance, 1 in the middle."""
    middle = np.linspace(0.5, count - 0.5, count) / count
    weights: Array = np.square(2 * np.minimum(middle, 1 - middle))
    return weights


def _places(frame: Frame, camera: Camera, height: int, width: int) -> tuple[Array, NDArray[np.int32]]:
    """Find what rays through a grid show: places (P, 3) in the global frame, and on which boxes (P,) they lie, -1 for none."""
    rays = rays_of(camera, height, width)
    boxes, box_depth = box_numbers(frame, camera, (height, width))
    around = np.fmin(sphere_depth(camera, rays).reshape(height, width), ground_points(frame, camera, (height, width))[1])
    around = np.where(np.isfinite(around), around, np.nan)  # a ray may miss both
    depth = np.where(boxes >= 0, box_depth, around)
    return camera.global_SE3_camera.transform(rays * depth.reshape(-1, 1)), boxes.ravel()


def agreeing(denoise: Denoiser, to_x0: ToX0, shown: Overlaps, active: Callable[[], bool]) -> Denoiser:
    """Replace each cell's clean latents by their mean with those of the cells that show the same, each by its weight.

    The noise of x stays as it is, so that only the predicted clean latents are averaged (Bar-Tal et al. 2023, MultiDiffusion,
    eq. 5, average the next x instead, and with it the noise).

    Args:
        denoise: the denoiser.
        to_x0: gives the clean latents of its predictions.
        shown: which cells show the same, on the denoiser's device.
        active: tells before each step whether to blend.
    """

    def guided(x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
        prediction = denoise(x, t, known)
        if not len(shown.pairs) or not active():
            return prediction
        clean = to_x0(x, t, prediction)
        flat = clean.flatten(2).transpose(1, 2).flatten(0, 1)  # (cells, C)
        cells, others = shown.pairs.unbind(1)
        apart = (flat[others] - flat[cells]) * shown.weights.to(flat.dtype)[:, None]
        by = torch.zeros_like(flat).index_add(0, cells, apart).unflatten(0, (len(x), -1)).transpose(1, 2).reshape(x.shape)
        return to_x0.shift_x0(t, prediction, by)

    return guided

"""Blends overlapping views: the clean latents predicted for a place are averaged over the views that show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from drivegen.plugin import Denoiser, ToX0
from drivegen.sampling.sphere import cells_that_see, on_sphere
from drivegen.scene.cameras import Camera


def overlaps(cameras: Sequence[Camera], height: int, width: int) -> Tensor:
    """List pairs (P, 2) of latent cells of different views that show the same place, numbered through all views.

    A cell is taken to lie on the sphere of `sphere_noise`, where the ray through its middle meets it.

    Args:
        cameras: the views, in order.
        height: of the latents.
        width: of the latents.
    """
    size = height * width
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for i, camera in enumerate(cameras):
        points = on_sphere(camera, height, width)
        for j, other in enumerate(cameras):
            if i != j:
                seen, cells = cells_that_see(other, points, height, width)
                pairs.append(np.stack([i * size + seen, j * size + cells], -1))
    return torch.from_numpy(np.concatenate(pairs))


def agreeing(denoise: Denoiser, to_x0: ToX0, pairs: Tensor, active: Callable[[], bool]) -> Denoiser:
    """Replace each cell's clean latents by their mean with those of the cells paired with it.

    The noise of x stays as it is, so that only the predicted clean latents are averaged (Bar-Tal et al. 2023, MultiDiffusion,
    eq. 5, average the next x instead, and with it the noise).

    Args:
        denoise: the denoiser.
        to_x0: gives the clean latents of its predictions.
        pairs: (P, 2), of `overlaps`.
        active: tells before each step whether to blend.
    """

    def guided(x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
        prediction = denoise(x, t, known)
        if not len(pairs) or not active():
            return prediction
        clean = to_x0(x, t, prediction)
        flat = clean.flatten(2).transpose(1, 2).flatten(0, 1)  # (cells, C)
        total = flat.index_add(0, pairs[:, 0], flat[pairs[:, 1]])
        count = 1 + torch.bincount(pairs[:, 0], minlength=len(flat))[:, None]
        by = (total / count - flat).unflatten(0, (len(x), -1)).transpose(1, 2).reshape(x.shape)
        return to_x0.shift_x0(t, prediction, by)

    return guided

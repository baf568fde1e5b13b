"""Distances between a reconstruction and its picture, without networks; and the crops that are compared."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crops(pixels: Tensor, size: tuple[int, int], latents: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Cut one random window out of each image; a window as large as the image is the image.

    Args:
        pixels: (N, 3, H, W).
        size: (height, width) of the window.
        latents: (N, C, h, w) of the images, of which the same windows are cut, on the latents' grid; None for none.
    """
    step = 1 if latents is None else pixels.shape[-1] // latents.shape[-1]
    height, width = (min(a, b) for a, b in zip(size, pixels.shape[-2:], strict=True))
    tops = torch.randint((pixels.shape[-2] - height) // step + 1, (len(pixels),)).tolist()
    lefts = torch.randint((pixels.shape[-1] - width) // step + 1, (len(pixels),)).tolist()

    def cut(images: Tensor, cell: int, height: int, width: int) -> Tensor:
        places = [(y * step // cell, x * step // cell) for y, x in zip(tops, lefts, strict=True)]
        return torch.stack([p[:, y : y + height, x : x + width] for p, (y, x) in zip(images, places, strict=True)])

    return cut(pixels, 1, height, width), None if latents is None else cut(latents, step, height // step, width // step)


def edge_distance(a: Tensor, b: Tensor, sizes: int = 4) -> Tensor:
    """Return the mean L1 distance of the horizontal and vertical differences of two images, over several sizes.

    A blurred edge costs little in plain L1 and much here.

    Args:
        a: (N, C, H, W).
        b: (N, C, H, W).
        sizes: number of sizes, each half of the one before.
    """
    total = a.new_zeros(())
    difference = a - b
    for level in range(sizes):
        if level:
            difference = F.avg_pool2d(difference, 2)
        if min(difference.shape[-2:]) < 2:
            break
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return total / sizes


def colour_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean L1 distance of red − green and of blue − yellow, at a quarter of the size.

    Plain L1 is nearly all brightness: without this term a short training ends in grey pictures.
    """
    red, green, blue = F.avg_pool2d(a - b, 4).unbind(dim=1)
    return (red - green).abs().mean() + (blue - 0.5 * (red + green)).abs().mean()

"""Convolutions of 3×3 with a quarter of the multiplications, by transforming tiles of the picture (Lavin and Gray 2016)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

TILE = 4
"""Pixels per side of a tile's result; it reads TILE + 2 per side: (TILE + 2)² products, where the sum takes 9·TILE²."""

_POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5))
"""Where the polynomials are evaluated, infinity besides: in fp32 these round as little as plain convolution does."""

MIN_CHANNELS = 256
MIN_PIXELS = 1000
"""Below these, transforming pictures or weights takes as long as it saves (measured on two cores with AVX2)."""

MAX_TILES = 2048
"""Tiles that are in memory at once, transformed, as far as whole pictures allow."""


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Make the matrices of pictures (T², T²), weights (T², 9) and results (TILE², T²), T = TILE + 2, each for both axes.

    A product of polynomials is interpolated from the products of their values (Toom and Cook); a correlation with the weights
    is its transpose.
    """

    def values(terms: int) -> np.ndarray:
        return np.array([[point**k for k in range(terms)] for point in _POINTS] + [[0.0] * (terms - 1) + [1.0]])

    pictures, weights, results = np.linalg.inv(values(TILE + 2)).T, values(3), values(TILE).T
    size = np.abs(pictures).max(1, keepdims=True)  # of moderate size all, as rows that are large lose digits
    pictures, weights = pictures / size, weights * size
    both = [torch.from_numpy(np.kron(one, one)).float() for one in (pictures, weights, results)]
    return both[0], both[1], both[2]


_PICTURES, _WEIGHTS, _RESULTS = _transforms()


def saves_time(layer: nn.Conv2d) -> bool:
    """Tell whether a layer is of the kind that `winograd` computes, and wide enough."""
    plain = layer.kernel_size == (3, 3) and layer.stride == (1, 1) and layer.padding == (1, 1) and layer.dilation == (1, 1)
    wide = min(layer.in_channels, layer.out_channels) >= MIN_CHANNELS
    return plain and wide and layer.groups == 1 and layer.padding_mode == "zeros"


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve pictures with 3×3 weights, stride 1, zeros outside, in fp32 on a CPU: (N, O, H, W), channels last.

    Each tile of both is transformed, multiplied value by value and summed over channels, which is (TILE + 2)² matrix products,
    and transformed back: Lavin and Gray (2016), section 4. Relative error about 1e-6, as of the plain convolution.

    Args:
        x: (N, C, H, W).
        weight: (O, C, 3, 3).
        bias: (O,); None for none.
    """
    number, channels, height, width = x.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    kernels = torch.mm(_WEIGHTS, weight.permute(2, 3, 1, 0).reshape(9, -1)).view(-1, channels, len(weight))
    out = x.new_empty(number, height, width, len(weight))
    padded = x.new_zeros(rows * TILE + 2, columns * TILE + 2, channels)
    whole = x.new_empty(rows, TILE, columns, TILE, len(weight))
    together = max(1, MAX_TILES // (rows * columns))
    for pictures, results in zip(x.split(together), out.split(together), strict=True):
        products = torch.bmm(_tiles(pictures, padded), kernels)
        # A picture at a time, here as in `_tiles`, so that what is only moved or transformed stays in the caches.
        for result, product in zip(results, products.view(len(products), len(pictures), -1).unbind(1), strict=True):
            parts = torch.mm(_RESULTS, product).view(TILE, TILE, rows, columns, -1)
            inside = whole.copy_(parts.permute(2, 0, 3, 1, 4)).view(rows * TILE, columns * TILE, -1)[:height, :width]
            result.copy_(inside if bias is None else inside + bias)
    return out.permute(0, 3, 1, 2)


def _tiles(pictures: Tensor, padded: Tensor) -> Tensor:
    """Transform the tiles of pictures (N, C, H, W) to ((TILE + 2)², N · tiles, C); padded is room framed by zeros."""
    number, channels, height, width = pictures.shape
    rows, columns, side = padded.shape[0] // TILE, padded.shape[1] // TILE, TILE + 2
    line, pixel, _ = padded.stride()
    windows = padded.as_strided((side, side, rows, columns, channels), (line, pixel, line * TILE, pixel * TILE, 1))
    transformed = pictures.new_empty(side**2, number, rows * columns * channels)
    for i, picture in enumerate(pictures):
        padded[1 : height + 1, 1 : width + 1] = picture.permute(1, 2, 0)
        torch.mm(_PICTURES, windows.reshape(side**2, -1), out=transformed[:, i])
    return transformed.view(side**2, -1, channels)

"""Convolutions of 3×3 over few pixels and many channels as one matrix product, whose weights are read as they lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

WEIGHTS_PER_PIXEL = {torch.bfloat16: 3000, torch.float32: 9000}
"""Pairs of channels for each pixel from which it is quicker: oneDNN rearranges a convolution's weights at each call, and that
is then the greater part of its time (measured on an AMD EPYC with AVX-512 bf16).
"""


def few_pixels(x: Tensor, weight: Tensor) -> bool:
    """Tell whether pictures (N, C, H, W) are so few, and weights (O, C, 3, 3) so many and channels last, that it is quicker."""
    least = WEIGHTS_PER_PIXEL.get(weight.dtype)
    if least is None or not weight.is_contiguous(memory_format=torch.channels_last):
        return False
    return 0 < len(x) * x.shape[2] * x.shape[3] * least <= weight.shape[0] * weight.shape[1]


def by_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve pictures with 3×3 weights, stride 1, zeros outside: (N, O, H, W), channels last.

    Args:
        x: (N, C, H, W).
        weight: (O, C, 3, 3), channels last, so that nothing is copied of it.
        bias: (O,); None for none.
    """
    number, channels, height, width = x.shape
    padded = x.new_zeros(number, height + 2, width + 2, channels)
    padded[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
    picture, line, pixel, one = padded.stride()
    around = padded.as_strided((number, height, width, 3, 3, channels), (picture, line, pixel, line, pixel, one))
    out = linear(around.reshape(number * height * width, -1), weight.permute(0, 2, 3, 1).reshape(len(weight), -1), bias)
    return out.view(number, height, width, -1).permute(0, 3, 1, 2)

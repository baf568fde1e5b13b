"""Matrix products in fp32 given to oneDNN, which uses the whole of an AMD processor, where torch gives them to MKL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torch.overrides import TorchFunctionMode

MIN_WIDTH = 320
"""Channels on both sides from which products are looked at; below it a call costs too little to be worth it."""

ONEDNN_BATCH = 16
"""A single thread's convolutions of one pixel in fp32 go to oneDNN in batches of this size and above (torch's rule)."""


def as_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x·Wᵀ + b as a convolution of one pixel, which torch gives to oneDNN.

    Args:
        x: (..., C).
        weight: (O, C).
        bias: (O,); None for none.
    """
    rows = x.numel() // x.shape[-1]
    batch = _batch(rows) if x.dtype == torch.float32 and wide(weight) else 1
    pixels = x.reshape(batch, 1, rows // batch, x.shape[-1]).permute(0, 3, 1, 2)  # lines of pixels, channels last
    return conv2d(pixels, weight[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def wide(weight: Tensor) -> bool:
    """Tell whether a weight (O, C, ...) is wide on both sides."""
    return min(weight.shape[:2]) >= MIN_WIDTH


def _batch(rows: int) -> int:
    """Choose into how many lines rows are divided evenly, so that oneDNN computes on them."""
    if torch.get_num_threads() > 1:
        return 1
    return next((n for n in range(ONEDNN_BATCH, 4 * ONEDNN_BATCH) if rows % n == 0), 1)


class WideLinear(TorchFunctionMode):
    """Wide linear layers in fp32 as convolutions of one pixel, for every caller: attention's projections, plugins' own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        options = dict(kwargs or {})
        if func is linear and _taken(args, options):
            return as_convolution(*args, **options)
        return func(*args, **options)


def _taken(args: Any, options: Mapping[str, Any]) -> bool:
    given = [*args, *options.values()]
    x, weight = (*args, None)[:2] if args else (None, None)
    if not isinstance(x, Tensor) or not isinstance(weight, Tensor) or x.numel() == 0 or not set(options) <= {"bias"}:
        return False
    plain = all(z is None or (z.dtype == torch.float32 and z.device.type == "cpu") for z in given)
    # The rows of one image's coarsest layer and above: an embedding of one row is no work.
    long = x.numel() // x.shape[-1] >= ONEDNN_BATCH
    return plain and weight.ndim == 2 and wide(weight) and long and not _learns()


def by_lines(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Compute a convolution of one pixel on lines of pixels, of which there are enough for oneDNN: (N, O, H, W)."""
    number, channels, height, width = x.shape
    alone = torch.get_num_threads() == 1 and number < ONEDNN_BATCH <= number * height
    if not alone or x.dtype != torch.float32 or layer.weight.dtype != torch.float32 or x.device.type != "cpu" or _learns():
        return layer._conv_forward(x, layer.weight, layer.bias)
    lines = x.permute(0, 2, 3, 1).reshape(number * height, 1, width, channels).permute(0, 3, 1, 2)
    out = conv2d(lines, layer.weight, layer.bias).permute(0, 2, 3, 1)
    return out.reshape(number, height, width, -1).permute(0, 3, 1, 2)


def is_one_pixel(layer: nn.Conv2d) -> bool:
    """Tell whether a layer is of the kind that `by_lines` computes, and wide enough."""
    plain = layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding in ((0, 0), "valid")
    return plain and layer.groups == 1 and wide(layer.weight)


def _learns() -> bool:
    return torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")

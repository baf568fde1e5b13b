"""Differences of biases and norms: added to what a layer gives, so that its own parameters stay as they are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from drivegen.lora.changes import Shift

_HANDLES = "_lora_shift_handles"


class _Added:
    """A forward hook that adds what a difference of bias, or of a norm's weight and bias, changes."""

    def __init__(self, shift: Shift, scale: float) -> None:
        self.shift, self.scale = shift, scale

    def __call__(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return shifted(module, inputs[0], output, self.shift, self.scale)


def shifted(layer: Any, x: Tensor, y: Tensor, shift: Shift, scale: float = 1.0) -> Tensor:
    """Return what a layer gives with a difference of its bias, or of a norm's weight and bias.

    Args:
        layer: the layer.
        x: what it is given.
        y: what it gives.
        shift: what is added.
        scale: times which.
    """
    bias = None if shift.bias is None else shift.bias.to(y) * scale
    if shift.weight is None:
        assert bias is not None
        return y + (bias[:, None, None] if isinstance(layer, nn.Conv2d) else bias)
    weight = shift.weight.to(y) * scale
    if isinstance(layer, nn.GroupNorm):
        return y + F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    return y + F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)


def add_shift(model: nn.Module, name: str, shift: Shift, scale: float) -> None:
    """Add a difference to a layer of a network.

    Args:
        model: the network.
        name: the layer's.
        shift: what is added; its shapes are the layer's.
        scale: times which.
    """
    handle = model.get_submodule(name).register_forward_hook(_Added(shift, scale))
    vars(model).setdefault(_HANDLES, []).append(handle)


def remove_shifts(model: nn.Module) -> None:
    """Remove every difference of biases and norms from a network."""
    for handle in vars(model).pop(_HANDLES, ()):
        handle.remove()

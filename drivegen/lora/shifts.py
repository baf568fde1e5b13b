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
        bias = None if self.shift.bias is None else self.shift.bias.to(output) * self.scale
        if self.shift.weight is None:
            assert bias is not None
            return output + (bias[:, None, None] if isinstance(module, nn.Conv2d) else bias)
        weight, (x, *_) = self.shift.weight.to(output) * self.scale, inputs
        if isinstance(module, nn.GroupNorm):
            return output + F.group_norm(x, module.num_groups, weight, bias, module.eps)
        return output + F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


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

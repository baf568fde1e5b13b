"""Inception v3 as it is used for the Fréchet inception distance: weights ported from TensorFlow's graph of 2015.

The file that the field's figures are computed with is called ``pt_inception-2015-12-05-6726825d.pth`` (or
``weights-inception-2015-12-05-6726825d.pth``; the same tensors). It holds no code that is run. Three poolings differ from the
published network (Szegedy et al. 2016): the average ones do not count the border, and the last block takes the maximum.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivegen.support import weights
from drivegen.support.errors import InputError

WIDTH = 2048
"""Length of the embedding."""

SIDE_PX = 299
"""Pictures are squares of this side."""

_EPSILON = 1e-3
_CLASSES = 1008
"""Outputs of TensorFlow's graph; other ports of Inception have 1000, and other weights."""

_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_UNPADDED = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_4a_3x3")
_STRIDED = (
    "Conv2d_1a_3x3", "Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3", "Mixed_7a.branch3x3_2", "Mixed_7a.branch7x7x3_4",
)  # fmt: skip
"""Convolutions that halve the picture; they have no border."""

_A = (("branch1x1",), ("branch5x5_1", "branch5x5_2"), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"), ("branch_pool",))
_B = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
_C = (
    ("branch1x1",), ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
    ("branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"), ("branch_pool",),
)  # fmt: skip
_D = (("branch3x3_1", "branch3x3_2"), ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"))
_E = (
    ("branch1x1",), ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
    ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")), ("branch_pool",),
)  # fmt: skip
"""Branches of each kind of block, each a chain of convolutions; where a chain forks, its ends are joined."""

_BLOCKS: dict[str, tuple[Any, ...]] = {
    "Mixed_5b": _A, "Mixed_5c": _A, "Mixed_5d": _A, "Mixed_6a": _B, "Mixed_6b": _C, "Mixed_6c": _C, "Mixed_6d": _C,
    "Mixed_6e": _C, "Mixed_7a": _D, "Mixed_7b": _E, "Mixed_7c": _E,
}  # fmt: skip


class InceptionV3(nn.Module):
    """The network with its batch norms folded into its convolutions, frozen; pictures are (N, 3, 299, 299) in [−1, 1]."""

    def __init__(self, state: weights.State) -> None:
        super().__init__()
        names = [*_STEM, *(f"{block}.{name}" for block, chains in _BLOCKS.items() for name in _flat(chains))]
        self.convolutions: Any = nn.ModuleDict({_key(name): _folded(state, name) for name in names})
        self.eval().requires_grad_(False)

    def embedding(self, pictures: Tensor) -> Tensor:
        """Return one vector (N, 2048) per picture: the mean over positions before the classifier (pool3)."""
        x = pictures
        for name in _STEM:
            x = self._convolve(name, x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        for block, chains in _BLOCKS.items():
            x = self._block(block, chains, x)
        return x.mean((2, 3))

    def _convolve(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self.convolutions[_key(name)](x))

    def _block(self, block: str, chains: tuple[Any, ...], x: Tensor) -> Tensor:
        ends = []
        for chain in chains:
            y = _pooled(block, x) if chain == ("branch_pool",) else x
            for step in chain:
                forks = step if isinstance(step, tuple) else (step,)
                y = torch.cat([self._convolve(f"{block}.{name}", y) for name in forks], 1)
            ends.append(y)
        if block in ("Mixed_6a", "Mixed_7a"):
            ends.append(F.max_pool2d(x, 3, 2))
        return torch.cat(ends, 1)


def _pooled(block: str, x: Tensor) -> Tensor:
    if block == "Mixed_7c":
        return F.max_pool2d(x, 3, 1, 1)
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _flat(chains: tuple[Any, ...]) -> list[str]:
    return [name for item in chains for name in (_flat(item) if isinstance(item, tuple) else [item])]


def _key(name: str) -> str:
    return name.replace(".", "_")  # torch's names of modules have no dots


def _folded(state: weights.State, name: str) -> nn.Conv2d:
    """Build a convolution with the batch norm behind it folded in."""
    weight = state[f"{name}.conv.weight"]
    out, into, high, wide = weight.shape
    bare = name in _UNPADDED or name in _STRIDED
    stride = 2 if name in _STRIDED else 1
    layer = nn.Conv2d(into, out, (high, wide), stride, (0, 0) if bare else (high // 2, wide // 2))
    factor = state[f"{name}.bn.weight"] / (state[f"{name}.bn.running_var"] + _EPSILON).sqrt()
    with torch.no_grad():
        layer.weight.copy_(weight * factor.view(-1, 1, 1, 1))
        assert layer.bias is not None
        layer.bias.copy_(state[f"{name}.bn.bias"] - state[f"{name}.bn.running_mean"] * factor)
    return layer


def load(path: Path) -> InceptionV3:
    """Load the network from a file of weights, which is read as tensors alone.

    Raises InputError for anything but TensorFlow's port: figures of other weights do not compare with the field's.
    """
    state = {key: value.float() for key, value in weights.load_file(path).items()}
    outputs = len(state["fc.weight"]) if "fc.weight" in state else _CLASSES
    if outputs != _CLASSES or any(key.startswith("AuxLogits") for key in state):
        raise InputError(
            f"{path} holds the Inception v3 of another port, with which no published figure is computed; give the weights that "
            "are ported from TensorFlow, pt_inception-2015-12-05-6726825d.pth"
        )
    try:
        return InceptionV3(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} does not hold the weights of Inception v3: {type(error).__name__} {error}") from error

"""Files of hypernetworks, as AUTOMATIC1111's interface writes them: settings, and a pair of networks per width."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from drivegen.support import weights
from drivegen.support.errors import InputError
from drivegen.support.pickled import read_values

_OLD = {"linear1.weight": "linear.0.weight", "linear1.bias": "linear.0.bias", "linear2.weight": "linear.1.weight",
        "linear2.bias": "linear.1.bias"}  # fmt: skip
_FLAT = re.compile(r"(\d+)\.([01kv])\.(.+)")

ACTIVATIONS: dict[str, type[nn.Module] | None] = {
    "linear": None, "relu": nn.ReLU, "leakyrelu": nn.LeakyReLU, "elu": nn.ELU, "swish": nn.Hardswish, "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid, "hardswish": nn.Hardswish, "silu": nn.SiLU, "gelu": nn.GELU, "mish": nn.Mish, "selu": nn.SELU,
    "celu": nn.CELU, "relu6": nn.ReLU6, "softplus": nn.Softplus, "softsign": nn.Softsign, "hardtanh": nn.Hardtanh,
    "logsigmoid": nn.LogSigmoid, "hardsigmoid": nn.Hardsigmoid, "tanhshrink": nn.Tanhshrink, "softshrink": nn.Softshrink,
    "hardshrink": nn.Hardshrink,
}  # fmt: skip
"""By the names in files; `swish` is what that interface takes for it."""


@dataclass(frozen=True, eq=False)
class HypernetworkFile:
    """What a file says.

    parts are the states of the networks of keys and of values, by width; dropout is the share of values that training leaves
    out behind each layer, of which only the places count: they move the numbers of those that follow.
    """

    parts: Mapping[int, tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]
    structure: Sequence[float]
    activation: str
    layer_norm: bool
    activate_output: bool
    dropout: Sequence[float]

    def places(self) -> list[int]:
        """Return the numbers of what has weights, among all parts of a network in order: layers, and norms if there are any."""
        out, place, count = [], 0, len(self.structure) - 1
        for i in range(count):
            out.append(place)
            place += 1 + (self.activation != "linear" and (self.activate_output or i < count - 1))
            if self.layer_norm:
                out.append(place)
                place += 1
            place += i + 1 < len(self.dropout) and self.dropout[i + 1] > 0
        return out


def read(path: Path) -> HypernetworkFile | None:
    """Read a file; None where it is of anything else. Raises InputError where it is damaged.

    A safetensors file has the same under names such as ``768.k.linear.0.weight``, and its settings in the header.
    """
    if not path.is_file():
        return None
    values: dict[Any, Any]
    if weights.is_safetensors(path):
        state = weights.load_file(path, finite=False)
        found = {key: _FLAT.fullmatch(key) for key in state}
        if not found or not all(found.values()):
            return None
        values = {}
        for key, match in found.items():
            assert match is not None
            pair = values.setdefault(int(match[1]), ({}, {}))
            pair[match[2] in "1v"][match[3]] = state[key]
        for key, text in weights.metadata(path).items():
            try:
                values[key] = json.loads(text)
            except ValueError:
                values[key] = text
    else:
        read_here = read_values(path)
        if not isinstance(read_here, dict):
            return None
        values = read_here
    pairs = {key: value for key, value in values.items() if isinstance(key, int) and not isinstance(key, bool)}
    if not pairs or not all(isinstance(value, (list, tuple)) and len(value) == 2 for value in pairs.values()):
        return None
    return _checked(path, values, pairs)


def _checked(path: Path, values: Mapping[Any, Any], pairs: Mapping[int, Any]) -> HypernetworkFile:
    structure = values.get("layer_structure") or [1, 2, 1]
    activation = values.get("activation_func") or "linear"
    if not isinstance(structure, (list, tuple)) or not all(isinstance(f, (int, float)) for f in structure):
        raise InputError(f"{path}: layer_structure = {structure!r:.80} must be numbers")
    if not isinstance(activation, str) or activation.lower() not in ACTIVATIONS:
        raise InputError(f"{path}: activation_func = {activation!r:.80} is none of {', '.join(ACTIVATIONS)}")
    flags = {"is_layer_norm": False, "activate_output": True, "use_dropout": False, "last_layer_dropout": False}
    for name, default in flags.items():
        flags[name] = values.get(name, default) or False
        if not isinstance(flags[name], bool):
            raise InputError(f"{path}: {name} = {flags[name]!r:.80} must be true or false")
    dropout = values.get("dropout_structure")
    if dropout is None:
        dropout = _dropout(len(structure), flags["last_layer_dropout"]) if flags["use_dropout"] else ()
    if not isinstance(dropout, (list, tuple)) or not all(isinstance(p, (int, float)) for p in dropout):
        raise InputError(f"{path}: dropout_structure = {dropout!r:.80} must be numbers")
    parts: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
    for width, pair in pairs.items():
        if not all(isinstance(one, Mapping) and all(isinstance(t, Tensor) for t in one.values()) for one in pair):
            raise InputError(f"{path}: {width} must hold the weights of two networks")
        states = [{_OLD.get(key, str(key)): tensor for key, tensor in one.items()} for one in pair]
        parts[width] = (states[0], states[1])
    made = HypernetworkFile(
        parts, tuple(structure), activation.lower(), flags["is_layer_norm"], flags["activate_output"], tuple(dropout)
    )
    expected = {f"linear.{place}.{kind}" for place in made.places() for kind in ("weight", "bias")}
    for width, both in parts.items():
        for one in both:
            if strange := sorted(set(one) ^ expected):
                raise InputError(f"{path}: {width} lacks {strange[0]!r:.80}, or should not have it; the file is damaged")
            weights.check_finite(one, f"{path}: {width}")
    return made


def _dropout(length: int, last: bool) -> list[float]:
    """Return that interface's shares where a file says only that there is drop-out."""
    return [0.0] * length if length < 3 else [0.0, *[0.3] * (length - 3), 0.3 if last else 0.0, 0.0]

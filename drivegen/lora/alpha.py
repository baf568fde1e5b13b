"""The strength of a LoRA's layers: alpha, in the file or in PEFT's configuration beside it, layer by layer."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from drivegen.support import weights
from drivegen.support.errors import InputError

PEFT_STEM = "adapter_model"
PEFT_KINDS = ("LORA", "LOHA", "LOKR")
"""What adapter_config.json may be of; DoRA is LORA with lengths."""

MOST = 1e6
"""Beyond it there is no picture left, only overflow."""

_NAME = re.compile(r"\^?(?:[\w.-]|\\[.-])+\$?")
"""What PEFT and diffusers write as a pattern: a layer's name or the end of one, escaped or not, perhaps with anchors."""


@dataclass(frozen=True)
class Alphas:
    """PEFT's values for one network: alpha (None = each layer's rank), and those of layers that have their own.

    by_name holds (end of a name, or a whole one with `^` before it) → alpha, and ranks likewise → rank. rslora divides by the
    root of the rank.
    """

    alpha: float | None = None
    by_name: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    kind: str = "LORA"
    """LORA, DORA, LOHA or LOKR, as PEFT's configuration says."""
    rank: int | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)

    def rank_of(self, name: str) -> int | None:
        """Return a layer's rank, where PEFT's configuration says it."""
        return next((rank for pattern, rank in self.ranks.items() if _fits(pattern, name)), self.rank)

    def unused(self, names: Iterable[str]) -> list[str]:
        """Return which of the patterns are of none of these layers."""
        names = tuple(names)
        return [pattern for pattern in self.by_name if not any(_fits(pattern, name) for name in names)]

    def factor(self, name: str, rank: int) -> float:
        """Return the factor of a layer's B·A."""
        if self.alpha is None:
            return 1.0
        alpha = next((value for pattern, value in self.by_name.items() if _fits(pattern, name)), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def _fits(pattern: str, name: str) -> bool:
    """Tell whether a layer's name ends with a pattern's, at a dot; PEFT's ``(.*\\.)?(pattern)$`` for plain names."""
    return name == pattern[1:] if pattern.startswith("^") else f".{name}".endswith(f".{pattern}")


def read_alphas(path: Path, networks: tuple[str, ...]) -> dict[str, Alphas]:
    """Read PEFT's values by network: from adapter_config.json, or from diffusers' entries in the file's header.

    Raises InputError, which names the file and the key, for anything but numbers, and for names that are regular expressions: a
    foreign file must not choose what is run, and some expressions never finish.
    """
    beside = path.with_name("adapter_config.json")
    if path.stem == PEFT_STEM:
        if not beside.is_file():
            warnings.warn(f"{path} has no adapter_config.json beside it: alpha is taken to be the rank", stacklevel=4)
            return {}
        values = weights.read_object(beside)
        kind = values.get("peft_type", "LORA")
        if kind not in PEFT_KINDS:
            raise InputError(f"{beside} is of {kind!r:.80}; {', '.join(PEFT_KINDS)} are read")
        word = "lora_alpha" if kind == "LORA" else "alpha"
        if word not in values:
            warnings.warn(f"{beside} does not say {word}: it is taken to be the rank", stacklevel=4)
        if word in values:
            values = {**values, "lora_alpha": values[word]}
        return dict.fromkeys(networks, _alphas(values, "", str(beside)))
    where = f"{path}: the header's lora_adapter_metadata"
    values = _header(path, where)
    return {name: _alphas(values, f"{name}.", where) for name in networks}


def _header(path: Path, where: str) -> dict[str, Any]:
    """Read what diffusers writes into a safetensors file's header; an empty object where there is none."""
    if path.suffix.lower() != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("lora_adapter_metadata")
    try:
        values = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} must be an object, not {type(values).__name__}")
    return values


def _alphas(values: Mapping[str, Any], prefix: str, where: str) -> Alphas:
    key = f"{prefix}lora_alpha"
    if key not in values:
        return Alphas()
    named = values.get(f"{prefix}alpha_pattern") or {}
    if not isinstance(named, dict):
        raise InputError(f"{where}: {prefix}alpha_pattern must be an object of numbers, not {type(named).__name__}")
    rslora = values.get(f"{prefix}use_rslora") or False
    if not isinstance(rslora, bool):
        raise InputError(f"{where}: {prefix}use_rslora = {rslora!r} must be true or false")
    by_name = {
        _plain(pattern, f"{where}: {prefix}alpha_pattern"): number(value, f"{where}: {prefix}alpha_pattern[{pattern!r}]")
        for pattern, value in named.items()
    }
    ranks = values.get(f"{prefix}rank_pattern") or {}
    if not isinstance(ranks, dict):
        raise InputError(f"{where}: {prefix}rank_pattern must be an object of numbers, not {type(ranks).__name__}")
    ranked = {
        _plain(pattern, f"{where}: {prefix}rank_pattern"): _rank(value, f"{where}: {prefix}rank_pattern[{pattern!r}]")
        for pattern, value in ranks.items()
    }
    rank = _rank(values[f"{prefix}r"], f"{where}: {prefix}r") if f"{prefix}r" in values else None
    kind = "DORA" if values.get(f"{prefix}use_dora") else str(values.get(f"{prefix}peft_type", "LORA"))
    return Alphas(number(values[key], f"{where}: {key}"), by_name, rslora, kind, rank, ranked)


def _rank(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise InputError(f"{where} = {value!r:.80}; a rank is a whole number from 1")
    return value


def _plain(pattern: str, where: str) -> str:
    """Return a pattern as a name, with `^` before a whole one."""
    if _NAME.fullmatch(pattern) is None:
        raise InputError(
            f"{where} names layers by the regular expression {pattern!r}, and none from a file is run; "
            "replace it there by the names of the layers"
        )
    return pattern.removesuffix("$").replace("\\", "")


def number(value: Any, where: str) -> float:
    """Return an alpha; raises InputError for anything else than one number."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST:
        shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise InputError(f"{where} is {shown}; it must be one number of at most {MOST:.0e}")
    return float(value)

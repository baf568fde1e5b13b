"""Files of LyCORIS (Yeh et al. 2024): LoCon, LoHa, LoKr, whole differences and norms, with DoRA's lengths or without.

Layers bear kohya's names (`lora_unet_down_blocks_0_…`), which are resolved by the model they are added to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from drivegen.lora.alpha import number
from drivegen.lora.changes import Change, Decomposed, Hadamard, LowRank, Shift, Whole
from drivegen.support.errors import InputError

PREFIXES = {
    "lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2",
}  # fmt: skip
NETWORKS = ("unet", "text_encoder", "text_encoder_2")

_MORE = frozenset({"alpha", "dora_scale", "diff_b"})
_KINDS: tuple[tuple[str, frozenset[str], frozenset[str]], ...] = (
    ("LoCon", frozenset({"lora_up.weight", "lora_down.weight"}), _MORE | {"lora_mid.weight"}),
    ("LoHa", frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}), _MORE | {"hada_t1", "hada_t2"}),
    ("a whole difference", frozenset({"diff"}), frozenset({"diff_b", "alpha"})),
    ("a norm", frozenset({"w_norm"}), frozenset({"b_norm"})),
    ("a bias", frozenset({"diff_b"}), frozenset()),
)
"""Kind, the parts that a layer of it needs, and those that it may have."""

_LOKR = _MORE | {f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")}


@dataclass
class Layers:
    """What a file changes, by network and layer."""

    changes: dict[str, dict[str, Change]] = field(default_factory=lambda: {name: {} for name in NETWORKS})
    shifts: dict[str, dict[str, Shift]] = field(default_factory=lambda: {name: {} for name in NETWORKS})


def read_layers(state: Mapping[str, Tensor], path: Path) -> Layers:
    """Read every layer of a file.

    Args:
        state: its tensors, in fp32.
        path: of the file, for errors.

    Raises InputError that names the layer where a part is missing, is too many, or does not fit the others.
    """
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        layer, dot, part = key.partition(".")
        if not dot or not layer.startswith(tuple(PREFIXES)):
            raise InputError(f"{path}: {key!r:.120} is of no layer of a Stable Diffusion model")
        grouped.setdefault(layer, {})[part] = value
    out = Layers()
    for layer, parts in grouped.items():
        prefix = next(p for p in PREFIXES if layer.startswith(p))
        network, name, where = PREFIXES[prefix], layer.removeprefix(prefix), f"{path}: {layer}"
        try:
            change, shift = _layer(parts, where)
        except InputError:
            raise
        except (RuntimeError, IndexError, ValueError) as error:  # shapes that do not belong together
            raise InputError(f"{where}: its parts do not fit each other ({' '.join(str(error).split())[:200]})") from error
        if change is not None:
            out.changes[network][name] = change
        if shift is not None:
            out.shifts[network][name] = shift
    return out


def _layer(parts: Mapping[str, Tensor], where: str) -> tuple[Change | None, Shift | None]:
    kind = _kind(frozenset(parts), where)
    for name, value in parts.items():
        if name != "alpha" and not value.is_floating_point():
            dtype = str(value.dtype).removeprefix("torch.")
            raise InputError(f"{where}.{name} holds {dtype}; expected are floating-point numbers")
    alpha = number(parts["alpha"], f"{where}.alpha") if "alpha" in parts else None
    if kind == "a norm":
        return None, Shift(parts["w_norm"], parts.get("b_norm"))
    shift = Shift(None, parts["diff_b"]) if "diff_b" in parts else None
    if kind == "a bias":
        return None, shift
    if kind == "a whole difference":
        return Whole(parts["diff"]), shift
    change = _locon(parts, alpha) if kind == "LoCon" else read_parts(parts, alpha, where)
    if "dora_scale" in parts:
        lengths = parts["dora_scale"]
        # (out, 1, …), or (1, in, …) of files trained with wd_on_out=False, the only kind before it.
        change = Decomposed(change, lengths, rows=lengths.ndim < 2 or lengths.shape[0] != 1)
    return change, shift


def _kind(names: frozenset[str], where: str) -> str:
    if any(name.startswith("lokr_") for name in names):
        needed: frozenset[str] = frozenset()
        kind, allowed = "LoKr", _LOKR
    else:
        found = [(kind, needed, more) for kind, needed, more in _KINDS if names & needed]
        if not found:
            shown = ", ".join(sorted(names))[:120]
            raise InputError(f"{where} holds {shown}, which is no LoRA, LoHa, LoKr, difference or norm")
        kind, needed, more = found[0]
        allowed = needed | more
    if missing := needed - names:
        raise InputError(f"{where} is {kind} and lacks {', '.join(sorted(missing))}; the file is damaged")
    if strange := names - allowed:
        raise InputError(f"{where} is {kind}, and {', '.join(sorted(strange))[:120]} is no part of it")
    return kind


def _locon(parts: Mapping[str, Tensor], alpha: float | None) -> Change:
    down, up, mid = parts["lora_down.weight"], parts["lora_up.weight"], parts.get("lora_mid.weight")
    scale = 1.0 if alpha is None else alpha / len(down)
    if mid is None:
        if down.ndim != up.ndim or len(down) != up.shape[1]:
            raise ValueError(f"lora_down is {tuple(down.shape)} and lora_up {tuple(up.shape)}")
        return LowRank(down, up * scale)
    return Whole(_tucker(mid, up.flatten(1).T, down.flatten(1)) * scale)


def _loha(parts: Mapping[str, Tensor], alpha: float | None, where: str) -> Change:
    (b1, a1), (b2, a2) = ((parts[f"hada_w{i}_a"], parts[f"hada_w{i}_b"]) for i in (1, 2))
    scale = 1.0 if alpha is None else alpha / len(a1)
    cores = [parts.get(f"hada_t{i}") for i in (1, 2)]
    if (cores[0] is None) != (cores[1] is None):
        raise InputError(f"{where} has only one of hada_t1 and hada_t2; the file is damaged")
    if cores[0] is not None and cores[1] is not None:
        return Whole(_tucker(cores[0], b1, a1) * _tucker(cores[1], b2, a2) * scale)
    a1, a2, b1, b2 = a1.flatten(1), a2.flatten(1), b1.flatten(1), b2.flatten(1)
    if a1.shape[1] != a2.shape[1] or len(b1) != len(b2) or len(a1) != b1.shape[1] or len(a2) != b2.shape[1]:
        raise ValueError(f"shapes {tuple(b1.shape)}, {tuple(a1.shape)} and {tuple(b2.shape)}, {tuple(a2.shape)}")
    return Hadamard(a1, b1, a2, b2, scale)


def read_parts(parts: Mapping[str, Tensor], alpha: float | None, where: str, rank: int | None = None) -> Change:
    """Read LoHa's or LoKr's parts of one layer.

    Args:
        parts: by names as in LyCORIS's files (`hada_w1_a`, `lokr_w2` …), which PEFT's are too.
        alpha: None = the rank.
        where: for errors.
        rank: that alpha is divided by, as PEFT's configuration has it; None = what the parts show.
    """
    try:
        if _kind(frozenset(parts), where) == "LoHa":
            return _loha(parts, alpha, where)
        return _kronecker(parts, alpha, where, rank)
    except InputError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        raise InputError(f"{where}: its parts do not fit each other ({' '.join(str(error).split())[:200]})") from error


def peft_rank(parts: Mapping[str, Tensor]) -> int:
    """Return the rank that a layer's parts show; 1 where both of LoKr's factors are whole."""
    for name in ("hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        if name in parts and parts[name].ndim:
            return max(1, len(parts[name]))
    return 1


def _kronecker(parts: Mapping[str, Tensor], alpha: float | None, where: str, rank: int | None = None) -> Whole:
    """Return LoKr's difference (Yeh et al. 2024, sec. 3): the Kronecker product W₁ ⊗ W₂, each whole or in two factors.

    Where both are whole, no rank is known and the scale is 1, as in LyCORIS.
    """
    first, own = _whole_or_factors(parts, "1", where)
    second, other = _whole_or_factors(parts, "2", where)
    rank = rank or own or other
    scale = 1.0 if alpha is None or rank is None else alpha / rank
    first = first.reshape(*first.shape, *(1 for _ in second.shape[2:]))
    return Whole(torch.kron(first, second.contiguous()) * scale)


def _whole_or_factors(parts: Mapping[str, Tensor], number: str, where: str) -> tuple[Tensor, int | None]:
    whole, b, a = (parts.get(f"lokr_w{number}{end}") for end in ("", "_a", "_b"))
    core = parts.get(f"lokr_t{number}")
    if (whole is None) == (a is None) or (a is None) != (b is None) or (core is not None and a is None):
        raise InputError(f"{where} has neither lokr_w{number} alone nor lokr_w{number}_a with _b; the file is damaged")
    if whole is not None:
        return whole, None
    assert a is not None
    assert b is not None
    if core is not None:
        return _tucker(core, b, a), len(a)
    return (b.flatten(1) @ a.flatten(1)).reshape(len(b), *a.shape[1:]), len(a)


def _tucker(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Return Σ core[i, j, …] · up[i, out] · down[j, in]: a convolution (out, in, …) in Tucker's form."""
    return torch.einsum("ij...,io,jn->on...", core, up, down)

"""LoRA files (Hu et al. 2022): kohya's, PEFT's and diffusers' layouts read, diffusers' written.

Weights are kept with alpha folded in (``W + B·A``), so that all that a file says of a layer is its two matrices.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivegen.support import weights
from drivegen.support.errors import InputError

FILE = "pytorch_lora_weights.safetensors"
NETWORKS = ("unet", "text_encoder")
_PEFT_STEM = "adapter_model"
_FILES = (FILE, f"{_PEFT_STEM}.safetensors", "pytorch_lora_weights.bin", f"{_PEFT_STEM}.bin")
_PAIR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_OTHER_KINDS = {
    "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "hada_w": "LoHa", "lokr_w": "LoKr", "lora_mid": "Tucker LoCon",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class LoRA:
    """A and B (A: (r, in), B: (out, r), or convolutions) by module name, for each of `NETWORKS`; the term is B·A."""

    layers: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]


def read(source: str | Path) -> LoRA:
    """Read a LoRA file, or a folder with one, as kohya, PEFT or diffusers write them, in fp32.

    Raises InputError for any other.
    """
    path = find(source)
    # In fp32 before alpha is folded in: a product in a file's fp16 would round what diffusers and PEFT do not round.
    state = {k: v.float() if v.is_floating_point() else v for k, v in weights.load_file(path).items()}
    for part, kind in _OTHER_KINDS.items():
        if any(part in key for key in state):
            raise InputError(f"{path} is a {kind} file; plain LoRA is read")
    if all(key.startswith(("lora_unet_", "lora_te_", "lora_te1_")) for key in state) and state:
        state = _from_kohya(state, path)
    return _from_names(state, path)


def find(source: str | Path) -> Path:
    """Return the file of a LoRA: the source itself, or the one in it where it is a folder."""
    path = Path(source).expanduser()
    if not path.is_dir():
        return path
    names = [name for name in _FILES if (path / name).is_file()]
    if not names:
        raise InputError(f"{path} holds no LoRA: none of {', '.join(_FILES)}")
    return path / names[0]


def _from_kohya(state: weights.State, path: Path) -> weights.State:
    """Give kohya's layers diffusers' names."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    state = dict(state)
    for key in [key for key in state if key.endswith(".alpha")]:
        layer = key.removesuffix(".alpha")
        up, down = (state.get(f"{layer}.lora_{end}.weight") for end in ("up", "down"))
        if up is None or down is None:
            raise InputError(f"{path}: {key!r} is of no layer; the file is damaged")
        state[f"{layer}.lora_up.weight"] = up * (float(state.pop(key)) / down.shape[0])
    try:
        named, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(state)
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} is not a whole LoRA file: {' '.join(str(error).split())[:300]}") from error
    return dict(named)


def _from_names(state: weights.State, path: Path) -> LoRA:
    """Read module names out of keys of any of diffusers' layouts, or PEFT's."""
    from diffusers.utils.state_dict_utils import DIFFUSERS_OLD_TO_PEFT, DIFFUSERS_TO_PEFT, UNET_TO_DIFFUSERS, convert_state_dict

    state = {_network_first(key.removeprefix("base_model.model.")): value for key, value in state.items()}
    text = {**DIFFUSERS_OLD_TO_PEFT, **DIFFUSERS_TO_PEFT}
    tables: dict[str, Mapping[str, str]] = {"unet": UNET_TO_DIFFUSERS, "text_encoder": text}
    configs = _configurations(path)
    out: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    for network in NETWORKS:
        part = {k.removeprefix(f"{network}."): v for k, v in state.items() if k.startswith(f"{network}.")}
        pairs: dict[str, dict[str, Tensor]] = {}
        alphas: dict[str, float] = {}
        for key, value in convert_state_dict(part, tables[network]).items():
            if key.endswith(".alpha"):
                alphas[key.removesuffix(".alpha")] = float(value)
                continue
            found = _PAIR.fullmatch(key)
            if found is None:
                raise InputError(f"{path}: {network}.{key} is not a LoRA weight")
            pairs.setdefault(found[1], {})[found[2]] = value
        out[network] = {}
        for name, pair in pairs.items():
            if set(pair) != {"A", "B"}:
                raise InputError(f"{path}: {network}.{name} has only one of its two matrices; the file is damaged")
            factor = _factor(name, pair["A"].shape[0], alphas.get(name), configs.get(network, {}))
            out[network][name] = (pair["A"], pair["B"] * factor)
    strange = [key for key in state if not key.startswith(tuple(f"{network}." for network in NETWORKS))]
    if strange or not any(out.values()):
        raise InputError(f"{path} is not a LoRA of a Stable Diffusion 1.x or 2.x model: {strange[:3] or 'it is empty'}")
    return LoRA(out)


def _network_first(key: str) -> str:
    """Say whose layer it is where a file leaves it out, as PEFT and the oldest diffusers files do."""
    if key.startswith(("down_blocks.", "up_blocks.", "mid_block.", "conv_", "time_embedding.")):
        return f"unet.{key}"
    return f"text_encoder.{key}" if key.startswith(("text_model.", "encoder.layers.")) else key


def _configurations(path: Path) -> dict[str, Mapping[str, Any]]:
    """Read PEFT's numbers by network: from adapter_config.json, or from what diffusers writes into the file's header."""
    beside = path.with_name("adapter_config.json")
    if path.stem == _PEFT_STEM:
        if not beside.is_file():
            warnings.warn(f"{path} has no adapter_config.json beside it: alpha is taken to be the rank", stacklevel=4)
            return {}
        return dict.fromkeys(NETWORKS, weights.read_json(beside))
    if path.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("lora_adapter_metadata")
    try:
        values = json.loads(text) if text else {}
    except ValueError as error:
        raise InputError(f"{path}: the header's lora_adapter_metadata is not JSON") from error
    return {n: {k.removeprefix(f"{n}."): v for k, v in values.items() if k.startswith(f"{n}.")} for n in NETWORKS}


def _factor(name: str, rank: int, alpha: float | None, config: Mapping[str, Any]) -> float:
    """Return alpha / rank of a layer, by PEFT's rules."""
    if alpha is not None:
        return alpha / rank
    if "lora_alpha" not in config:
        return 1.0
    patterns = config.get("alpha_pattern") or {}
    own = next((float(v) for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", name)), float(config["lora_alpha"]))
    return own / (math.sqrt(rank) if config.get("use_rslora") else rank)


def save(lora: LoRA, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write a LoRA as diffusers does (and so many others read): a folder with one safetensors file; returns the file."""
    state: dict[str, Tensor] = {}
    for network, layers in lora.layers.items():
        for name, (a, b) in layers.items():
            # transformers' own name of the layers until version 5, which files keep.
            full = f"text_model.{name}" if network == "text_encoder" and not name.startswith("text_model.") else name
            state |= {f"{network}.{full}.lora_A.weight": a, f"{network}.{full}.lora_B.weight": b}
    convert: Callable[[Tensor], Tensor] = (lambda v: v) if dtype is None else (lambda v: v.to(dtype))
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.save_state({key: convert(value) for key, value in state.items()}, path)
    return path

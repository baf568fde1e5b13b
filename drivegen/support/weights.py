"""Reading and writing weight files: safetensors, or foreign pickles with `weights_only=True`, checked before use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.support.errors import InputError
from drivegen.support.files import write_atomically, write_json

State = dict[str, Tensor]

_PICKLES = {"model": "pytorch_model"}
"""Stems of pickles that are not those of safetensors: transformers writes model.safetensors and pytorch_model.bin."""


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """Read a JSON file; raises InputError when it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; raises InputError as `read_json` does, and where it holds anything else."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold an object, not {type(values).__name__}")
    return values


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file atomically."""
    from safetensors.torch import save

    write_atomically(path, save({k: v.detach().contiguous().cpu() for k, v in state.items()}, metadata={"format": "pt"}))


def save_shards(state: Mapping[str, Tensor], folder: Path, stem: str, limit: int | None) -> None:
    """Write a state as ``stem.safetensors``, or as shards of at most `limit` bytes and the index that diffusers reads.

    A tensor above the limit is a shard by itself.
    """
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if shards[-1] and limit is not None and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        save_state(state, folder / f"{stem}.safetensors")
        return
    names = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for shard, name in zip(shards, names, strict=True):
        save_state(shard, folder / name)
    places = {key: name for shard, name in zip(shards, names, strict=True) for key in shard}
    index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": places}
    write_json(folder / f"{stem}.safetensors.index.json", index)


def load_file(path: Path) -> State:
    """Read one weight file; never runs code that a file brings. Raises InputError on a damaged or hostile file."""
    if not path.is_file():
        raise InputError(f"no weight file {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            state: Any = load(path.read_bytes())
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise InputError(f"{path} is not a whole safetensors file: {error}") from error
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises pickle, zip, runtime and EOF errors for damaged and hostile files alike
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path} was refused: it is not a file of plain tensors ({reason})") from error
        state = _flat(state.get("state_dict", state)) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} holds something other than named tensors")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{path}: tensor {name!r} has NaN or infinite values; the file is damaged or training diverged")
    return state


def _flat(state: dict[Any, Any]) -> dict[Any, Any]:
    """Join the names of named groups of tensors by dots, as a safetensors file of the same would have them."""
    out: dict[Any, Any] = {}
    for key, value in state.items():
        out |= {f"{key}.{name}": tensor for name, tensor in value.items()} if isinstance(value, dict) else {key: value}
    return out


def plain_state(module: nn.Module) -> State:
    """Return a network's state under its own names, without what a LoRA has put around its layers."""
    return {k.replace(".base_layer.", "."): v for k, v in module.state_dict().items() if ".lora_" not in k}


def find_state(folder: Path, stem: str) -> tuple[Path, ...]:
    """Find the weight files called stem in a folder: one file, or the shards of an index.

    safetensors come before pickles, full precision before ``fp16`` variants.
    """
    pickle = _PICKLES.get(stem, stem)
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors", f"{pickle}.bin", f"{pickle}.fp16.bin"):
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            listed = read_json(index)
            places = listed.get("weight_map") if isinstance(listed, dict) else None
            if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
                raise InputError(f"{index} must hold a weight_map from the names of tensors to those of files")
            shards = sorted(set(places.values()))
            for shard in shards:
                if Path(shard).name != shard:
                    raise InputError(f"{index} names the shard {shard!r}, which is outside of its folder; refused")
            return tuple(folder / shard for shard in shards)
    raise InputError(f"no {stem}.safetensors or {pickle}.bin in {folder}")


def load_state(folder: Path, stem: str) -> State:
    """Read the (possibly sharded) weights called stem in a folder; raises InputError on a key that comes twice."""
    state: State = {}
    for path in find_state(folder, stem):
        part = load_file(path)
        twice = state.keys() & part.keys()
        if twice:
            raise InputError(f"{path}: {sorted(twice)[0]!r} is in another shard too")
        state |= part
    return state


def load_strict(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load every key and no other into a module; raises InputError that lists the first ten differences."""
    own = module.state_dict()
    problems = [f"missing {k}" for k in own if k not in state]
    problems += [f"unexpected {k}" for k in sorted(state) if k not in own]
    problems += [
        f"{k} is {tuple(state[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise InputError(f"{where} does not fit the network: {'; '.join(problems[:10])}{more}")
    module.load_state_dict(dict(state), strict=True)

"""Weights of a network in its folder: which files, of which variant, whole or in shards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from drivegen.support.errors import InputError
from drivegen.support.files import write_json
from drivegen.support.weights import State, load_file, read_json, save_state

_PICKLES = {"model": "pytorch_model"}
"""Stems of pickles that are not those of safetensors: transformers writes model.safetensors and pytorch_model.bin."""


def variants(folder: Path, stem: str) -> dict[str, dict[str, Path]]:
    """Find the weight files called stem in a folder: by suffix, then by variant ("" = full precision); each a file or an index.

    The names are those that diffusers and transformers write, in any case: ``stem.fp16.safetensors``, and of indices
    ``stem.safetensors.index.fp16.json``.
    """
    found: dict[str, dict[str, Path]] = {"safetensors": {}, "bin": {}}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        for suffix, by_variant in found.items():
            start = stem if suffix == "safetensors" else _PICKLES.get(stem, stem)
            pattern = rf"{re.escape(start)}(\.[a-z_]\w*)?\.{suffix}(\.index(\.[a-z_]\w*)?\.json)?"
            matched = re.fullmatch(pattern, path.name, re.IGNORECASE)
            if matched is None or not path.is_file():
                continue
            variant = (matched[1] or matched[3] or "").lower().removeprefix(".")
            if matched[2] is None or variant not in by_variant:  # a whole file comes before shards
                by_variant[variant] = path
    return found


def find_state(folder: Path, stem: str, variant: str | None = None) -> tuple[Path, ...]:
    """Find the weight files called stem in a folder: one file, or the shards of an index.

    safetensors are preferred to pickles, full precision to ``fp16`` and other variants.

    Args:
        folder: the folder of one network.
        stem: what its library calls weight files.
        variant: the variant to take where the folder has it; None takes full precision, or the only variant.

    Raises InputError where there are none, or several variants of which none is preferred.
    """
    found = variants(folder, stem)
    if variant is not None:
        for by_variant in found.values():
            if variant in by_variant:
                return _files(by_variant[variant])
    for by_variant in found.values():
        preferred = [name for name in ("", "fp16") if name in by_variant]
        if preferred or len(by_variant) == 1:
            return _files(by_variant[preferred[0] if preferred else next(iter(by_variant))])
        if by_variant:
            raise InputError(f"{folder} has the variants {', '.join(by_variant)} of its weights; say which with variant")
    raise InputError(f"no {stem}.safetensors or {_PICKLES.get(stem, stem)}.bin in {folder}")


def _files(path: Path) -> tuple[Path, ...]:
    """Return a weight file, or those that an index of shards names."""
    if path.suffix.lower() != ".json":
        return (path,)
    listed = read_json(path)
    places = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(shard, str) for shard in places.values()):
        raise InputError(f"{path} must hold a weight_map from the names of tensors to those of files")
    shards = sorted(set(places.values()))
    for shard in shards:
        if Path(shard).name != shard:
            raise InputError(f"{path} names the shard {shard!r}, which is outside of its folder; refused")
    return tuple(path.parent / shard for shard in shards)


def load_state(folder: Path, stem: str, variant: str | None = None) -> State:
    """Read the (possibly sharded) weights called stem in a folder; raises InputError on a key in two shards.

    Args:
        folder: the folder of one network.
        stem: what its library calls weight files.
        variant: the variant to take where the folder has it; None takes full precision, or the only variant.
    """
    state: State = {}
    for path in find_state(folder, stem, variant):
        part = load_file(path)
        twice = state.keys() & part.keys()
        if twice:
            raise InputError(f"{path}: {sorted(twice)[0]!r} is in another shard too")
        state |= part
    return state


def save_shards(state: Mapping[str, Tensor], folder: Path, stem: str, limit: int | None) -> None:
    """Write a state as ``stem.safetensors``, or as shards and the index that diffusers reads.

    Args:
        state: the tensors by name.
        folder: where the files go.
        stem: their name without suffix.
        limit: most bytes of a shard; a larger tensor is a shard by itself. None writes one file.
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

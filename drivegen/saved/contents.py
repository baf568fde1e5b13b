"""What is inside a model folder, read from its JSON files and weight headers: no network is built."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivegen.support.errors import InputError


@dataclass(frozen=True)
class Part:
    """A network of a model: parameters in all its tensors, the dtypes of these, bytes on disk."""

    name: str
    kind: str
    parameters: int
    dtypes: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True)
class Contents:
    """A model's networks and plugins, what its scheduler states, and which family of networks it is of."""

    folder: Path
    parts: tuple[Part, ...]
    plugins: tuple[Part, ...]
    scheduler: str
    family: str


def contents(folder: Path) -> Contents:
    """List what a model folder holds; raises InputError on a damaged one."""
    from drivegen.support.weights import read_object

    listing = read_object(folder / "model_index.json")
    parts = []
    for name, value in listing.items():
        where = folder / name
        named = value[1] if isinstance(value, list) and len(value) == 2 else None
        stem = "model" if named and value[0] == "transformers" else "diffusion_pytorch_model"
        if named and _has_weights(where, stem):
            parts.append(_part(where, name, str(named), stem))
    path = folder / "drivegen.json"
    index = read_object(path) if path.exists() else {}
    try:
        names = [(str(p["name"]), str(p["kind"])) for p in index.get("plugins", ())]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: plugins must be a list of objects with a name and a kind each") from error
    plugins = tuple(_part(folder / "plugins" / name, name, kind, "model") for name, kind in names)
    named = listing.get("scheduler")
    scheduler = named[1] if isinstance(named, list) and len(named) == 2 else "none"
    path = folder / "scheduler" / "scheduler_config.json"
    prediction = read_object(path).get("prediction_type", "epsilon")
    return Contents(folder, tuple(parts), plugins, f"{scheduler}, {prediction}", _family(folder, listing))


def _family(folder: Path, listing: dict[str, Any]) -> str:
    """Name the family that a model's denoising network is of; raises InputError where it is of none that is hosted."""
    from drivegen.backbones.families import family_of_folder

    return family_of_folder(folder, listing).name


def _has_weights(folder: Path, stem: str) -> bool:
    from drivegen.support.weight_folders import variants

    return any(variants(folder, stem).values())


def _part(folder: Path, name: str, kind: str, stem: str) -> Part:
    """Describe the weight files that loading would read; of pickles the size alone is known without reading them."""
    from drivegen.support.weight_folders import find_state
    from drivegen.support.weights import is_safetensors

    count, dtypes, size = 0, set(), 0
    for path in find_state(folder, stem):
        if not path.is_file():
            raise InputError(f"no weight file {path}")
        size += path.stat().st_size
        if is_safetensors(path):
            for shape, dtype in _header(path):
                count += math.prod(shape)
                dtypes.add(dtype)
    return Part(name, kind, count, tuple(sorted(dtypes)), size)


def _header(path: Path) -> list[tuple[list[int], str]]:
    """Read the shape and dtype of each tensor."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        return [([int(n) for n in tensor["shape"]], str(tensor["dtype"])) for tensor in tensors]
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a whole safetensors file: {type(error).__name__}: {error}") from error

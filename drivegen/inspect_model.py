"""What is inside a model folder, read from its JSON files and weight headers: no network is built."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivegen.errors import InputError


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
    """A model's networks and plugins, and its drivegen.json (empty for a plain diffusers folder)."""

    folder: Path
    parts: tuple[Part, ...]
    plugins: tuple[Part, ...]
    scheduler: str
    index: dict[str, Any]


def contents(folder: Path) -> Contents:
    """Read what a model folder holds; raises InputError on a damaged one."""
    from drivegen.weights import read_json  # brings torch, which `drivegen plugins` does without

    listing = read_json(folder / "model_index.json")
    parts = []
    for name, value in listing.items():
        where = folder / name
        if isinstance(value, list) and value[1] and list(where.glob("*.safetensors")) + list(where.glob("*.bin")):
            parts.append(_part(where, name, str(value[1])))
    index = read_json(folder / "drivegen.json") if (folder / "drivegen.json").exists() else {}
    plugins = tuple(_part(folder / "plugins" / p["name"], p["name"], p["kind"]) for p in index.get("plugins", ()))
    scheduler = listing.get("scheduler", [None, "none"])[1]
    prediction = read_json(folder / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
    return Contents(folder, tuple(parts), plugins, f"{scheduler}, {prediction}", index)


def _part(folder: Path, name: str, kind: str) -> Part:
    count, dtypes, size = 0, set(), 0
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        size += path.stat().st_size
        if path.suffix == ".safetensors":
            for tensor in _header(path).values():
                count += math.prod(tensor["shape"])
                dtypes.add(str(tensor["dtype"]))
    return Part(name, kind, count, tuple(sorted(dtypes)), size)


def _header(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
    except (OSError, struct.error, ValueError) as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from error
    return {k: v for k, v in header.items() if k != "__metadata__"}

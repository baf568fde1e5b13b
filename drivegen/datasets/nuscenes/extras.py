"""What a sample's plugins are given, in its table row: JSON values, and files named by {"file": name}."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from drivegen.datasets.extras import SUFFIXES
from drivegen.datasets.nuscenes.files import Sample, found_or_copied
from drivegen.support.errors import InputError

Named = list[tuple[dict[str, Any], Sample]]
"""Dicts whose "file" is to name a sample file, once it is written."""


def storable(value: Any, root: Path, stem: str, where: str) -> tuple[Any, Named]:
    """Convert what a plugin is given to JSON values and files, which `resolved` finds again.

    Args:
        value: JSON values, numpy arrays, PIL pictures and paths of files, in dicts and lists of any depth.
        root: the dataset's folder.
        stem: names of written files begin with it.
        where: names frame and plugin in the error.

    Raises InputError for anything else.
    """
    named: Named = []

    def filed(suffix: str, read: Callable[[], bytes]) -> dict[str, Any]:
        return place(Sample(suffix, stem=f"{stem}__{len(named)}", read=read))

    def place(sample: Sample) -> dict[str, Any]:
        row: dict[str, Any] = {"file": ""}
        named.append((row, sample))
        return row

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            made = {key: convert(item) for key, item in value.items()}
            # In a row it would name a file.
            return filed(".json", partial(_json, made)) if value.keys() == {"file"} else made
        if isinstance(value, (list, tuple)):
            return [convert(item) for item in value]
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return filed(".npy", partial(_npy, value))
        if isinstance(value, Image.Image):
            return filed(".png", partial(_png, value))
        if isinstance(value, Path) and value.suffix.lower() in SUFFIXES and value.is_file():
            return place(found_or_copied(root, value, f"{stem}__{len(named)}", value.suffix))
        if isinstance(value, (np.integer, np.floating, np.bool_)):
            value = value.item()
        if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
            return value
        raise InputError(
            f"{where} hold {'a number that is not finite' if isinstance(value, float) else type(value).__name__}; tables hold "
            "JSON values, arrays of numbers, PIL pictures and paths of files that `read_extra` reads"
        )

    return convert(value), named


def resolved(value: Any, find: Callable[[str], Path]) -> Any:
    """Replace every {"file": name} in a row's value by the file's path, which find makes of the name."""
    if isinstance(value, dict):
        return find(value["file"]) if value.keys() == {"file"} else {key: resolved(item, find) for key, item in value.items()}
    return [resolved(item, find) for item in value] if isinstance(value, list) else value


def paths(value: Any) -> Iterator[Path]:
    """List the files in what `resolved` made."""
    if isinstance(value, Path):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from paths(item)


def read(value: Any, load: Callable[[Path], Any]) -> Any:
    """Replace every path in what `resolved` made by the file's content."""
    if isinstance(value, Path):
        return load(value)
    if isinstance(value, dict):
        return {key: read(item, load) for key, item in value.items()}
    return [read(item, load) for item in value] if isinstance(value, list) else value


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def _npy(value: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _png(value: Image.Image) -> bytes:
    buffer = io.BytesIO()
    value.save(buffer, "PNG")
    return buffer.getvalue()

"""What weight files a model folder holds, and whether they are the ones that were saved."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from drivegen.support.errors import InputError
from drivegen.support.files import sha256

INDEX = "drivegen.json"
"""The file of a model folder that lists every weight file with its sha256."""

FAST = "fast"
"""The folder in a model's that holds its student of few steps, which says its own sha256 (`saved.fast`)."""

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")


def check_hashes(folder: Path, expected: Mapping[str, str]) -> None:
    """Compare every weight file of a folder with its recorded sha256; raises InputError on a changed, missing or new file."""
    present = set(weight_files(folder))
    for name in sorted(present | expected.keys()):
        if name not in expected:
            raise InputError(f"{folder / name} is not listed in {INDEX}; remove it, or save the model again")
        if name not in present:
            raise InputError(f"{folder / name} is missing; {INDEX} lists it")
        found = sha256(folder / name)
        if found != expected[name]:
            raise InputError(f"{folder / name} is damaged or was changed: its sha256 is {found}, {INDEX} says {expected[name]}")


def digest_of(hashes: Mapping[str, str]) -> str:
    """Return one sha256 for a set of weight files."""
    lines = "".join(f"{name} {value}\n" for name, value in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def weight_files(folder: Path) -> list[str]:
    """List the weight files below a folder as sorted relative POSIX paths, without a student's."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in _WEIGHT_SUFFIXES)
    return sorted(path.as_posix() for path in found if path.parts[0] != FAST)

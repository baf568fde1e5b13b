"""A dataset's own splits: names of scenes in splits.json, which nuscenes-devkit reads beside the tables."""

from __future__ import annotations

import json
from pathlib import Path

from drivegen.support.errors import InputError


def read_splits(path: Path) -> dict[str, list[str]]:
    """Return the names of scenes by split; {} where there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}; correct it, or remove it") from error
    if not isinstance(found, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in found.values()
    ):
        raise InputError(f"{path} must hold lists of scene names by split; correct it, or remove it")
    return found

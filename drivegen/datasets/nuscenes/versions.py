"""The versions of a data root: the folders that hold the tables, whatever they are called."""

from __future__ import annotations

from pathlib import Path

from drivegen.datasets.base import is_folder
from drivegen.datasets.nuscenes.schema import TABLES
from drivegen.support.errors import InputError, nearest

_TELLING = ("scene", "sample", "sample_data")
"""Tables whose names, together, no other folder has: one of them may be missing, and is then said to be."""


def versions(root: Path) -> tuple[str, ...]:
    """List the folders below root that hold tables: ``v1.0-mini``, ``v1.01-train``, ``interp_12Hz_trainval`` …"""
    return tuple(sorted(folder.name for folder in root.iterdir() if _has_tables(folder))) if is_folder(root) else ()


def _has_tables(folder: Path) -> bool:
    """Two of the telling tables, or one in a folder named as nuScenes names them."""
    try:
        found = sum((folder / f"{table}.json").is_file() for table in _TELLING)
    except OSError:  # a folder that may not be looked into
        return False
    return found >= (1 if folder.name.startswith("v1.0-") else 2)


def choose_version(root: Path, version: str | None = None) -> str:
    """Return the requested version, or the only one; used for opening and validating alike.

    Raises InputError where root is no folder, has no version, lacks the requested one, or has several and none is named.
    """
    if not is_folder(root):
        raise InputError(f"data root {root} is not a folder; give the folder that holds v1.0-*/ and samples/")
    found = versions(root)
    if version is not None:
        if version in found:
            return version
        if not found:
            raise _no_tables(root, version)
        raise InputError(f"data root {root} has no version {version!r}; it has {', '.join(found)}{nearest(version, found)}")
    if len(found) > 1:
        raise InputError(f"data root {root} has several versions ({', '.join(found)}); name one")
    if not found:
        raise _no_tables(root)
    return found[0]


def _no_tables(root: Path, version: str | None = None) -> InputError:
    what = f"data root {root} has no {version or 'v1.0-*'} folder with the tables ({', '.join(TABLES[:3])} … .json)"
    if _has_tables(root.resolve()):
        return InputError(f"{what}; give the folder that holds v1.0-*/, here {root.resolve().parent}")
    below = sorted(folder.name for folder in root.iterdir() if folder.is_dir() and versions(folder))
    if below:
        return InputError(f"{what}; give the folder that holds v1.0-*/, here {root / below[0]}")
    return InputError(f"{what}; give the folder that holds v1.0-*/ and samples/")

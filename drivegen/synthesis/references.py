"""What a recipe names outside of itself: another rig's calibrations, and files for plugins, such as reference pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drivegen.datasets.extras import read_extra
from drivegen.support.errors import InputError
from drivegen.support.files import sha256
from drivegen.synthesis import rigs

_FILE, _DIGEST = "file", "sha256"


def resolved(recipe: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a recipe's values with rigs in place of their names, and the SHA-256 of each file that is an input.

    Args:
        recipe: as YAML holds it; values of another form are left to who reads them further.
        folder: of the recipe, from which names start.

    Raises InputError for what does not exist.
    """
    variants = recipe.get("variants")
    if not isinstance(variants, Mapping):
        return dict(recipe)
    return {**recipe, "variants": {name: _variant(name, variant, folder) for name, variant in variants.items()}}


def _variant(name: str, variant: Any, folder: Path) -> Any:
    if not isinstance(variant, Mapping):
        return variant
    found = dict(variant)
    if isinstance(found.get("rig"), str):
        try:
            found["rig"] = rigs.read(folder / found["rig"])
        except InputError as error:
            raise InputError(f"variants.{name}.rig: {error}") from error
    if "inputs" in found:
        found["inputs"] = _each_file(found["inputs"], lambda given: _digested(given, folder, f"variants.{name}.inputs"))
    return found


def _each_file(value: Any, change: Any) -> Any:
    """Return a value with every mapping that names a file changed."""
    if isinstance(value, Mapping):
        return change(value) if _FILE in value else {key: _each_file(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each_file(each, change) for each in value]
    return value


def _digested(given: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    if set(given) != {_FILE} or not isinstance(given[_FILE], str):
        raise InputError(f"{where}: {dict(given)!r:.80} must be {{file: NAME}} and nothing else")
    path = (folder / given[_FILE]).resolve()
    if not path.is_file():
        raise InputError(f"{where}: file {path} does not exist")
    return {_FILE: str(path), _DIGEST: sha256(path)}


def named(inputs: Any) -> Any:
    """Return inputs as they may be published: files by name and SHA-256, without their folder."""
    return _each_file(inputs, lambda given: {**given, _FILE: Path(given[_FILE]).name})


def opened(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs with files as what they hold: a picture, an array, JSON values, a text; InputError where one cannot."""

    def read(given: Mapping[str, Any]) -> Any:
        path = Path(given[_FILE])
        if path.is_file() and given.get(_DIGEST, sha256(path)) != sha256(path):
            raise InputError(f"{path} has changed since the recipe was read; begin again")
        return read_extra(path, "inputs")

    return {name: _each_file(value, read) for name, value in inputs.items()}

"""drivegen.json, which describes how the parts of a model folder work together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from drivegen.sampling.settings import Sampling
from drivegen.saved.integrity import INDEX
from drivegen.support import weights
from drivegen.support.errors import InputError
from drivegen.support.names import check_name

FORMAT = 1


@dataclass(frozen=True)
class PluginEntry:
    """A plugin in drivegen.json: instance name, kind, and the version of the package that it was saved with."""

    name: str
    kind: str
    version: str = ""


@dataclass(frozen=True)
class Index:
    """The content of drivegen.json."""

    plugins: tuple[PluginEntry, ...]
    image_size: tuple[int, int]
    sampling: Sampling
    sha256: Mapping[str, str]
    about: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)


def read_index(folder: Path) -> Index:
    """Read drivegen.json; raises InputError on anything that is missing or of the wrong form."""
    path = folder / INDEX
    values = weights.read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise InputError(f"{path} has format {found!r}; this version reads format {FORMAT}")
    try:
        height, width = values["image_size"]
        about, versions = values.get("about", {}), values.get("versions", {})
        if not all(isinstance(part, dict) for part in (about, versions, values["sampling"])):
            raise TypeError("about, versions and sampling must be objects")
        plugins = tuple(PluginEntry(str(p["name"]), str(p["kind"]), str(p.get("version", ""))) for p in values["plugins"])
        hashes = {str(k): str(v) for k, v in values["sha256"].items()}
        sampling = Sampling.from_dict(values["sampling"], str(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a model index: {type(error).__name__} {error}") from error
    for entry in plugins:
        try:
            check_name(entry.name)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    return Index(plugins, (height, width), sampling, hashes, about, {str(k): str(v) for k, v in versions.items()})


def library_versions() -> dict[str, str]:
    """Return the versions of drivegen and of the libraries that its pictures depend on."""
    return {name: version(name) for name in ("drivegen", "torch", "diffusers", "transformers", "numpy")}

"""Tuners as folders: the file of their released layout, what made it, and a card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.catalog import tuners
from drivegen.plugin.tuner import Tuner
from drivegen.saved import card as cards
from drivegen.saved.index import library_versions
from drivegen.support import files, weights
from drivegen.support.errors import InputError

ABOUT = "tuner.json"


@dataclass(frozen=True)
class SavedTuner:
    """What a tuner's folder says of it.

    Args:
        kind: its name among the installed tuners.
        options: arguments of its constructor.
        file: the weights, in the layout that the field exchanges.
        sha256: of that file.
    """

    kind: str
    options: Mapping[str, Any]
    file: Path
    sha256: str


def save(
    tuner: Tuner, folder: str | Path, dtype: torch.dtype | None = None, name: str = "", backbone: Backbone | None = None,
    training: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write a tuner as a folder of its own: a file that other programs read, `ABOUT`, and a card; returns the file.

    Args:
        tuner: the tuner, which is attached.
        folder: where it goes; an existing one is replaced.
        dtype: of the weights; None keeps theirs.
        name: its name, for the card; "" is its kind.
        backbone: what it was made for; None leaves that out.
        training: a summary of its training; None leaves that out.

    Raises InputError where it cannot be written.
    """
    folder, kind = Path(folder), tuner.saved_kind or tuners.kind_of(tuner)
    if folder.exists() and not (folder / ABOUT).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        old = folder.is_dir() and all(path.suffix == ".safetensors" for path in folder.iterdir())
        if not old:  # a LoRA as it was written before there were tuners has no description
            raise InputError(f"{folder} exists and is not a tuner's folder; choose another")
    try:
        with files.replacing(folder) as new:
            file = tuner.save(new, dtype)
            about = {
                "kind": kind, "name": name or kind, "options": tuner.saved_options(), "file": file.name,
                "sha256": files.sha256(file),
                "base": {} if backbone is None else cards.base_of(backbone), "training": dict(training or {}),
                "versions": library_versions(),
            } | ({"made_of": dict(tuner.sources)} if tuner.sources else {})  # fmt: skip
            files.write_json(new / ABOUT, about)
            files.write_atomically(new / "README.md", card(json.loads(json.dumps({**about, "options": tuner.config}))).encode())
    except OSError as error:
        raise InputError(f"cannot write the tuner to {folder}: {error.strerror or error}") from error
    return folder / file.name


def read(folder: Path) -> SavedTuner:
    """Read what a tuner's folder says of it; raises InputError where it is none, and where its file was changed."""
    path = folder / ABOUT
    values = weights.read_object(path)
    plain = {"kind": str, "options": dict, "file": str, "sha256": str}
    for key, kind in plain.items():
        if not isinstance(values.get(key), kind):
            raise InputError(f"{path} must hold {key}, {'an object' if kind is dict else 'text'}")
    if Path(values["file"]).name != values["file"]:
        raise InputError(f"{path} names the file {values['file']!r}, which is outside of its folder; refused")
    file = folder / values["file"]
    if not file.is_file():
        raise InputError(f"{path} names {file.name}, which is not there")
    if (found := files.sha256(file)) != values["sha256"]:
        raise InputError(f"{file} is damaged or was changed: its sha256 is {found}, {ABOUT} says {values['sha256']}")
    for name in tuners.load(values["kind"]).patterns:
        if isinstance(values["options"].get(name), str):
            raise InputError(f"{path}: {name} is a pattern, and none from a file is run; a list of layers' names is read")
    return SavedTuner(values["kind"], values["options"], file, values["sha256"])


def make(source: Path) -> tuple[Tuner, Path]:
    """Make the tuner that a folder of `save`, or a file of a released layout, is of; returns it and its file, not yet read.

    Raises InputError unless exactly one installed tuner is made of it.
    """
    if (source / ABOUT).is_file():
        saved = read(source)
        return tuners.make(saved.kind, saved.options, f"{source / ABOUT}: options"), saved.file
    if not source.exists():
        raise InputError(f"there is no tuner's file or folder at {source}")
    found: dict[str, Mapping[str, Any]] = {}
    for entry in tuners.offers():
        try:
            cls = tuners.load(entry.kind)
        except InputError:
            continue  # a broken package breaks only itself
        options = cls.read_options(source)
        if options is not None:
            found[entry.kind] = options
    if len(found) != 1:
        what = f"tuners {', '.join(found)} all read it" if found else "no tuner reads it"
        raise InputError(f"{source} cannot be loaded as a tuner: {what}; `drivegen info {source}` says what it is")
    ((kind, its),) = found.items()
    return tuners.make(kind, its, f"{source}: options"), source


def card(about: Mapping[str, Any]) -> str:
    """Write the README.md of a tuner's folder."""
    base, kind = about["base"], about["kind"]
    lines = ["---", "library_name: drivegen", f"tags: [drivegen, drivegen-tuner, {kind}]", "---", ""]
    lines += [f"# {about['name']}", "", f"A drivegen tuner of kind `{kind}`; `{about['file']}` is in the layout that other"]
    lines += ["programs read.", ""]
    lines += cards.table("Options", about["options"])
    lines += cards.table("Made of", {f"sha256 of {name}": digest for name, digest in about.get("made_of", {}).items()})
    lines += cards.table("Base", {**base.get("sizes", {}), **cards.hashes(base)} if base else {})
    lines += cards.table("Training", about["training"])
    lines += cards.table("Made with", about["versions"])
    lines += cards.table("File", {f"sha256 of {about['file']}": about["sha256"]})
    return "\n".join(lines)

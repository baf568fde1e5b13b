"""What a model folder names: the classes of its parts, its family, its tokenizers, and what of it is not read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from drivegen.backbones import compatibility
from drivegen.backbones.families import class_named, family_of, family_of_folder
from drivegen.backbones.family import Family
from drivegen.backbones.networks import MODELS, STEMS
from drivegen.backbones.tokenizers import TOKENIZERS, load_tokenizer
from drivegen.support import weight_folders, weights
from drivegen.support.errors import InputError

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
"""The parts that a model may have without any plugin; each family says which of them it has."""

_UNUSED = ("safety_checker", "feature_extractor")
"""Parts that change nothing in what is generated."""


def read_index(folder: Path, unet: nn.Module | None = None) -> tuple[dict[str, Any], type[Family]]:
    """Read which classes a folder names, and its family, or that of another UNet; raises InputError unless all parts of a
    hosted model are there.
    """
    index = weights.read_object(folder / "model_index.json")
    family = family_of_folder(folder, index) if unet is None else type(family_of(unet))
    missing = [name for name in family.parts if class_named(index.get(name)) is None]
    if missing:
        of = f" (it is of a {index['_class_name']})" if isinstance(index.get("_class_name"), str) else ""
        raise InputError(f"{folder / 'model_index.json'} lacks {', '.join(missing)}{of}; a {family.name} folder has them")
    for name in family.parts:
        if name.startswith("tokenizer") and index[name][1] not in TOKENIZERS:
            raise InputError(f"{folder}: {name} {index[name][1]!r} is not one of {', '.join(TOKENIZERS)}")
    return index, family


def load_tokenizers(folder: Path, family: type[Family]) -> dict[str, Any]:
    """Read the tokenizers that a family has; the names of the others are None."""
    names = [name for name in PARTS if name.startswith("tokenizer")]
    found = {name: load_tokenizer(folder / name) if name in family.parts else None for name in names}
    return found


def check_configurations(folder: Path, with_unet: bool = True) -> None:
    """Refuse a model by what its networks' configurations say, before their weights are read."""
    vae, unet = (weights.read_json(folder / name / "config.json") for name in ("vae", "unet")) if with_unet else (None, None)
    if not isinstance(vae, dict) or not isinstance(unet, dict):
        return  # building says what is wrong
    try:
        compatibility.check_unet(unet, compatibility.check_vae(vae))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def check_variant(folder: Path, classes: Mapping[str, str], variant: str | None) -> None:
    """Raise InputError where no part has the variant that was asked for; parts without it are read in full precision.

    Args:
        folder: the model's folder.
        classes: of the parts that are networks, by name.
        variant: such as "fp16"; None asks for none.
    """
    if variant is None:
        return
    found = {
        name: weight_folders.variants(folder / name, STEMS[MODELS[kind]]) for name, kind in classes.items() if kind in MODELS
    }
    there = {named for suffixes in found.values() for by_variant in suffixes.values() for named in by_variant}
    if variant not in there:
        has = ", ".join(sorted(there - {""})) or "none"
        raise InputError(f"{folder} has no weights of the variant {variant!r}; it has {has}")


def warn_of_unread(folder: Path, index: Mapping[str, Any], components: tuple[str, ...]) -> None:
    """Name the parts of a model that are listed and not loaded: its pictures will be made without them.

    Args:
        folder: the model's folder.
        index: its model_index.json.
        components: parts that are loaded besides the family's.
    """
    known = (*PARTS, *components, *_UNUSED)
    parts = {n: e for n, e in index.items() if n not in known and isinstance(e, list) and any(part is not None for part in e)}
    if not parts:
        return
    named = ", ".join(f"{name} ({class_named(entry) or entry})" for name, entry in parts.items())
    verb = "is" if len(parts) == 1 else "are"
    hint = f"; `drivegen convert controlnet {folder / 'controlnet'} OUT` makes a plugin of it" if "controlnet" in parts else ""
    warnings.warn(
        f"{folder}: {named} {verb} listed in model_index.json and not loaded: pictures are made without{hint}", stacklevel=4
    )

"""Weights that others released: which kind of plugin reads a file or folder, and the plugin made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drivegen.catalog import registry
from drivegen.catalog.construct import construct_plugin
from drivegen.plugin import Plugin, Released, ReleasedFile
from drivegen.support import weight_folders, weights
from drivegen.support.errors import InputError

_STEM = "diffusion_pytorch_model"
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")

_OTHERS = (
    (("lora_unet_", "lora_te_", "lora_unet.", "unet.lora"), "a LoRA: add it with --lora, or load_lora in Python"),
    (("model.diffusion_model.",), "a whole Stable Diffusion checkpoint: name it with --model"),
    (("first_stage_model.", "encoder.", "decoder."), "a VAE: put it in the place of the model's own with --vae"),
    (("string_to_param", "emb_params"), "a textual inversion: add it with --embedding, or load_embedding in Python"),
)  # fmt: skip
"""What the names of tensors begin with in files that are no plugin's, and what to do with those."""


@dataclass(frozen=True, eq=False)
class Found:
    """A kind that reads a released file, its class, and the result."""

    kind: str
    cls: type[Plugin]
    released: Released
    path: Path

    def make(self) -> Plugin:
        """Construct the plugin with its weights, without a backbone; raises InputError where its layers need one first."""
        plugin = construct_plugin(self.cls, self.released.arguments, f"{self.path}: arguments")
        weights.load_strict(plugin, self.released.state, str(self.path))
        return plugin


def is_released(path: Path) -> bool:
    """Tell whether a path is a weight file, or a folder as diffusers saves a network; a saved plugin's folder is neither."""
    if not path.is_dir() or not (path / "config.json").is_file():
        return path.is_file()
    config = weights.read_json(path / "config.json")
    return isinstance(config, dict) and "kind" not in config and "_class_name" in config


def read(path: Path, kind: str | None = None, options: Mapping[str, Any] | None = None) -> Found:
    """Find the kind of plugin that reads a released file or a folder of diffusers, and read it.

    Args:
        path: the file or folder.
        kind: the only kind to ask; None asks every installed one.
        options: constructor arguments that replace or complement those read from the weights; None for none.

    Raises InputError, naming what the weights are where that is known, unless exactly one kind reads them.
    """
    file = _open(path)
    found, refused = _ask((kind,) if kind is not None else tuple(registry.kinds()), file, strict=kind is not None)
    if len(found) > 1:
        raise InputError(f"{path} cannot be added as a plugin: kinds {', '.join(found)} all read it; say which")
    if not found:
        if refused is not None:
            raise refused
        raise InputError(f"{path} cannot be added as a plugin: {_said_of(file, kind)}")
    name, released = next(iter(found.items()))
    weights.check_finite(released.state, str(path))
    if options:
        released = replace(released, arguments={**released.arguments, **options})
    return Found(name, registry.load(name), released, path)


def _open(path: Path) -> ReleasedFile:
    if path.is_dir():
        config = weights.read_object(path / "config.json")
        return ReleasedFile(path, weight_folders.load_state(path, _STEM), config)
    if _SHARD.search(path.name):
        raise InputError(f"{path} is one part of a network in several files; name its folder")
    state = weights.load_file(path, finite=False)  # tensors that are not read may be damaged
    beside = path.with_name("config.json")
    if path.name.startswith(_STEM) and beside.is_file():  # a folder of diffusers, of which the user named the weights
        return ReleasedFile(path, state, weights.read_object(beside))
    return ReleasedFile(path, state)


def _ask(kinds: tuple[str, ...], file: ReleasedFile, strict: bool) -> tuple[dict[str, Released], InputError | None]:
    """Let kinds look at a file: what those that read it make of it, and the first refusal."""
    found: dict[str, Released] = {}
    refused: InputError | None = None
    for kind in kinds:
        try:
            cls = registry.load(kind)
        except InputError:
            if strict:
                raise
            continue  # a broken plugin breaks only itself
        try:
            released = cls.read_released(file)
        except InputError as error:
            refused = refused or InputError(f"{file.path}: {error}")
        except Exception as error:  # a file that is cut short lacks names or axes, wherever a class first misses them
            said = (
                f"lacks {error.args[0]!r}" if isinstance(error, KeyError) and error.args else f"{type(error).__name__}: {error}"
            )
            refused = refused or InputError(f"{file.path} looks like a file of kind {kind!r} and is not whole: {said}")
        else:
            if released is not None:
                found[kind] = released
    return found, refused


def _said_of(file: ReleasedFile, kind: str | None) -> str:
    """Say what a file is that no kind reads, or not the kind that was asked for."""
    if kind is not None:
        others = [k for k in registry.kinds() if k != kind]
        found, refused = _ask(tuple(others), file, strict=False)
        if found:
            return f"it is of kind {next(iter(found))!r}, not {kind!r}"
        if refused is not None:
            return f"it is not of kind {kind!r} ({refused})"
    name = (file.config or {}).get("_class_name")
    if name is not None:
        return f"it holds {name}, and no kind of plugin reads it"
    for begins, what in _OTHERS:
        if any(key.startswith(begins) for key in file.state):
            return f"it is {what}"
    first = next(iter(file.state), None)
    return "no kind of plugin reads it" + (f"; its first tensor is {first!r}" if first is not None else ": it is empty")

"""Plugins as folders: config.json, model.safetensors and a card; loaded, attached, written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from drivegen.catalog import registry
from drivegen.catalog.construct import construct_plugin, refusing
from drivegen.host.host import Host
from drivegen.plugin import Plugin
from drivegen.saved import card as cards
from drivegen.saved.index import library_versions
from drivegen.saved.integrity import INDEX
from drivegen.saved.released import Found
from drivegen.support import files, weights
from drivegen.support.errors import InputError
from drivegen.support.files import sha256


def load_plugin(host: Host, name: str, folder: str | Path, kind: str | None = None, alone: bool = True) -> Plugin:
    """Attach the plugin saved in a folder (config.json, model.safetensors), with its weights; returns it.

    Args:
        host: what it is attached to.
        name: its name there.
        folder: the plugin's folder.
        kind: the kind that it must have; None accepts any.
        alone: compare the file's sha256 with config.json; False for a model's plugins, whose drivegen.json was checked already.
    """
    folder = Path(folder)
    saved = read_plugin_config(folder)
    file = folder / "model.safetensors"
    if alone and "sha256" in saved and file.is_file() and (found := sha256(file)) != saved["sha256"]:
        raise InputError(f"{file} is damaged or was changed: its sha256 is {found}, config.json says {saved['sha256']}")
    if kind is not None and saved["kind"] != kind:
        raise InputError(f"{folder / 'config.json'} says kind {saved['kind']!r}, {INDEX} says {kind!r}")
    cls, stated = registry.load(saved["kind"], str(saved.get("version", ""))), folder / "config.json"
    plugin = attach(host, name, cls, saved["arguments"], weights.load_file(file), file, stated)
    plugin.to(next(host.backbone.unet.parameters()).device)
    plugin.__dict__["_saved"] = saved
    return plugin


def attach(
    host: Host, name: str, cls: type[Plugin], arguments: Mapping[str, Any], state: weights.State, file: Path, stated: Path
) -> Plugin:
    """Construct a plugin, attach it under a name, and load its weights; returns it.

    Args:
        host: what it is attached to.
        name: its name there.
        cls: its class.
        arguments: of the class's constructor.
        state: its weights.
        file: where the weights are from, for errors.
        stated: the file with the arguments, for errors.

    Raises InputError, and leaves the host as it was, where an argument is refused or the weights do not fit.
    """
    plugin = construct_plugin(cls, arguments, f"{stated}: arguments")
    with refusing(cls, str(stated)):  # many values are first made use of when layers are built
        host.add_plugin(name, plugin)
    try:
        weights.load_strict(plugin, state, str(file))
    except InputError:
        host.remove_plugin(name)
        raise
    return plugin


def read_plugin_config(folder: Path) -> dict[str, Any]:
    """Read a plugin folder's config.json; raises InputError when it is not one."""
    saved = weights.read_json(folder / "config.json")
    if not isinstance(saved, dict) or not isinstance(saved.get("kind"), str) or not isinstance(saved.get("arguments"), dict):
        raise InputError(f"{folder / 'config.json'} must hold a plugin's kind and arguments")
    base = saved.get("base") or {}
    parts = {"base": base, "training": saved.get("training") or {}}
    if isinstance(base, dict):
        parts |= {f"base.{part}": base.get(part, {}) for part in ("sizes", "sha256_fp16")}
    for part, value in parts.items():
        if not isinstance(value, dict):
            raise InputError(f"{folder / 'config.json'}: {part} must be an object, not {type(value).__name__}")
    return saved


def save_plugin(
    plugin: Plugin, folder: str | Path, dtype: torch.dtype | None = None, name: str = "", base: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write a plugin as a folder of its own: config.json, model.safetensors and a card.

    Args:
        plugin: the plugin.
        folder: where it goes; an existing one is replaced.
        dtype: of the weights; None keeps theirs.
        name: its name, for the card.
        base: what it was made for (`card.base_of` and a name); None is what a loaded plugin's own config.json says.
        training: a summary of its training; None likewise.

    Raises InputError where it cannot be written.
    """
    folder = Path(folder)
    kind = registry.kind_of(plugin)
    state = {
        k: v.to(dtype) if dtype is not None and v.is_floating_point() else v for k, v in weights.named_state(plugin).items()
    }
    try:
        with files.replacing(folder) as new:
            weights.save_state(state, new / "model.safetensors")
            _describe(plugin, new, kind, name, base, training)
    except OSError as error:
        raise InputError(f"cannot write the plugin to {folder}: {error.strerror or error}") from error


def _describe(
    plugin: Plugin, folder: Path, kind: str, name: str, base: Mapping[str, Any] | None, training: Mapping[str, Any] | None
) -> None:
    """Write config.json and the card beside a plugin's weights."""
    before = plugin.__dict__.get("_saved", {})
    config = {
        "kind": kind, "name": name or before.get("name") or kind, "version": registry.entry_of(plugin).origin,
        "requires": list(plugin.requires),
        "arguments": plugin.config, "base": before.get("base") if base is None else base,
        "training": (before.get("training") if training is None else training) or {}, "versions": library_versions(),
        "sha256": sha256(folder / "model.safetensors"),
    }  # fmt: skip
    files.write_json(folder / "config.json", config)
    text = cards.card(str(config["name"]), json.loads(json.dumps(config)))
    files.write_atomically(folder / "README.md", text.encode())


def attach_released(host: Host, name: str, found: Found) -> Plugin:
    """Attach the plugin that released weights are; returns it.

    Args:
        host: what it is attached to.
        name: its name there.
        found: of `released.read`.
    """
    where = found.path if found.path.is_file() else found.path / "config.json"
    plugin = attach(host, name, found.cls, found.released.arguments, dict(found.released.state), found.path, where)
    plugin.__dict__["_saved"] = {"kind": found.kind, "name": name, "training": dict(found.released.training)}
    return plugin

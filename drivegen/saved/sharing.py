"""Plugins that were saved alone, added to a loaded model and removed again."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from drivegen import lora
from drivegen.catalog import registry
from drivegen.plugin import Plugin, Released
from drivegen.saved import card, plugin_folder, released
from drivegen.saved import model as models
from drivegen.saved.inside import Inside
from drivegen.saved.integrity import digest_of, weight_files
from drivegen.saved.model import Model
from drivegen.support import files, runtime
from drivegen.support.errors import InputError
from drivegen.support.turns import changing
from drivegen.support.values import by_name, file_path, text, yes_or_no

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ("config.json", "model.safetensors", "README.md")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, eq=False)
class _Source:
    """A plugin to add: its class, what its folder says of it, and its weights where others released them."""

    cls: type[Plugin]
    saved: dict[str, Any]
    released: Released | None = None


def _read(path: Path, kind: str | None, options: Mapping[str, Any] | None) -> _Source:
    if released.is_released(path):
        found = released.read(path, kind, options)
        saved: dict[str, Any] = {"kind": found.kind, "name": found.kind, "training": dict(found.released.training)}
        return _Source(found.cls, saved, found.released)
    if not (path / "config.json").is_file() and (path / "model_index.json").is_file():
        raise InputError(f"{path} is a whole model and no plugin; name it with --model, or a folder in its plugins/")
    saved = plugin_folder.read_plugin_config(path)
    if options:
        raise InputError(f"options {', '.join(options)} are given, but {path} is a saved plugin and has its own")
    if kind not in (None, saved["kind"]):
        raise InputError(f"{path} holds a plugin of kind {saved['kind']!r}, not {kind!r}")
    return _Source(registry.load(saved["kind"], str(saved.get("version", ""))), saved)


class Extensions(Inside):
    """Adds and removes plugins, and what `Inside` does; after each is removed the host is bit for bit as before."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._brought: dict[str, tuple[str, ...]] = {}
        self._added: dict[str, str] = {}

    @property
    def sha256(self) -> dict[str, str]:
        """Hashes of the files of what was added, which is not in the model's own folder, by name."""
        return {**self._added, **super().sha256}

    def add_plugin(
        self, source: str | Path, name: str | None = None, kind: str | None = None,
        components: Mapping[str, str | Path] | None = None, options: Mapping[str, Any] | None = None,
    ) -> str:  # fmt: skip
        """Attach a plugin that was saved alone, and return the name that it has here.

        Args:
            source: its folder, a weight file or diffusers folder as its authors released it, or the id (user/name) of a plugin
                on the hub, which is asked only then.
            name: its name here; None = what it says itself, or its kind.
            kind: its kind; None = what the source says or looks like.
            components: folders of networks that it requires and this model does not have, by name; they are looked for in the
                model's folder and beside the source too.
            options: constructor arguments for released weights, such as {"picture": "layout"}; a saved plugin has its own.

        Raises InputError, and changes nothing, where it does not fit.
        """
        path = locate(source)
        name = None if name is None else text(name, "name of the plugin")
        kind = None if kind is None else text(kind, "kind of the plugin")
        components = {} if components is None else components
        given = {n: file_path(p, f"component {n!r}") for n, p in by_name(components, "components", "folders").items()}
        found = _read(path, kind, by_name(options, "options", "arguments") if options is not None else None)
        with changing(self.host.backbone.unet, "add a plugin"):
            return self._add(path, name or str(found.saved.get("name") or found.saved["kind"]), found, given)

    def _add(self, path: Path, name: str, found: _Source, components: Mapping[str, Path]) -> str:
        if name in self.host.plugins:
            raise InputError(f"there is a plugin named {name!r} already; add this one under another name")
        brought = self._bring(found.cls, path, components)
        loaded, self._loras = self._loras, {}
        lora.remove(self.host)  # a plugin builds its layers from the UNet's own
        try:
            plugin = self._attach(name, path, found)
        except InputError:
            self._drop(brought)
            raise
        finally:
            self._loras = loaded
            self._apply()
        self._brought[name], self._added[name] = brought, _sha256(path)
        plugin.to(self.device, self.dtype).to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        sampling, drop = self.model.sampling, (found.saved.get("training") or {}).get("drop")
        if (sampling.null is None) == (drop == 0):  # guidance uses null where a plugin knows it, and only there
            others = tuple(n for n in self.host.plugins if n != name) if sampling.null is None else sampling.null
            self.model = replace(self.model, sampling=replace(sampling, null=others if drop == 0 else (*others, name)))
        self._weigh(name, drop)
        return name

    def _weigh(self, name: str, drop: float | None) -> None:
        """Where guidance has a weight per plugin, give this one, the last in order, that of the last before it."""
        sampling = self.model.sampling
        if drop == 0 or not isinstance(sampling.guidance, Mapping):
            return
        given = [sampling.guidance[n] for n in self.host.plugins if n in sampling.guidance]
        if given:
            sampling = replace(sampling, guidance={**sampling.guidance, name: given[-1]})
            self.model = replace(self.model, sampling=sampling)

    def remove_plugin(self, name: str) -> Plugin:
        """Detach a plugin, and restore the host without it; returns the plugin."""
        with changing(self.host.backbone.unet, "remove a plugin"):
            plugin = self.host.remove_plugin(text(name, "name of the plugin"))
            self._drop(self._brought.pop(name, ()))
            self._added.pop(name, None)
        sampling = self.model.sampling
        if sampling.null is not None:
            sampling = replace(sampling, null=tuple(n for n in sampling.null if n != name))
        if isinstance(sampling.guidance, Mapping):
            sampling = replace(sampling, guidance={n: w for n, w in sampling.guidance.items() if n != name})
        self.model = replace(self.model, sampling=sampling)
        return plugin

    def save_plugin(self, name: str, folder: str | Path, dtype: str | torch.dtype | None = None) -> Path:
        """Write one plugin as a folder of its own, which `add_plugin` takes: config.json, model.safetensors, README.md.

        Raises InputError for a folder that holds anything else.

        Args:
            name: the plugin's name in this model.
            folder: a new one, or a plugin's, which is written over.
            dtype: number format of the weights; None = as they are.
        """
        self.host.plugin(text(name, "name of the plugin"))
        folder, dtype = file_path(folder, "folder of the plugin"), None if dtype is None else runtime.parse_dtype(dtype)
        if folder.exists() and (not folder.is_dir() or any(not _is_of_plugin(f.name) for f in folder.iterdir())):
            raise InputError(f"{folder} exists and is not a plugin's folder; choose another")
        models.save_own_plugin(self.model, name, folder, dtype)
        return folder

    def push_to_hub(self, name: str, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Publish one plugin on the hub, and return its address.

        Args:
            name: the plugin's name in this model.
            repo_id: user/name.
            private: whether others cannot see it.
            token: an access token; None = the user's login.
        """
        import huggingface_hub

        self.host.plugin(text(name, "name of the plugin"))
        private = yes_or_no(private, "private")
        if not isinstance(repo_id, str) or not _HUB_ID.fullmatch(repo_id):
            raise InputError(f"{repo_id!r} is not a repository's id; it has the form user/name")
        with tempfile.TemporaryDirectory() as folder:
            self.save_plugin(name, folder)
            api = huggingface_hub.HfApi(token=token)
            try:
                url = api.create_repo(repo_id, private=private, exist_ok=True)
                api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"drivegen plugin {name}")
            except (OSError, ValueError) as error:  # huggingface_hub's errors are one or the other
                raise InputError(f"cannot publish {name!r} as {repo_id!r}: {_first_line(error)}") from error
        return str(url)

    def _bring(self, cls: type[Plugin], path: Path, components: Mapping[str, str | Path]) -> tuple[str, ...]:
        """Load the components that a plugin requires and the backbone lacks."""
        backbone = self.host.backbone
        missing = [part for part in cls.requires if backbone.component(part) is None]
        for part in components:
            if part not in missing:
                why = "is there already" if part in cls.requires else "is not required"
                raise InputError(f"component {part!r} is given, but {why}")
        beside = [folder for folder in (self.model.folder, path.parent) if folder is not None]
        brought: list[str] = []
        for part in missing:
            folders = [Path(components[part])] if part in components else [folder / part for folder in beside]
            found = next((folder for folder in folders if (folder / "config.json").is_file()), None)
            if found is None:
                self._drop(tuple(brought))
                looked = f"which is not in {' and '.join(map(str, folders))}"
                raise InputError(f"the plugin requires {part!r}, {looked}; give components={{{part!r}: FOLDER}}")
            backbone.add_component(part, found)
            backbone.components[part].to(self.device, self.dtype)
            brought.append(part)
        return tuple(brought)

    def _drop(self, components: tuple[str, ...]) -> None:
        still = {part for name in self.host.plugins for part in self.host.plugin(name).requires}
        for part in components:
            if part not in still:
                del self.host.backbone.components[part]

    def _attach(self, name: str, path: Path, found: _Source) -> Plugin:
        base = found.saved.get("base") or {}
        here = card.base_of(self.host.backbone, found.cls.requires) if base else {"sizes": {}, "sha256_fp16": {}}
        try:
            if found.released is None:
                plugin = plugin_folder.load_plugin(self.host, name, path)
            else:
                state = dict(found.released.state)
                plugin = plugin_folder.attach(self.host, name, found.cls, found.released.arguments, state, path, path)
                plugin.__dict__["_saved"] = found.saved
        except InputError as error:
            different = card.differences(base, here)
            if not different:
                raise
            what = f"{path} was made for another base, {base.get('name')!r}: {'; '.join(different)}"
            raise InputError(f"{what} ({error})") from error
        others = card.other_weights(base, here)
        if others:
            warnings.warn(
                f"plugin {name!r} was made for {base.get('name')!r}, and the weights of {', '.join(others)} are others here: "
                "it fits, but may do less well", stacklevel=6,
            )  # fmt: skip
        return plugin


def _is_of_plugin(name: str) -> bool:
    return name in _FILES or files.is_temporary(name)  # a killed process may have left the latter


def locate(source: str | Path) -> Path:
    """Return the folder or file of a plugin; asks the hub for user/name when there is no such local folder."""
    path = file_path(source, "source of a plugin")
    files.recover(path)
    if path.is_dir() or (path.is_file() and path.suffix.lower() in _SUFFIXES):
        return path
    if path.exists() or not _HUB_ID.fullmatch(str(source)):
        raise InputError(f"there is no plugin at {str(source)!r}; name its folder, a weight file, or user/name on the hub")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(str(source), allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot get {str(source)!r} from the hub ({_first_line(error)}); a folder {path.absolute()} with config.json and "
            "model.safetensors would serve"
        ) from error


def _sha256(path: Path) -> str:
    """Hash what a plugin is read from: a file, or the weight files of a folder together."""
    if path.is_file():
        return files.sha256(path)
    return digest_of({name: files.sha256(path / name) for name in weight_files(path)})


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__

"""Saved models: a diffusers folder plus plugins, and a drivegen.json that describes how they work together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from drivegen.backbones.stable_diffusion import PARTS, Backbone
from drivegen.catalog import registry
from drivegen.catalog.construct import construct_plugin, refusing
from drivegen.host.host import Host
from drivegen.plugin import Plugin
from drivegen.sampling.settings import Sampling
from drivegen.saved import card as cards
from drivegen.saved import wide
from drivegen.saved.defaults import usual_sampling
from drivegen.saved.embedded import ASSETS, embedded
from drivegen.saved.integrity import INDEX, check_hashes, digest_of, weight_files
from drivegen.saved.released import Found
from drivegen.support import files, weights
from drivegen.support.errors import InputError
from drivegen.support.files import sha256
from drivegen.support.names import check_name
from drivegen.support.values import LONGEST_SIDE

FORMAT = 1
TINY = ASSETS / "tiny"


@dataclass(frozen=True, eq=False)
class Model:
    """A host and what its folder records about it.

    image_size (height, width) of a generated view in pixels; about is free JSON, such as what the model was trained on.
    """

    host: Host
    sampling: Sampling
    image_size: tuple[int, int]
    folder: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    refiner: Model | None = None
    """A second model that computes the last steps of a generation."""
    digest: str = ""
    """One sha256 over the names and hashes of its weight files; empty where the folder states none."""

    def __post_init__(self) -> None:
        self.sampling.nulled(self.host.plugins)
        check_size(self.image_size, self.host.backbone)


def check_size(size: tuple[int, int], backbone: Backbone) -> tuple[int, int]:
    """Return (height, width); raises InputError unless both are positive multiples of the VAE's factor."""
    factor = backbone.vae_factor
    if len(size) != 2 or any(not isinstance(n, int) or n <= 0 or n % factor for n in size):
        raise InputError(f"image size {tuple(size)} (height, width) must be positive multiples of {factor}, the VAE's factor")
    if max(size) > LONGEST_SIDE:
        raise InputError(f"image size {tuple(size)} (height, width) is too large; a side may have {LONGEST_SIDE} pixels")
    return size[0], size[1]


def locate(source: str | Path) -> Path:
    """Return the folder or file of a model, an embedded one by its name ("tiny"); raises InputError when it does not exist."""
    if (folder := embedded().get(str(source))) is not None:
        return folder
    if str(source) == TINY.name:
        raise InputError(f"the embedded model is not installed at {TINY}; name a model folder instead")
    if not str(source).strip():
        raise InputError("the model's name is empty; name a model folder, a single-file checkpoint, or 'tiny'")
    path = Path(source).expanduser()
    files.recover(path)
    if not path.exists():
        raise InputError(f"there is no model at {str(source)!r}; name a model folder, a single-file checkpoint, or 'tiny'")
    return path


def load(
    source: str | Path, device: str | torch.device = "cpu", config_folder: str | Path | None = None,
    vae: str | Path | None = None, variant: str | None = None, prediction_type: str | None = None,
) -> Model:  # fmt: skip
    """Load a model folder, a plain diffusers folder, a single-file checkpoint, or "tiny", in fp32 and evaluation mode.

    A model without plugins gets those of its family: `text`, and what SDXL was trained with besides.

    Args:
        source: the folder or file, or "tiny".
        device: where the networks go.
        config_folder: configurations for a single file (`Backbone.from_single_file`), which alone lacks them.
        vae: a folder or file of a VAE that replaces the model's own (`vae_files.load_vae`); `about` then says which.
        variant: which weight files of a folder to take where it has several, such as "fp16".
        prediction_type: what the UNet predicts, replacing what a scheduler states: "epsilon", "v_prediction" or
            "sample"; for single files that do not say it, and folders whose scheduler is wrong.

    Raises InputError on a damaged, changed or unfitting file, where the parts of a model do not fit together, and where an
    option is given that this kind of model does not have.
    """
    path = locate(source)
    if config_folder is not None and path.is_dir():
        raise InputError(f"{path} is a folder with its own configurations; leave out --config {config_folder}")
    if variant is not None and path.is_file():
        raise InputError(f"{path} is a single file, which has no variants; leave out variant {variant!r}")
    if path.is_dir() and (path / INDEX).is_file():
        if prediction_type is not None:
            raise InputError(f"{path} says itself what its UNet predicts; leave out prediction_type {prediction_type!r}")
        model = _load_folder(path, variant)
    else:
        model = _load_foreign(path, config_folder, variant, prediction_type)
    if vae is not None:
        backbone = model.host.backbone
        backbone.replace_vae(vae)
        said = f"{Path(vae).name} ({type(backbone.vae).__name__}), sha256 {cards.fingerprint(backbone.vae)} as fp16"
        model = replace(model, about={**model.about, "vae": said})
    model.host.to(device).eval().requires_grad_(False)
    return model


def _load_foreign(
    path: Path, config_folder: str | Path | None, variant: str | None, prediction_type: str | None
) -> Model:  # fmt: skip
    """Load a folder of diffusers or a single file, with the plugins for what its network was trained with."""
    if wide.is_inpainting(path):
        backbone, found = wide.split(path, None, None, config_folder, prediction_type, variant)
        return with_joined(backbone, found, path)
    if path.is_dir():
        backbone = Backbone.from_folder(path, variant=variant, prediction_type=prediction_type)
    else:
        backbone = Backbone.from_single_file(path, config_folder, prediction_type)
    return Model(_with_conditions(backbone), usual_sampling(backbone), native_size(backbone), path)


def _with_conditions(backbone: Backbone) -> Host:
    """Put a backbone and the plugins of its family together."""
    return Host(backbone, {kind: registry.load(kind)() for kind in backbone.family.conditions})


def with_joined(backbone: Backbone, found: Found, path: Path) -> Model:
    """Make the model whose UNet reads more than the latents (`wide.split`): its family's plugins, and the one of the channels.

    Both halves of guidance are told what is joined, as in diffusers' pipelines.

    Args:
        backbone: with a plain UNet.
        found: what the plugin of the further channels is made of.
        path: where both come from.
    """
    host, sampling = _with_conditions(backbone), usual_sampling(backbone)
    attach_released(host, found.kind, found)
    return Model(host, replace(sampling, null=backbone.family.conditions), native_size(backbone), path)


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


def native_size(backbone: Backbone) -> tuple[int, int]:
    """Return the (height, width) in pixels that a UNet's configuration names."""
    size = weights.unwrapped(backbone.unet).config.sample_size or 64
    h, w = (size, size) if isinstance(size, int) else size
    return h * backbone.vae_factor, w * backbone.vae_factor


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


def _load_folder(folder: Path, variant: str | None = None) -> Model:
    index = read_index(folder)
    check_hashes(folder, index.sha256)
    classes = {entry.name: registry.load(entry.kind, entry.version) for entry in index.plugins}
    extra = dict.fromkeys(name for cls in classes.values() for name in cls.requires if name not in PARTS)
    host = Host(Backbone.from_folder(folder, extra, variant=variant))
    for entry in index.plugins:
        load_plugin(host, entry.name, folder / "plugins" / entry.name, entry.kind, alone=False)
    return Model(host, index.sampling, index.image_size, folder, index.about, digest=digest_of(index.sha256))


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


def save_own_plugin(model: Model, name: str, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write one plugin of a model as a folder of its own, with what the model knows of its base and training.

    Args:
        model: the model.
        name: the plugin's instance name.
        folder: where it goes.
        dtype: of the weights; None keeps theirs.
    """
    plugin = model.host.plugin(name)
    training = cards.summary(model.about, name, model.image_size)
    made_here = bool(training) or "base" not in plugin.__dict__.get("_saved", {})
    base = {"name": _base_name(model), **cards.base_of(model.host.backbone, plugin.requires)} if made_here else None
    save_plugin(plugin, folder, dtype, name, base, training or None)


def _base_name(model: Model) -> str:
    trained_on = model.about.get("training", {}).get("model", {}).get("base")
    path = Path(trained_on or model.folder or "unknown")
    return path.parent.name if path.name == "model" else path.name  # a run's model is in RUN/model


def save(
    host: Host, folder: str | Path, sampling: Sampling | None = None, dtype: torch.dtype | None = None,
    image_size: tuple[int, int] | None = None, about: Mapping[str, Any] | None = None, shard: int | None = None,
) -> Path:  # fmt: skip
    """Write a model folder and return it; an old folder is replaced only when the new one is complete.

    Args:
        host: networks and plugins.
        folder: where it goes.
        sampling: the model's defaults; None is `Sampling`'s own.
        dtype: of the weights; None keeps theirs.
        image_size: (height, width) in pixels; None is the UNet's own.
        about: free JSON; None for none.
        shard: most bytes of a file of the backbone's weights; None writes one file per network.
    """
    folder = Path(folder).absolute()
    model = Model(host, sampling or Sampling(), image_size or native_size(host.backbone), about=about or {})
    if folder.exists() and not (folder / INDEX).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not a drivegen model; choose another folder")
    try:
        with files.replacing(folder) as new:
            host.backbone.save(new, dtype, shard)
            for name in host.plugins:
                save_own_plugin(model, name, new / "plugins" / name, dtype)
            files.write_json(new / INDEX, _index_of(model, new, about or {}))
    except OSError as error:
        raise InputError(f"cannot write the model to {folder}: {error.strerror or error}") from error
    return folder


def _index_of(model: Model, folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    offers = {name: registry.entry_of(model.host.plugin(name)) for name in model.host.plugins}
    return {
        "format": FORMAT,
        "image_size": list(model.image_size),
        "plugins": [{"name": name, "kind": entry.kind, "version": entry.origin} for name, entry in offers.items()],
        "sampling": model.sampling.to_dict(),
        "sha256": {name: sha256(folder / name) for name in weight_files(folder)},
        "versions": library_versions(),
        "about": dict(about),
    }


def library_versions() -> dict[str, str]:
    """Return the versions of drivegen and of the libraries that its pictures depend on."""
    return {name: version(name) for name in ("drivegen", "torch", "diffusers", "transformers", "numpy")}

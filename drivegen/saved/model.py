"""Saved models: a diffusers folder plus plugins, and a drivegen.json that describes how they work together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from drivegen.backbones.stable_diffusion import PARTS, Backbone
from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.sampling.settings import Sampling
from drivegen.saved import card as cards
from drivegen.saved import wide
from drivegen.saved.defaults import usual_sampling
from drivegen.saved.embedded import ASSETS, embedded
from drivegen.saved.index import FORMAT, library_versions, read_index
from drivegen.saved.integrity import INDEX, check_hashes, digest_of, weight_files
from drivegen.saved.plugin_folder import attach_released, load_plugin, save_plugin
from drivegen.saved.released import Found
from drivegen.support import files, weights
from drivegen.support.errors import InputError
from drivegen.support.files import sha256
from drivegen.support.values import LONGEST_SIDE

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


def native_size(backbone: Backbone) -> tuple[int, int]:
    """Return the (height, width) in pixels that a UNet's configuration names."""
    size = weights.unwrapped(backbone.unet).config.sample_size or 64
    h, w = (size, size) if isinstance(size, int) else size
    return h * backbone.vae_factor, w * backbone.vae_factor


def _load_folder(folder: Path, variant: str | None = None) -> Model:
    index = read_index(folder)
    check_hashes(folder, index.sha256)
    classes = {entry.name: registry.load(entry.kind, entry.version) for entry in index.plugins}
    extra = dict.fromkeys(name for cls in classes.values() for name in cls.requires if name not in PARTS)
    host = Host(Backbone.from_folder(folder, extra, variant=variant))
    for entry in index.plugins:
        load_plugin(host, entry.name, folder / "plugins" / entry.name, entry.kind, alone=False)
    return Model(host, index.sampling, index.image_size, folder, index.about, digest=digest_of(index.sha256))


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

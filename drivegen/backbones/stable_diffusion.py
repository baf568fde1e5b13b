"""The Stable Diffusion backbone: VAE, UNet, text encoder, tokenizer and scheduler of a diffusers folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.backbones import compatibility, single_file
from drivegen.backbones.families import family_of, family_of_folder
from drivegen.backbones.family import Family
from drivegen.backbones.first_stage import factor_of, load_vae
from drivegen.backbones.networks import MODELS, STEMS, build_from_folder, build_outline, load_model, save_model
from drivegen.backbones.schedulers import load_scheduler
from drivegen.backbones.text_tower import TextTower
from drivegen.backbones.tokenizers import TOKENIZERS, load_tokenizer
from drivegen.backbones.words import Words
from drivegen.diffusion.training_facts import check_prediction
from drivegen.support import files, weight_folders, weights
from drivegen.support.errors import InputError

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
"""The parts that a model may have without any plugin; each family says which of them it has."""

EMPTY_IS_ZERO = "force_zeros_for_empty_prompt"
"""In model_index.json of SDXL: an empty prompt is no text at all, and not the text encoders' states of it."""

_UNUSED = ("safety_checker", "feature_extractor")
"""Parts that change nothing in what is generated."""


def _read_index(folder: Path, unet: nn.Module | None = None) -> tuple[dict[str, Any], type[Family]]:
    """Read which classes a folder names, and its family, or that of another UNet; raises InputError unless all parts of a
    hosted model are there.
    """
    index = weights.read_object(folder / "model_index.json")
    family = family_of_folder(folder, index) if unet is None else type(family_of(unet))
    missing = [name for name in family.parts if _class_named(index.get(name)) is None]
    if missing:
        of = f" (it is of a {index['_class_name']})" if isinstance(index.get("_class_name"), str) else ""
        raise InputError(f"{folder / 'model_index.json'} lacks {', '.join(missing)}{of}; a {family.name} folder has them")
    for name in family.parts:
        if name.startswith("tokenizer") and index[name][1] not in TOKENIZERS:
            raise InputError(f"{folder}: {name} {index[name][1]!r} is not one of {', '.join(TOKENIZERS)}")
    return index, family


def _class_named(entry: Any) -> str | None:
    """Return the class of an entry [library, class] of model_index.json, or None."""
    return entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else None


_TEXT = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


def _towers(family: Family | type[Family], encoder: Any, tokenizer: Any, encoder_2: Any, tokenizer_2: Any) -> list[TextTower]:
    """Put the text encoders together that a family has.

    Args:
        family: of the network.
        encoder: the text encoder, or None.
        tokenizer: its tokenizer.
        encoder_2: the second one, or None.
        tokenizer_2: its tokenizer.
    """
    there = {"text_encoder": (tokenizer, encoder), "text_encoder_2": (tokenizer_2, encoder_2)}
    return [TextTower(name, *pair, family.penultimate) for name, pair in there.items() if name in family.parts]


def _load_tokenizers(folder: Path, family: type[Family]) -> dict[str, Any]:
    """Read the tokenizers that a family has; the names of the others are None."""
    names = [name for name in _TEXT if name.startswith("tokenizer")]
    found = {name: load_tokenizer(folder / name) if name in family.parts else None for name in names}
    return found


def _check_configurations(folder: Path, with_unet: bool = True) -> None:
    """Refuse a model by what its networks' configurations say, before their weights are read."""
    vae, unet = (weights.read_json(folder / name / "config.json") for name in ("vae", "unet")) if with_unet else (None, None)
    if not isinstance(vae, dict) or not isinstance(unet, dict):
        return  # building says what is wrong
    try:
        compatibility.check_unet(unet, compatibility.check_vae(vae))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def _check_variant(folder: Path, classes: Mapping[str, str], variant: str | None) -> None:
    """Raise InputError where no part has the variant that was asked for; parts without it are read in full precision."""
    if variant is None:
        return
    found = {
        name: weight_folders.variants(folder / name, STEMS[MODELS[kind]]) for name, kind in classes.items() if kind in MODELS
    }
    there = {named for suffixes in found.values() for by_variant in suffixes.values() for named in by_variant}
    if variant not in there:
        has = ", ".join(sorted(there - {""})) or "none"
        raise InputError(f"{folder} has no weights of the variant {variant!r}; it has {has}")


def _warn_of_unread(folder: Path, index: Mapping[str, Any], components: tuple[str, ...]) -> None:
    """Name the parts of a model that are listed and not loaded: its pictures will be made without them."""
    known = (*PARTS, *components, *_UNUSED)
    parts = {n: e for n, e in index.items() if n not in known and isinstance(e, list) and any(part is not None for part in e)}
    if not parts:
        return
    named = ", ".join(f"{name} ({_class_named(entry) or entry})" for name, entry in parts.items())
    verb = "is" if len(parts) == 1 else "are"
    hint = f"; `drivegen convert controlnet {folder / 'controlnet'} OUT` makes a plugin of it" if "controlnet" in parts else ""
    warnings.warn(
        f"{folder}: {named} {verb} listed in model_index.json and not loaded: pictures are made without{hint}", stacklevel=4
    )


class Backbone(nn.Module):
    """The hosted networks; `component(name)` returns any of them, or None. `words` are those beside the tokenizer's.

    Args:
        unet: the denoising network.
        vae: the first stage.
        text_encoder: a CLIP text encoder.
        tokenizer: its tokenizer.
        scheduler: an instance of one of diffusers' schedulers, with the betas and the prediction type of training.
        components: further networks by name, which plugins require; None for none.
        text_encoder_2: the second text encoder, or a refiner's only one; None for none.
        tokenizer_2: its tokenizer.
        empty_is_zero: whether the unconditional half of guidance is given zeros where no negative prompt is, as SDXL's base is.

    Raises InputError where the parts do not fit together, or need what the host does not supply (`compatibility`).
    """

    unet: Any
    vae: Any
    text_encoder: Any
    text_encoder_2: Any

    def __init__(
        self, unet: nn.Module, vae: nn.Module, text_encoder: nn.Module | None, tokenizer: Any, scheduler: Any,
        components: Mapping[str, nn.Module] | None = None, text_encoder_2: nn.Module | None = None, tokenizer_2: Any = None,
        empty_is_zero: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        family = family_of(unet)
        compatibility.check(unet, vae, _towers(family, text_encoder, tokenizer, text_encoder_2, tokenizer_2), scheduler)
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.tokenizer, self.scheduler = tokenizer, scheduler
        self.text_encoder_2, self.tokenizer_2 = text_encoder_2, tokenizer_2
        self.empty_is_zero = bool(empty_is_zero)
        self.components = nn.ModuleDict(dict(components or {}))
        self.words = Words()
        self.__dict__["changes"] = {}  # by network, what tuners change in it; not modules of this one

    def check(self) -> None:
        """Check that the parts fit together, also after one was replaced; raises InputError naming the one that does not."""
        compatibility.check(self.unet, self.vae, self.texts, self.scheduler)
        compatibility.check_widths(self.unet, self.texts, self.family.added)

    @classmethod
    def from_folder(
        cls, folder: str | Path, components: Iterable[str] = (), unet: nn.Module | None = None, variant: str | None = None,
        prediction_type: str | None = None,
    ) -> Backbone:  # fmt: skip
        """Load a diffusers folder of a hosted family in fp32.

        Args:
            folder: model_index.json and one folder per part; a part that is listed but not read is named in a warning.
            components: further parts to load, which plugins require.
            unet: replaces the folder's own, which is then not read; None reads it.
            variant: which weight files to take where there are several, such as "fp16"; None leaves the choice to
                `weight_folders.find_state`.
            prediction_type: replaces what the scheduler states; None keeps it.

        Raises InputError where the parts do not fit together or it is another model.
        """
        folder, components = Path(folder), tuple(components)
        if prediction_type is not None:
            check_prediction(prediction_type)
        index, family = _read_index(folder, unet)
        _check_configurations(folder, with_unet=unet is None)
        for name in components:
            if _class_named(index.get(name)) is None:
                raise InputError(f"{folder} has no component {name!r}, which a plugin requires")
        scheduler = load_scheduler(folder, index, {"prediction_type": prediction_type} if prediction_type else None)
        tokenizers = _load_tokenizers(folder, family)
        networks = [name for name in family.parts if name not in (*tokenizers, "scheduler")]
        names = [name for name in (*networks, *components) if unet is None or name != "unet"]
        _check_variant(folder, {name: index[name][1] for name in names}, variant)
        loaded = {name: load_model(folder / name, index[name][1], variant) for name in names}
        extra = {name: loaded.pop(name) for name in components}
        if unet is not None:
            loaded["unet"] = unet
        _warn_of_unread(folder, index, components)
        empty = index.get(EMPTY_IS_ZERO, family.empty_is_zero)
        return cls._checked(
            str(folder), **loaded, **tokenizers, scheduler=scheduler, components=extra, empty_is_zero=empty is True
        )

    @classmethod
    def from_single_file(
        cls, path: str | Path, config_folder: str | Path | None = None, prediction_type: str | None = None,
        narrow: bool = False,
    ) -> Backbone:  # fmt: skip
        """Load a single-file checkpoint of Stable Diffusion 1.x, 2.x, XL or its refiner (LDM keys), in fp32.

        Args:
            path: the file; only the tensors of the networks are read.
            config_folder: a diffusers folder with the configurations and the tokenizer, whose weights are not read; None takes
                diffusers' choice from its hub.
            prediction_type: what the UNet predicts, replacing the configuration's; None keeps it.
            narrow: leave out input channels beyond those of the latents, which inpainting UNets and others have.

        Raises InputError for another file, and for one that does not say what it predicts where two readings are possible.
        """
        path = Path(path)
        if config_folder is not None and not Path(config_folder).is_dir():
            raise InputError(f"there is no folder of configurations at {str(config_folder)!r}")
        state = single_file.read(path)
        if narrow:
            state = single_file.narrowed(state, path)
        single_file.check_network(state, path)
        configured = None
        if config_folder is not None:
            _read_index(Path(config_folder))
            configured = weights.read_object(Path(config_folder) / "scheduler" / "scheduler_config.json")
        training = single_file.training_of(path, state, prediction_type, configured)
        kind = training.get("prediction_type")
        folder = single_file.hub_folder(path, state, kind) if config_folder is None else Path(config_folder)
        index, family = _read_index(folder)
        layout = single_file.layout_of(state)
        if family.key != layout:
            raise InputError(f"{path} is laid out as {layout}, and {folder} configures a {family.name} model")
        _check_configurations(folder, with_unet=not narrow)
        scheduler, tokenizers = load_scheduler(folder, index, training), _load_tokenizers(folder, family)
        loaded: dict[str, Any] = {}
        for name, prefix in single_file.LAYOUTS[layout].items():
            where = f"{path}, as {folder / name} configures it,"
            changes = {"in_channels": single_file.latents_of(state)} if narrow and name == "unet" else None
            outline = build_outline(folder / name, index[name][1], changes)
            try:
                own = single_file.from_ldm(name, state, outline)
            except KeyError as error:
                raise InputError(f"{where} lacks {error.args[0]}") from error
            weights.check_fits(outline, own, where)
            weights.check_finite(own, str(path))
            if name == "unet" and (left := single_file.unread(state, own, prefix)):
                raise InputError(f"{where} has weights that the network does not: {', '.join(left[:10])}")
            loaded[name] = build_from_folder(folder / name, index[name][1], changes)
            weights.load_strict(loaded[name], own, where)
        empty = index.get(EMPTY_IS_ZERO, family.empty_is_zero) is True
        return cls._checked(str(path), **loaded, **tokenizers, scheduler=scheduler, empty_is_zero=empty)

    @classmethod
    def _checked(cls, where: str, **parts: Any) -> Backbone:
        own = {name: parts.get(name) for name in PARTS}
        try:
            towers = _towers(family_of(own["unet"]), *(own[name] for name in _TEXT))
            compatibility.check_widths(own["unet"], towers, family_of(own["unet"]).added)
            return cls(**{**parts, **own})
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    changes: Mapping[str, Sequence[nn.Module]]

    def learns(self, network: str) -> bool:
        """Tell whether a network, or what a tuner changes in it, has parameters that train."""
        parts = (getattr(self, network), *self.changes.get(network, ()))
        return any(parameter.requires_grad for part in parts for parameter in part.parameters())

    def component(self, name: str) -> Any:
        """Return a component by its folder name, or None."""
        if name in PARTS:
            return getattr(self, name)
        return dict(self.components.items()).get(name)

    def add_component(self, name: str, folder: Path) -> None:
        """Load an extra component, frozen, from its folder; raises InputError where the folder does not say what it is."""
        config, index = weights.read_json(folder / "config.json"), folder.parent / "model_index.json"
        listed = weights.read_json(index) if index.is_file() else {}
        named = config.get("architectures") if isinstance(config, dict) else None
        if not isinstance(named, list):
            named = [_class_named(listed.get(folder.name)) if isinstance(listed, dict) else None]
        kinds = [kind for kind in named if isinstance(kind, str) and kind in MODELS]
        if not kinds:
            raise InputError(f"{folder / 'config.json'} names no architecture among {', '.join(MODELS)}")
        self.components[name] = load_model(folder, kinds[0]).eval().requires_grad_(False)

    @property
    def vae_factor(self) -> int:
        """Pixels per latent along each side."""
        return factor_of(self.vae)

    @property
    def family(self) -> Family:
        """The denoising network's kind: how it is called, what it is given, where layers may be added."""
        return family_of(self.unet)

    @property
    def texts(self) -> list[TextTower]:
        """The text encoders with their tokenizers, in the order in which their widths are joined."""
        return _towers(self.family, self.text_encoder, self.tokenizer, self.text_encoder_2, self.tokenizer_2)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network by its folder name, those that plugins require too."""
        own = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in own.items() if isinstance(part, nn.Module)} | dict(self.components.items())

    @property
    def token_width(self) -> int:
        """D: width of the cross-attention context."""
        return self.family.token_width

    @property
    def latent_channels(self) -> int:
        """C: channels of the latents."""
        return int(self.vae.config.latent_channels)

    def replace_vae(self, source: str | Path) -> None:
        """Replace the model's VAE, on the same device and in the same dtype; see `first_stage.load_vae`."""
        own = next(self.vae.parameters())
        vae: Any = load_vae(source, self.vae)
        compatibility.check_vae(vae.config)
        self.vae = vae.to(own.device, own.dtype)

    def encode_images(self, pixels: Tensor, generator: torch.Generator | None = None, sample: bool = False) -> Tensor:
        """Encode pixels to scaled latents (N, C, h, w).

        Args:
            pixels: (N, 3, H, W) in [−1, 1].
            generator: draws the sample; None takes torch's own.
            sample: return a sample of the posterior rather than its mean.
        """
        encoded = self.vae.encode(pixels.to(self.vae.dtype))
        if not hasattr(encoded, "latent_dist"):  # AutoencoderTiny has a point, not a distribution
            return self.scale_latents(encoded.latents)
        posterior = encoded.latent_dist
        return self.scale_latents(posterior.sample(generator) if sample else posterior.mode())

    def moments(self, pixels: Tensor) -> Tensor:
        """Encode pixels (N, 3, H, W) in [−1, 1] to the posterior's mean and standard deviation (N, 2C, h, w), unscaled."""
        parts = []
        for part in pixels.split(4):
            encoded = self.vae.encode(part.to(self.vae.dtype))
            if hasattr(encoded, "latent_dist"):
                parts += [torch.cat([encoded.latent_dist.mean, encoded.latent_dist.std], dim=1)]
            else:
                parts += [torch.cat([encoded.latents, torch.zeros_like(encoded.latents)], dim=1)]
        return torch.cat(parts)

    def scale_latents(self, latents: Tensor) -> Tensor:
        """Scale latents (N, C, h, w) of the VAE to the range that the UNet works in."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return (latents - shift) * self.vae.config.scaling_factor

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (N, C, h, w) to pixels (N, 3, H, W) in about [−1, 1]."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return self.vae.decode((latents / self.vae.config.scaling_factor + shift).to(self.vae.dtype)).sample

    def save(self, folder: Path, dtype: torch.dtype | None = None, shard: int | None = None) -> None:
        """Write a folder that the `from_pretrained` of diffusers' pipeline opens (`family.pipeline`).

        Args:
            folder: where it goes.
            dtype: of the weights; None keeps each as it is.
            shard: most bytes of a weight file; None writes one file per network.
        """
        compatibility.check(self.unet, self.vae, self.texts, self.scheduler)
        family = self.family
        index: dict[str, Any] = {"_class_name": family.pipeline, "_diffusers_version": _diffusers_version()}
        for name, model in self.networks.items():
            kind = type(weights.unwrapped(model)).__name__
            if kind not in MODELS:
                raise InputError(f"{name} is a {kind}, which a model folder may not name; it holds {', '.join(MODELS)}")
            save_model(model, folder / name, STEMS[MODELS[kind]], dtype, shard)
            index[name] = [MODELS[kind], kind]
        for name in (part for part in family.parts if part.startswith("tokenizer")):
            try:
                getattr(self, name).save_pretrained(folder / name)
            except Exception as error:  # of a full disk the tokenizers' library says so in an error without a class
                raise InputError(f"cannot write {folder / name}: {error}") from error
            index[name] = ["transformers", "CLIPTokenizer"]
        self.scheduler.save_pretrained(folder / "scheduler")
        index["scheduler"] = ["diffusers", type(self.scheduler).__name__]
        index |= {name: value for name, value in family.index.items() if name not in index}
        if family.added:
            index[EMPTY_IS_ZERO] = self.empty_is_zero
        files.write_json(folder / "model_index.json", index)


def _diffusers_version() -> str:
    import diffusers

    return str(diffusers.__version__)

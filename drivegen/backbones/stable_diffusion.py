"""The backbone of a model: VAE, denoising network, text encoders, tokenizers and scheduler of a diffusers folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from drivegen.backbones import compatibility, single_file
from drivegen.backbones import folder as folders
from drivegen.backbones.families import class_named, family_of
from drivegen.backbones.family import Family
from drivegen.backbones.first_stage import FirstStage
from drivegen.backbones.folder import PARTS
from drivegen.backbones.networks import MODELS, STEMS, build_from_folder, build_outline, load_model, save_model
from drivegen.backbones.schedulers import load_scheduler
from drivegen.backbones.text_tower import TextTower
from drivegen.backbones.vae_files import load_vae
from drivegen.backbones.words import Words
from drivegen.diffusion.training_facts import check_prediction
from drivegen.support import files, weights
from drivegen.support.errors import InputError

EMPTY_IS_ZERO = "force_zeros_for_empty_prompt"
"""In model_index.json of SDXL: an empty prompt is no text at all, and not the text encoders' states of it."""

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


class Backbone(nn.Module):
    """The hosted networks; `component(name)` returns any of them, or None. `words` are those beside the tokenizer's,
    and `words_2` beside a second one's.

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
        self.words, self.words_2 = Words(), Words()
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
        index, family = folders.read_index(folder, unet)
        folders.check_configurations(folder, with_unet=unet is None)
        for name in components:
            if class_named(index.get(name)) is None:
                raise InputError(f"{folder} has no component {name!r}, which a plugin requires")
        scheduler = load_scheduler(folder, index, {"prediction_type": prediction_type} if prediction_type else None)
        tokenizers = folders.load_tokenizers(folder, family)
        networks = [name for name in family.parts if name not in (*tokenizers, "scheduler")]
        names = [name for name in (*networks, *components) if unet is None or name != "unet"]
        folders.check_variant(folder, {name: index[name][1] for name in names}, variant)
        loaded = {name: load_model(folder / name, index[name][1], variant) for name in names}
        extra = {name: loaded.pop(name) for name in components}
        if unet is not None:
            loaded["unet"] = unet
        folders.warn_of_unread(folder, index, components)
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
            folders.read_index(Path(config_folder))
            configured = weights.read_object(Path(config_folder) / "scheduler" / "scheduler_config.json")
        training = single_file.training_of(path, state, prediction_type, configured)
        kind = training.get("prediction_type")
        folder = single_file.hub_folder(path, state, kind) if config_folder is None else Path(config_folder)
        index, family = folders.read_index(folder)
        layout = single_file.layout_of(state)
        if family.key != layout:
            raise InputError(f"{path} is laid out as {layout}, and {folder} configures a {family.name} model")
        folders.check_configurations(folder, with_unet=not narrow)
        scheduler, tokenizers = load_scheduler(folder, index, training), folders.load_tokenizers(folder, family)
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
            named = [class_named(listed.get(folder.name)) if isinstance(listed, dict) else None]
        kinds = [kind for kind in named if isinstance(kind, str) and kind in MODELS]
        if not kinds:
            raise InputError(f"{folder / 'config.json'} names no architecture among {', '.join(MODELS)}")
        self.components[name] = load_model(folder, kinds[0]).eval().requires_grad_(False)

    @property
    def first_stage(self) -> FirstStage:
        """The VAE as it is called: pictures to scaled latents, and back."""
        return FirstStage(self.vae, self.family.float32_vae and bool(self.vae.config.get("force_upcast")))

    @property
    def vae_factor(self) -> int:
        """Pixels per latent along each side."""
        return self.first_stage.factor

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
        return self.first_stage.channels

    def replace_vae(self, source: str | Path) -> None:
        """Replace the model's VAE, on the same device and in the same dtype; see `vae_files.load_vae`."""
        own = next(self.vae.parameters())
        vae: Any = load_vae(source, self.vae)
        compatibility.check_vae(vae.config)
        self.vae = vae.to(own.device, own.dtype)

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

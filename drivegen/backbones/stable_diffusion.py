"""The Stable Diffusion backbone: VAE, UNet, text encoder, tokenizer and scheduler of a diffusers folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.support import weights
from drivegen.support.errors import InputError

REQUIRED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

_NETWORKS = ("unet", "vae", "text_encoder")
_LDM_PREFIXES = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
"""What the names of a single-file checkpoint's tensors begin with: one for each network."""

_STEMS = {"text_encoder": "model", "image_encoder": "model"}
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_MODELS = {
    "UNet2DConditionModel": "diffusers", "AutoencoderKL": "diffusers", "CLIPTextModel": "transformers",
    "CLIPVisionModelWithProjection": "transformers", "CLIPVisionModel": "transformers",
}  # fmt: skip
"""The closed table of model classes that a folder may name."""


def scheduler_class(name: str) -> Any:
    """Look a scheduler class up among diffusers' own; raises InputError for any other name."""
    import diffusers

    cls = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if cls is None or not hasattr(cls, "set_timesteps"):
        raise InputError(f"{name!r} is not a scheduler of diffusers")
    return cls


def build_model(class_name: str, config: Mapping[str, Any]) -> nn.Module:
    """Construct a model of the closed table from its configuration, freshly initialised; raises InputError where it cannot."""
    if class_name not in _MODELS:
        raise InputError(f"class {class_name!r} is not one that a model folder may name: {', '.join(_MODELS)}")
    if not isinstance(config, Mapping):
        raise InputError(f"the configuration of a {class_name} must be a mapping of settings, not {type(config).__name__}")
    settings = {k: v for k, v in config.items() if not k.startswith("_")}
    try:
        if _MODELS[class_name] == "diffusers":
            import diffusers

            return getattr(diffusers, class_name).from_config(settings)
        import transformers

        cls = getattr(transformers, class_name)
        return cls(cls.config_class.from_dict(settings))
    except Exception as error:  # settings reach deep into other libraries, which raise whatever a wrong one leads to
        raise InputError(f"{class_name} cannot be built as configured: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else 'no reason given'}"


def _build_from(folder: Path, class_name: str) -> nn.Module:
    config = weights.read_json(folder / "config.json")
    try:
        return build_model(class_name, config)
    except InputError as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from error


def load_model(folder: Path, class_name: str) -> nn.Module:
    """Construct a model from its folder and load its weights strictly, in fp32."""
    model = _build_from(folder, class_name)
    stem = "model" if _MODELS[class_name] == "transformers" else "diffusion_pytorch_model"
    state = {k: v.float() if v.is_floating_point() else v for k, v in weights.load_state(folder, stem).items()}
    if _MODELS[class_name] == "transformers":
        state = _current_clip_keys(state, model)
    elif hasattr(model, "_fix_state_dict_keys_on_load"):
        model._fix_state_dict_keys_on_load(state)  # type: ignore[operator]
    weights.load_strict(model, state, str(folder))
    return model


def _current_clip_keys(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename CLIP keys between transformers' old layout (``text_model.…``) and today's; position ids are recomputed."""
    own = model.state_dict()
    out = {}
    for key, value in state.items():
        if key.endswith("position_ids"):
            continue
        short = key.removeprefix("text_model.").removeprefix("vision_model.")
        longs = (key, short, f"text_model.{short}", f"vision_model.{short}")
        out[next((k for k in longs if k in own), key)] = value
    return out


def _from_ldm(name: str, state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Pick a network's weights out of a single-file checkpoint, under the names that the network has here."""
    from diffusers.loaders import single_file_utils as ldm

    if name == "unet":
        found = ldm.convert_ldm_unet_checkpoint(state, model.config)
    elif name == "vae":
        found = ldm.convert_ldm_vae_checkpoint(state, model.config)
    else:
        is_open_clip = ldm.is_open_clip_model(state)
        found = ldm.convert_open_clip_checkpoint(model, state) if is_open_clip else ldm.convert_ldm_clip_checkpoint(state)
        # Some files keep CLIP's projection, which Stable Diffusion does not use.
        found = _current_clip_keys({k: v for k, v in found.items() if not k.endswith("text_projection.weight")}, model)
    # The converters give None for some of the tensors that are not there; strict loading then names them.
    return {k: v for k, v in found.items() if v is not None}


def _hub_folder(path: Path, state: Mapping[str, Tensor]) -> Path:
    """Fetch the configurations that diffusers would take for a single file; raises InputError when it cannot."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from huggingface_hub import snapshot_download

    name = fetch_diffusers_config(state)["pretrained_model_name_or_path"]
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt"]))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot fetch the configurations for {path} from the hub's {name} ({str(error).splitlines()[0]}); name a folder "
            "that has them with --config, or config_folder in Python"
        ) from error


def _read_index(folder: Path) -> dict[str, Any]:
    """Read which classes a folder names; raises InputError unless they make a Stable Diffusion 1.x or 2.x model."""
    index = weights.read_object(folder / "model_index.json")
    missing = [name for name in REQUIRED if _class_named(index.get(name)) is None]
    if missing:
        raise InputError(
            f"{folder / 'model_index.json'} lacks {', '.join(missing)}; a Stable Diffusion 1.x or 2.x folder has them"
        )
    if index["tokenizer"][1] not in _TOKENIZERS:
        raise InputError(f"{folder}: tokenizer {index['tokenizer'][1]!r} is not one of {', '.join(_TOKENIZERS)}")
    return index


def _class_named(entry: Any) -> str | None:
    """Return the class of an entry [library, class] of model_index.json, or None."""
    return entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else None


def _load_scheduler(folder: Path, index: Mapping[str, Any]) -> Any:
    path = folder / "scheduler" / "scheduler_config.json"
    config = weights.read_object(path)
    cls = scheduler_class(index["scheduler"][1])
    try:
        return cls.from_config(config)
    except Exception as error:  # an unknown schedule is a NotImplementedError, a wrong type whatever it leads to
        raise InputError(f"{path}: {cls.__name__} cannot be built as configured: {_said(error)}") from error


class Backbone(nn.Module):
    """The hosted networks; `component(name)` finds any of them, or None.

    scheduler is an instance of one of diffusers' schedulers and carries the betas and the prediction type.
    """

    unet: Any
    vae: Any
    text_encoder: Any

    def __init__(
        self, unet: nn.Module, vae: nn.Module, text_encoder: nn.Module, tokenizer: Any, scheduler: Any,
        components: Mapping[str, nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.tokenizer, self.scheduler = tokenizer, scheduler
        self.components = nn.ModuleDict(dict(components or {}))

    @classmethod
    def from_folder(cls, folder: str | Path, components: Iterable[str] = (), unet: nn.Module | None = None) -> Backbone:
        """Load a diffusers SD 1.x/2.x folder, with extra components (subfolders) where plugins require them.

        unet takes the place of the folder's own, which is then not read.
        """
        folder = Path(folder)
        index = _read_index(folder)
        loaded = {} if unet is None else {"unet": unet}
        loaded |= {n: load_model(folder / n, index[n][1]) for n in _NETWORKS if n not in loaded}
        extra = {}
        for name in components:
            if _class_named(index.get(name)) is None:
                raise InputError(f"{folder} has no component {name!r}, which a plugin requires")
            extra[name] = load_model(folder / name, index[name][1])
        tokenizer, scheduler = load_tokenizer(folder / "tokenizer"), _load_scheduler(folder, index)
        return cls(**loaded, tokenizer=tokenizer, scheduler=scheduler, components=extra)

    @classmethod
    def from_single_file(cls, path: str | Path, config_folder: str | Path | None = None) -> Backbone:
        """Load a single-file Stable Diffusion 1.x/2.x checkpoint (LDM keys), in fp32.

        config_folder is a diffusers folder with the configurations and the tokenizer, whose weights are not read; without it
        diffusers' choice is taken from its hub.
        """
        path = Path(path)
        if config_folder is not None and not Path(config_folder).is_dir():
            raise InputError(f"there is no folder of configurations at {str(config_folder)!r}")
        state = weights.load_file(path)
        missing = [prefix for prefix in _LDM_PREFIXES if not any(key.startswith(prefix) for key in state)]
        if missing:
            raise InputError(
                f"{path} is not a single-file Stable Diffusion 1.x or 2.x checkpoint: no tensor's name begins with "
                f"{' or '.join(missing)}"
            )
        folder = _hub_folder(path, state) if config_folder is None else Path(config_folder)
        index = _read_index(folder)
        loaded: dict[str, Any] = {}
        for name in _NETWORKS:
            loaded[name] = _build_from(folder / name, index[name][1])
            try:
                own = _from_ldm(name, state, loaded[name])
            except KeyError as error:
                raise InputError(f"{path}, as {folder / name} configures it, lacks {error.args[0]}") from error
            weights.load_strict(loaded[name], own, f"{path}, as {folder / name} configures it,")
        return cls(**loaded, tokenizer=load_tokenizer(folder / "tokenizer"), scheduler=_load_scheduler(folder, index))

    def component(self, name: str) -> Any:
        """Return a component by its folder name, or None."""
        if name in REQUIRED:
            return getattr(self, name)
        return dict(self.components.items()).get(name)

    def add_component(self, name: str, folder: Path) -> None:
        """Load an extra component, frozen, from its folder; raises InputError where the folder does not say what it is."""
        config, index = weights.read_json(folder / "config.json"), folder.parent / "model_index.json"
        listed = weights.read_json(index) if index.is_file() else {}
        named = config.get("architectures") if isinstance(config, dict) else None
        if not isinstance(named, list):
            named = [_class_named(listed.get(folder.name)) if isinstance(listed, dict) else None]
        kinds = [kind for kind in named if isinstance(kind, str) and kind in _MODELS]
        if not kinds:
            raise InputError(f"{folder / 'config.json'} names no architecture among {', '.join(_MODELS)}")
        self.components[name] = load_model(folder, kinds[0]).eval().requires_grad_(False)

    @property
    def vae_factor(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def skip_count(self) -> int:
        """Number of the UNet's skip connections."""
        return 1 + sum(len(block.resnets) + len(block.downsamplers or ()) for block in self.unet.down_blocks)

    @property
    def token_width(self) -> int:
        """D: width of the cross-attention context."""
        return int(self.unet.config.cross_attention_dim)

    @property
    def latent_channels(self) -> int:
        """C: channels of the latents."""
        return int(self.vae.config.latent_channels)

    def encode_images(self, pixels: Tensor, generator: torch.Generator | None = None, sample: bool = False) -> Tensor:
        """Encode pixels (N, 3, H, W) in [−1, 1] to scaled latents (N, C, h, w): the posterior's mean, or a sample of it."""
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        return self.scale_latents(posterior.sample(generator) if sample else posterior.mode())

    def moments(self, pixels: Tensor) -> Tensor:
        """Encode pixels (N, 3, H, W) in [−1, 1] to the posterior's mean and standard deviation (N, 2C, h, w), unscaled."""
        posteriors = (self.vae.encode(part.to(self.vae.dtype)).latent_dist for part in pixels.split(4))
        return torch.cat([torch.cat([posterior.mean, posterior.std], dim=1) for posterior in posteriors])

    def scale_latents(self, latents: Tensor) -> Tensor:
        """Bring latents (N, C, h, w) as the VAE encodes them to the scale that the UNet works in."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return (latents - shift) * self.vae.config.scaling_factor

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (N, C, h, w) to pixels (N, 3, H, W) in about [−1, 1]."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return self.vae.decode((latents / self.vae.config.scaling_factor + shift).to(self.vae.dtype)).sample

    def save(self, folder: Path, dtype: torch.dtype | None = None, shard: int | None = None) -> None:
        """Write a folder that `StableDiffusionPipeline.from_pretrained` opens; weights in `dtype`, or as they are.

        shard is the most bytes of a weight file; None: a file a network.
        """
        index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": _diffusers_version()}
        parts = {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder, **dict(self.components.items())}
        for name, model in parts.items():
            save_model(model, folder / name, _STEMS.get(name, "diffusion_pytorch_model"), dtype, shard)
            library = _MODELS[type(model).__name__]
            index[name] = [library, type(model).__name__]
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.scheduler.save_pretrained(folder / "scheduler")
        index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", type(self.scheduler).__name__]}
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
        weights.write_json(folder / "model_index.json", index)


def save_model(model: Any, folder: Path, stem: str, dtype: torch.dtype | None, shard: int | None = None) -> None:
    """Write config.json and safetensors, floating-point tensors in `dtype`; shard is the most bytes of a file."""
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model.config, "to_json_string"):
        model.config.architectures = [type(model).__name__]  # so that the folder says by itself what it holds
        (folder / "config.json").write_text(model.config.to_json_string(), encoding="utf-8")
    else:
        model.save_config(folder)
    whole = weights.plain_state(model)
    state = {k: v.to(dtype) if dtype is not None and v.is_floating_point() else v for k, v in whole.items()}
    weights.save_shards(state, folder, stem, shard)


def load_tokenizer(folder: Path) -> Any:
    """Read a CLIP tokenizer from its folder, offline."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read the tokenizer in {folder}: {str(error).splitlines()[0]}") from error


def _diffusers_version() -> str:
    import diffusers

    return str(diffusers.__version__)

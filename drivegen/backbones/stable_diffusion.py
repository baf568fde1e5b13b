"""The Stable Diffusion backbone: VAE, UNet, text encoder, tokenizer and scheduler of a diffusers folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.backbones.first_stage import factor_of, load_vae
from drivegen.backbones.networks import MODELS, build_from_folder, load_model, save_model
from drivegen.backbones.schedulers import load_scheduler
from drivegen.backbones.single_file import PREFIXES, from_ldm, hub_folder
from drivegen.backbones.tokenizers import TOKENIZERS, load_tokenizer
from drivegen.support import files, weights
from drivegen.support.errors import InputError

REQUIRED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

_NETWORKS = ("unet", "vae", "text_encoder")
_STEMS = {"text_encoder": "model", "image_encoder": "model"}


def _read_index(folder: Path) -> dict[str, Any]:
    """Read which classes a folder names; raises InputError unless they make a Stable Diffusion 1.x or 2.x model."""
    index = weights.read_object(folder / "model_index.json")
    missing = [name for name in REQUIRED if _class_named(index.get(name)) is None]
    if missing:
        raise InputError(
            f"{folder / 'model_index.json'} lacks {', '.join(missing)}; a Stable Diffusion 1.x or 2.x folder has them"
        )
    if index["tokenizer"][1] not in TOKENIZERS:
        raise InputError(f"{folder}: tokenizer {index['tokenizer'][1]!r} is not one of {', '.join(TOKENIZERS)}")
    return index


def _class_named(entry: Any) -> str | None:
    """Return the class of an entry [library, class] of model_index.json, or None."""
    return entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else None


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
        tokenizer, scheduler = load_tokenizer(folder / "tokenizer"), load_scheduler(folder, index)
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
        missing = [prefix for prefix in PREFIXES if not any(key.startswith(prefix) for key in state)]
        if missing:
            raise InputError(
                f"{path} is not a single-file Stable Diffusion 1.x or 2.x checkpoint: no tensor's name begins with "
                f"{' or '.join(missing)}"
            )
        folder = hub_folder(path, state) if config_folder is None else Path(config_folder)
        index = _read_index(folder)
        loaded: dict[str, Any] = {}
        for name in _NETWORKS:
            loaded[name] = build_from_folder(folder / name, index[name][1])
            try:
                own = from_ldm(name, state, loaded[name])
            except KeyError as error:
                raise InputError(f"{path}, as {folder / name} configures it, lacks {error.args[0]}") from error
            weights.load_strict(loaded[name], own, f"{path}, as {folder / name} configures it,")
        return cls(**loaded, tokenizer=load_tokenizer(folder / "tokenizer"), scheduler=load_scheduler(folder, index))

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
        kinds = [kind for kind in named if isinstance(kind, str) and kind in MODELS]
        if not kinds:
            raise InputError(f"{folder / 'config.json'} names no architecture among {', '.join(MODELS)}")
        self.components[name] = load_model(folder, kinds[0]).eval().requires_grad_(False)

    @property
    def vae_factor(self) -> int:
        """Pixels per latent along each side."""
        return factor_of(self.vae)

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

    def replace_vae(self, source: str | Path) -> None:
        """Put a VAE in the place of the model's own, on its device and in its dtype; see `first_stage.load_vae`."""
        own = next(self.vae.parameters())
        self.vae = load_vae(source, self.vae).to(own.device, own.dtype)

    def encode_images(self, pixels: Tensor, generator: torch.Generator | None = None, sample: bool = False) -> Tensor:
        """Encode pixels (N, 3, H, W) in [−1, 1] to scaled latents (N, C, h, w): the posterior's mean, or a sample of it."""
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
            library = MODELS[type(model).__name__]
            index[name] = [library, type(model).__name__]
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.scheduler.save_pretrained(folder / "scheduler")
        index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", type(self.scheduler).__name__]}
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
        files.write_json(folder / "model_index.json", index)


def _diffusers_version() -> str:
    import diffusers

    return str(diffusers.__version__)

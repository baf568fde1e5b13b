"""From a config to networks: a host loaded from a folder or built from scratch, its plugins, a first stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from drivegen.backbones.networks import load_model
from drivegen.backbones.schedulers import scheduler_class
from drivegen.backbones.stable_diffusion import Backbone
from drivegen.backbones.tokenizers import load_tokenizer
from drivegen.backbones.vae_files import CLASSES
from drivegen.catalog import registry, tuners
from drivegen.catalog.construct import construct, construct_plugin, refusing
from drivegen.diffusion.training_facts import check_settings
from drivegen.host.host import Host
from drivegen.plugin import Plugin
from drivegen.sampling.settings import Sampling
from drivegen.saved import model as models
from drivegen.saved import plugin_folder
from drivegen.saved.integrity import INDEX
from drivegen.support import strict_yaml, weights
from drivegen.support.errors import InputError, nearest
from drivegen.training.config import Config
from drivegen.training.first_stage.networks import take_over
from drivegen.training.first_stage.settings import AutoencoderConfig
from drivegen.training.model_config import ModelConfig, PluginConfig, TunerConfig


def build_model(config: Config) -> models.Model:
    """Build the host that a config describes, with the sampling defaults that it is saved with.

    The same config gives the same weights. Sampling defaults that the config leaves out are the base's.
    """
    torch.manual_seed(config.train.seed)
    defaults: Mapping[str, Any] = {}
    foreign = False
    if config.model.base is not None:
        loaded = models.load(config.model.base, config_folder=config.model.config, prediction_type=config.model.prediction_type)
        host, defaults = loaded.host, loaded.sampling.to_dict()
        foreign = loaded.folder is None or not (loaded.folder / INDEX).is_file()
        if foreign:
            # What is no drivegen model comes with its family's plugins only where the config describes none.
            for name in [name for name in host.backbone.family.conditions if name in config.plugins]:
                host.remove_plugin(name)
        if config.model.vae is not None:
            host.backbone.vae = load_first_stage(config.model.vae)
        for name in host.plugins:
            # Its layers were frozen by loading; a plugin that trains starts as its author meant it to.
            if name not in config.plugins or config.plugins[name].train:
                host.plugin(name).requires_grad_(name in config.plugins)
    else:
        host = Host(_backbone_from_scratch(config.model, config.data.size))
    _bring(host, config, loaded.folder if config.model.base is not None else None)
    for name, settings in config.plugins.items():
        _add(host, name, settings)
    for name, tuner in config.tuners.items():
        _tune(host, name, tuner)
    for group in config.drop_groups:
        for name in group.names:
            host.plugin(name)
    if foreign and defaults.get("null") is not None:  # what is joined is told to both halves of guidance, and nothing else
        defaults = {**defaults, "null": [name for name in host.plugins if not host.plugin(name).takes_mask]}
    if config.sampling.get("sampler", defaults.get("sampler")) != defaults.get("sampler"):
        defaults = {**defaults, "sampler_options": {}}  # those of the base's own sampler
    sampling = Sampling.from_dict({**defaults, **config.sampling}, "sampling")
    return models.Model(host, sampling, config.data.size)


def _bring(host: Host, config: Config, base: Path | None) -> None:
    """Load the components that plugins require and the base did not bring."""
    components, backbone = config.model.components, host.backbone
    kinds = [p.kind for name, p in config.plugins.items() if p.kind is not None and name not in host.plugins]
    needed = dict.fromkeys(part for kind in kinds for part in registry.load(kind).requires if backbone.component(part) is None)
    for part in components:
        if part not in needed:
            raise InputError(f"model.components.{part} is given, but no plugin here lacks it")
    if config.model.image_encoder and "image_encoder" not in needed:
        raise InputError("model.image_encoder is given, but no plugin here lacks one")
    for part in needed:
        if part == "image_encoder" and config.model.image_encoder:
            backbone.components[part] = _image_encoder(config.model.image_encoder)
            continue
        folder = models.locate(components[part]) if part in components else (base / part if base is not None else None)
        if folder is None or not (folder / "config.json").is_file():
            raise InputError(f"a plugin requires {part!r}, which the base lacks; give model.components.{part}, its folder")
        backbone.add_component(part, folder)


def _image_encoder(settings: Mapping[str, Any]) -> torch.nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    known = CLIPVisionConfig().to_dict()
    for key in settings:
        if key not in known:
            raise InputError(f"unknown setting model.image_encoder.{key}{nearest(key, known)}")
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**settings)).eval().requires_grad_(False)


def _add(host: Host, name: str, settings: PluginConfig) -> None:
    if name in host.plugins:
        _check_same(host.plugin(name), name, settings)
        return
    if settings.kind is None:
        there = registry.kinds()
        raise InputError(f"plugins.{name} needs a kind; there are {', '.join(there)}{nearest(name, there)}")
    if settings.weights is not None:
        plugin = plugin_folder.load_plugin(host, name, Path(settings.weights).expanduser(), settings.kind)
        _check_same(plugin, name, settings)
        return
    cls, where = registry.load(settings.kind), f"plugins.{name}.options"
    plugin = construct_plugin(cls, {key: strict_yaml.tuples(value) for key, value in settings.options.items()}, where)
    if not settings.options:
        host.add_plugin(name, plugin)
        return
    with refusing(cls, where):
        host.add_plugin(name, plugin)


def _tune(host: Host, name: str, settings: TunerConfig) -> None:
    where = f"tuners.{name}.options"
    cls = tuners.load(settings.kind)
    tuner = tuners.make(settings.kind, settings.options, where)
    with refusing(cls, where):  # many values are first made use of when it is attached
        host.add_tuner(name, tuner)
    if settings.weights is not None:
        tuner.load(Path(settings.weights).expanduser())


def _check_same(plugin: Plugin, name: str, settings: PluginConfig) -> None:
    """A plugin that comes with weights comes with its options: others would be ignored, so they are refused."""
    kind = registry.kind_of(plugin)
    if settings.kind not in (None, kind):
        raise InputError(f"plugins.{name}.kind is {settings.kind!r}, but the saved plugin is of kind {kind!r}")
    for key, value in settings.options.items():
        saved = plugin.config.get(key)
        if key not in plugin.config or strict_yaml.tuples(saved) != strict_yaml.tuples(value):
            raise InputError(f"plugins.{name}.options.{key} = {value!r}, but the saved plugin has {saved!r}; leave options out")


def _backbone_from_scratch(settings: ModelConfig, size: tuple[int, int]) -> Backbone:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    assert settings.tokenizer is not None
    assert settings.vae is not None
    tokenizer, vae = load_tokenizer(Path(settings.tokenizer).expanduser()), load_first_stage(settings.vae)
    text = CLIPTextModel(text_config(settings.text_encoder, tokenizer))
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    defaults = {
        "in_channels": vae.config.latent_channels, "out_channels": vae.config.latent_channels,
        "cross_attention_dim": text.config.hidden_size, "sample_size": [n // factor for n in size],
    }  # fmt: skip
    unet = construct(UNet2DConditionModel, {**defaults, **settings.unet}, "model.unet")
    options = dict(settings.scheduler)
    cls = scheduler_class(str(options.pop("class", "DDPMScheduler")))
    check_settings(cls.__name__, options)
    return Backbone(unet, vae, text, tokenizer, construct(cls, options, "model.scheduler"))


def text_config(settings: Mapping[str, Any], tokenizer: Any) -> Any:
    """Return a CLIPTextConfig whose vocabulary, special tokens and length are the tokenizer's."""
    from transformers import CLIPTextConfig

    known = CLIPTextConfig().to_dict()
    for key in settings:
        if key not in known:
            raise InputError(f"unknown setting model.text_encoder.{key}{nearest(key, known)}")
    length = min(int(tokenizer.model_max_length), 77)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return CLIPTextConfig(**{"vocab_size": len(tokenizer), "max_position_embeddings": length, **ids, **settings})


def build_first_stage(settings: AutoencoderConfig, seed: int) -> Any:
    """Build the first stage's network: fresh, from a folder, or fresh with the weights that it shares with the folder's."""
    import diffusers

    torch.manual_seed(seed)
    class_name = "VQModel" if settings.kind == "vq" else "AutoencoderKL"
    if settings.weights is not None and not settings.network:
        return load_first_stage(settings.weights, class_name)
    levels = len(settings.network.get("block_out_channels", (64,)))
    defaults = {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    network = construct(getattr(diffusers, class_name), {**defaults, **settings.network}, "autoencoder.network")
    if settings.weights is not None:
        take_over(network, load_first_stage(settings.weights, class_name))
    return network


def load_first_stage(folder: str, class_name: str | None = None) -> Any:
    """Load a network from its folder, or from the ``vae`` of a model folder.

    Args:
        folder: a first stage's, or a model's.
        class_name: the class that it must be of; None takes any first stage that is hosted.

    Raises InputError when it is of another class.
    """
    path = models.locate(folder)
    if not (path / "config.json").is_file() and (path / "vae" / "config.json").is_file():
        path = path / "vae"
    config = weights.read_json(path / "config.json")
    allowed = CLASSES if class_name is None else (class_name,)
    found = config.get("_class_name", allowed[0])
    if found not in allowed:
        raise InputError(f"{path} holds a {found}, and {', '.join(allowed)} is needed")
    return load_model(path, found).eval()

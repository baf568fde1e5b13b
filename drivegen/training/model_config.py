"""What of a training config says what the model is made of: its networks, plugins, tuners."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from drivegen.support.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Where the backbone comes from: a model folder, or configurations to start from scratch."""

    base: str | None = None
    """A diffusers or drivegen model folder, a single-file checkpoint, or ``tiny`` (the embedded model); its plugins come along,
    frozen unless listed.
    """
    config: str | None = None
    """Folder with the configurations of a single-file checkpoint; None asks the hub for them."""
    prediction_type: str | None = None
    """What the base predicts, where it does not say it or wrongly: ``epsilon``, ``v_prediction`` or ``sample``."""
    vae: str | None = None
    """Folder of an AutoencoderKL, VQModel or AutoencoderTiny (such as a first stage wrote), in place of the base's."""
    components: dict[str, str] = field(default_factory=dict)
    """Folders of further networks that plugins require and the base does not have, such as ``image_encoder``."""
    image_encoder: dict[str, Any] = field(default_factory=dict)
    """Arguments of a CLIPVisionConfig: an image encoder of random, frozen weights, where there is no trained one."""
    tokenizer: str | None = None
    """From scratch: folder of the tokenizer."""
    unet: dict[str, Any] = field(default_factory=dict)
    """From scratch: arguments of diffusers' UNet2DConditionModel."""
    text_encoder: dict[str, Any] = field(default_factory=dict)
    """From scratch: arguments of transformers' CLIPTextConfig; the vocabulary's numbers are the tokenizer's."""
    scheduler: dict[str, Any] = field(default_factory=dict)
    """From scratch: ``class`` (default DDPMScheduler) and arguments of one of diffusers' schedulers."""

    def __post_init__(self) -> None:
        scratch = [name for name in ("unet", "text_encoder", "scheduler", "tokenizer") if getattr(self, name)]
        if self.base is not None and scratch:
            raise InputError(f"base is given, so {', '.join(scratch)} must not be: they come from {self.base!r}")
        if self.base is None and (self.config or self.prediction_type):
            raise InputError("config and prediction_type say how base is read, and no base is given; leave them out")
        if self.base is None and self.unet and not (self.text_encoder and self.tokenizer and self.vae):
            raise InputError("from scratch needs unet, text_encoder, tokenizer and vae; or give base, a model folder")


@dataclass(frozen=True, kw_only=True)
class PluginConfig:
    """One plugin of the model: its kind in the registry, its constructor arguments, how it trains."""

    kind: str | None = None
    """Its name in `drivegen plugins`; None keeps the kind that the base's plugin of this name has."""
    drop: float = field(default=0.1, metadata={"ge": 0, "le": 1})
    """Probability that a scene's condition is null in a training step."""
    train: bool = True
    """Whether it learns; else it is frozen as it is."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor."""
    weights: str | None = None
    """Folder of a saved plugin to start from."""


@dataclass(frozen=True, kw_only=True)
class TunerConfig:
    """A tuner that trains inside the frozen networks: its kind (``drivegen tuners``), and its constructor arguments."""

    kind: str
    """Its name in `drivegen tuners`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor."""
    weights: str | None = None
    """A file of its layout, or the folder of one, to start from."""

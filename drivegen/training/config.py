"""The schema of a training config: these dataclasses, their defaults and ranges."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from drivegen.lora.settings import LoraConfig
from drivegen.support import strict_yaml
from drivegen.support.dtypes import DType, dtype_word
from drivegen.support.errors import InputError, nearest
from drivegen.support.names import check_name
from drivegen.training.buckets import MAX_SIDE_PX, BucketConfig
from drivegen.training.first_stage.settings import AutoencoderConfig
from drivegen.training.model_config import ModelConfig, PluginConfig, TunerConfig

LORA = "lora"
"""Name and kind of the tuner that the setting `lora` is short for."""
TAKEN = ("model", "vae", "previews", "tensorboard", "wandb")
"""Names of a run's folder that no tuner may have."""
MAX_STEPS = 100_000_000
MAX_THREADS = 1024


def _number(default: Any, **bounds: float) -> Any:
    return field(default=default, metadata=bounds)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What a step minimises: an objective by its name (``drivegen objectives``), and its constructor arguments."""

    kind: str = "noise"
    """Its name in `drivegen objectives`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor."""


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Pictures of what the model knows before it is trained, made once by itself, for objectives that keep it."""

    folder: str
    """Where they are kept, as a dataset with its manifest; made when they are not there."""
    roots: tuple[str, ...] = ()
    """Datasets whose frames' conditions they are made from; none = those of data.roots."""
    frames: int = _number(24, ge=1, le=MAX_STEPS)
    """How many frames, spread over those datasets."""
    prompt: str | None = None
    """Text in place of each frame's description, which may name {description} and {location}; None = as it is."""
    seed: int = _number(0, ge=0, lt=2**62)
    """Of their noise."""


@dataclass(frozen=True, kw_only=True)
class DropGroup:
    """Plugins that become null together, by one draw per scene, besides their own."""

    names: tuple[str, ...]
    """Instance names of the plugins."""
    probability: float = field(metadata={"ge": 0, "le": 1})
    """Probability that all of them are null for a scene in a training step."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Datasets in the nuScenes schema."""

    roots: tuple[str, ...]
    """Folders of the datasets, at least one."""
    version: str | None = None
    """Folder of the tables, such as ``v1.0-trainval``; None = the only one that a root has."""
    size: tuple[int, int] = field(metadata={"ge": 8, "le": MAX_SIDE_PX})
    """(height, width) of the generated images, in pixels."""
    buckets: BucketConfig | None = None
    """Further sizes, for rigs whose pictures have other shapes: each frame is whole in the nearest one; None = `size` alone."""
    val_scenes: tuple[str, ...] | float = 0.05
    """Scenes that are not trained on: names, nuScenes's own splits (``val``), or the share of the last scenes of each root."""
    max_frames: int | None = field(default=None, metadata={"ge": 1, "le": MAX_STEPS})
    """At most so many frames are trained on; None = all."""
    cache: str | None = None
    """Folder for latents and prepared arrays; None computes them each time."""
    extras: dict[str, str] = field(default_factory=dict)
    """By plugin name, a folder of files that it is given: ``<sample token>.npy``, or ``<picture>.png`` for each camera."""
    prompt: str | tuple[str, ...] | None = None
    """Text in place of each frame's description, which may name {description} and {location}, or one for each of the roots;
    None = as it is.
    """
    skip_missing: bool = False
    """Leave out frames of which a file is missing; else a missing file stops the run before any work."""
    workers: int = _number(0, ge=0, le=64)
    """Processes that read frames ahead; 0 = the training's own."""

    def __post_init__(self) -> None:
        if not self.roots:
            raise InputError("roots is empty; give at least one dataset folder")
        if isinstance(self.prompt, tuple) and len(self.prompt) != len(self.roots):
            raise InputError(f"prompt has {len(self.prompt)} texts for {len(self.roots)} roots; give one, or one for each")
        if any(n < 8 or n % 8 for n in self.size):
            raise InputError(f"size = {list(self.size)} must be (height, width) in multiples of 8 pixels")
        if isinstance(self.val_scenes, float) and not 0 <= self.val_scenes < 1:
            raise InputError(f"val_scenes = {self.val_scenes:g} is out of range; allowed: 0 <= share < 1, or a list of names")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation: what trains, for how long, how."""

    unet: bool = False
    """Whether the UNet's own weights learn."""
    text_encoder: bool = False
    """Whether the text encoder's weights learn."""
    steps: int = field(metadata={"ge": 1, "le": MAX_STEPS})
    """Steps of the optimiser in the whole run."""
    images: int = _number(12, ge=1, le=10_000)
    """Images per step: scenes of equal view count are put together until another would exceed it (at least one)."""
    accumulate: int = _number(1, ge=1, le=10_000)
    """Batches whose gradients are averaged for one step of the optimiser."""
    lr: float = _number(1e-4, gt=0, le=1)
    """Learning rate of AdamW after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decays of the averages of gradients and of their squares."""
    weight_decay: float = _number(0.01, ge=0, le=1)
    """AdamW's weight decay of matrices and kernels; biases and norms have none."""
    warmup: int = _number(500, ge=0, le=MAX_STEPS)
    """Steps over which the learning rate rises linearly."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate after the warm-up: it stays, or falls to zero along half a cosine."""
    clip: float = _number(1.0, ge=0, le=1e6)
    """Greatest gradient norm; 0 = no clipping."""
    precision: DType = "bf16"
    """Number format of the arithmetic, by its word (`support.dtypes`); what trains is kept in float32."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass in place of keeping their outputs: less memory, more time."""
    ema: float = _number(0.0, ge=0, lt=1)
    """Decay of the moving average of trained parameters; 0 = none."""
    weighting: Literal["plain", "min_snr"] = "plain"
    """Weights of timesteps in the loss: none, or min-SNR (Hang et al. 2023)."""
    gamma: float = _number(5.0, gt=0, le=1e4)
    """γ of min-SNR, read where weighting says so."""
    noise_offset: float = _number(0.0, ge=0, le=1)
    """Deviation of a constant that is added to each view's and channel's noise, so that very dark and bright pictures are
    learned; 0 = none.
    """
    same_t: bool = True
    """All views of a scene share one timestep."""
    noise: Literal["independent", "shared", "sphere"] = "independent"
    """What the views of a scene start from, as in sampling: each its own, all the same, or the same where they overlap."""
    sample_posterior: bool = True
    """Latents are sampled from the VAE's posterior; else its mean."""
    seed: int = _number(0, ge=0, lt=2**63)
    """Of new weights, the order of frames, and everything that a step draws."""
    threads: int | None = field(default=None, metadata={"ge": 1, "le": MAX_THREADS})
    """torch's threads on the CPU; None = its own choice."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it computes; ``auto`` takes a GPU where there is one."""
    checkpoint_every: int = _number(1000, ge=1, le=MAX_STEPS)
    """Steps between two checkpoints."""
    keep_checkpoints: int = _number(2, ge=1, le=100_000)
    """How many of the latest checkpoints stay, besides last.ckpt."""
    log_every: int = _number(50, ge=1, le=MAX_STEPS)
    """Steps between two points of the curves and two lines of progress."""

    def __post_init__(self) -> None:
        strict_yaml.check(self)
        # Kept as checkpoints have stored it from the beginning, so that a run of before resumes.
        kept = {"float32": "32", "bfloat16": "bf16", "float16": "fp16"}
        object.__setattr__(self, "precision", kept[dtype_word(self.precision)])
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas = {list(self.betas)} is out of range; allowed: 0 <= beta < 1")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """On how many devices a run computes, a process each."""

    devices: int = _number(1, ge=1, le=1024)
    """Devices of each machine: GPUs, or processes on a CPU."""
    num_nodes: int = _number(1, ge=1, le=1024)
    """Machines."""
    strategy: Literal["auto", "ddp"] = "auto"
    """``ddp``: a copy of the weights per process, whose gradients are averaged; ``auto`` takes it where there are several."""


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """Pictures of scenes that are not trained on, from fixed seeds; every = 0 makes none."""

    every: int = _number(0, ge=0, le=MAX_STEPS)
    """Steps between two previews; there is one before the first step, too."""
    frames: int = _number(2, ge=1, le=16)
    """How many held-out frames are drawn."""
    seed: int = _number(0, ge=0, lt=2**63)
    """Of their start noise."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """``val_loss`` on frames that are not trained on, with noise and timesteps fixed per frame; every = 0 measures none."""

    every: int = _number(0, ge=0, le=MAX_STEPS)
    """Steps between two measurements; there is one before the first step and one after the last, too."""
    frames: int | None = field(default=16, metadata={"ge": 1, "le": MAX_STEPS})
    """How many held-out frames, spread over their scenes; None = all."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A training run."""

    stage: Literal["model", "autoencoder"] = "model"
    """What trains: a model with its plugins, or a first stage."""
    output: str
    """The run's folder: checkpoints, previews, curves, and at the end what was trained."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Where the networks come from."""
    autoencoder: AutoencoderConfig | None = None
    """The first stage and its losses, with ``stage: autoencoder`` alone."""
    plugins: dict[str, PluginConfig] = field(default_factory=dict)
    """By instance name; the order is the order of their tokens."""
    drop_groups: tuple[DropGroup, ...] = ()
    """Plugins that become null together, besides each by its own `drop`."""
    tuners: dict[str, TunerConfig] = field(default_factory=dict)
    """By instance name, small things that learn inside the frozen networks; each is written to a folder of its name."""
    lora: LoraConfig | None = None
    """Short for a tuner ``lora`` of that kind, with these options."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What a step minimises."""
    data: DataConfig
    """What is trained on."""
    prior: PriorConfig | None = None
    """What the model knows before, for objectives that keep it, such as ``dreambooth``; None = nothing is kept."""
    train: TrainConfig
    """What learns, for how long, and how."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """On how many devices."""
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    """Pictures on the way."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Losses of held-out frames on the way."""
    logger: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Where the curves go; both may be named, or none."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """Sampling defaults that are saved with the model; what is not said is the base's."""
    save_dtype: DType = "float32"
    """Number format of the weights in the model that is written, by its word (`support.dtypes`)."""
    save_shard_mb: int | None = _number(None, ge=1, le=1_000_000)
    """The most megabytes (10⁶ bytes) of a file of the backbone's weights; None = one file per network."""

    def __post_init__(self) -> None:
        if (self.stage == "autoencoder") != (self.autoencoder is not None):
            raise InputError(f"stage is {self.stage!r}; the group `autoencoder` goes with stage: autoencoder alone")
        if self.stage == "model" and self.model.base is None and not self.model.unet:
            raise InputError("model needs base, a model folder, or unet, text_encoder, tokenizer and vae from scratch")
        if self.lora is not None:
            if LORA in self.tuners:
                raise InputError("lora is short for the tuner `lora`, which tuners has already; leave one of them out")
            object.__setattr__(self, "tuners", {**self.tuners, LORA: TunerConfig(kind=LORA, options=asdict(self.lora))})
            object.__setattr__(self, "lora", None)
        _check_tuners(self)
        if self.stage == "autoencoder" and self.objective != ObjectiveConfig():
            raise InputError("objective is what a model trains by; stage: autoencoder has losses of its own, so leave it out")
        if self.data.buckets is not None:
            if self.stage == "autoencoder":
                raise InputError("data.buckets is for models, and stage: autoencoder trains a first stage; leave it out")
            self.data.buckets.besides(self.data.size)
        if self.stage == "autoencoder" and self.data.extras:
            raise InputError("data.extras is for plugins, which stage: autoencoder has none of; leave it out")
        for name in self.plugins:
            check_name(name)
        _refuse_blank(self, "")
        for group in self.drop_groups:
            if not group.names:
                raise InputError("drop_groups holds a group without names; name the plugins that become null together")
            for name in group.names:
                if self.model.base is None and name not in self.plugins:
                    raise InputError(f"drop_groups names {name!r}, which is not among the plugins{nearest(name, self.plugins)}")


def _check_tuners(config: Config) -> None:
    for name in config.tuners:
        if check_name(name, "tuner") in TAKEN:
            raise InputError(f"tuners.{name} would be written where the run keeps its own {name}; choose another name")
    if config.stage == "autoencoder" and config.data.prompt is not None:
        raise InputError("data.prompt is for models, and stage: autoencoder trains a first stage; leave it out")
    if config.stage == "autoencoder" and config.prior is not None:
        raise InputError("prior is for models, and stage: autoencoder trains a first stage; leave it out")
    if config.tuners and (config.train.unet or config.train.text_encoder or config.stage != "model"):
        names = ", ".join(config.tuners)
        raise InputError(f"{names} trains inside frozen networks: train.unet and train.text_encoder must be false")


def _refuse_blank(value: Any, path: str) -> None:
    """Refuse blank text: the system would take an empty path for the current folder."""
    if isinstance(value, str) and not value.strip():
        raise InputError(f"{path} is empty; give it a value or leave it out")
    if dataclasses.is_dataclass(value):
        for part in dataclasses.fields(value):
            if part.type != "dict[str, Any]":  # arguments of other people's classes
                _refuse_blank(getattr(value, part.name), f"{path}.{part.name}" if path else part.name)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_blank(item, f"{path}.{key}")
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            _refuse_blank(item, f"{path}[{i}]")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file with ``key=value`` overrides; raises InputError for anything that the schema does not allow."""
    return strict_yaml.build(Config, strict_yaml.read(Path(path), overrides))

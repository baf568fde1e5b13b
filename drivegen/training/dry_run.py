"""What a training would do, without doing it: settings and their origins, what trains, parameters, memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from drivegen.support import strict_yaml
from drivegen.support.errors import InputError, reason
from drivegen.training import config as configs
from drivegen.training.activations import kept_for_backward
from drivegen.training.base import TrainedModule
from drivegen.training.config import Config
from drivegen.training.loggers import check_loggers
from drivegen.training.places import check_places
from drivegen.training.plain_config import to_dict
from drivegen.training.stages import FirstStage, ModelStage

_MB = 1e6


def dry_run(path: Path, overrides: Sequence[str]) -> list[str]:
    """Return the lines that describe a training; raises InputError for whatever would end it before its data are read.

    Networks are built and nothing is written; of the data, tables are read where frames are to be put into buckets.
    """
    config = configs.load(path, overrides)
    check_places(config)
    check_loggers(config)
    stage = FirstStage(config) if config.stage == "autoencoder" else ModelStage(config)
    return [
        *_settings(config, path, overrides),
        *_buckets(stage),
        *_sampling(config, stage),
        *_parts(stage.module),
        *_memory(config, stage),
    ]


def _settings(config: Config, path: Path, overrides: Sequence[str]) -> Iterator[str]:
    """Say every setting and where its value comes from: the file, the command line, or the default."""
    said = set(_leaves(strict_yaml.read(path)))
    given = {override.partition("=")[0].strip() for override in overrides}
    yield "settings:"
    for name, value in _leaves(to_dict(config)).items():
        if any(name == one or name.startswith(f"{one}.") for one in given):
            origin = "command line"
        elif any(name == one or name.startswith(f"{one}.") for one in said):
            origin = "file"
        else:
            origin = "default"
        yield f"  {name} = {value!r} ({origin})"


def _buckets(stage: ModelStage | FirstStage) -> list[str]:
    """Say which aspect buckets there are; what the model knows before may not be drawn yet, and is of the size of all."""
    if not isinstance(stage, ModelStage) or not stage.data.buckets:
        return []
    if stage.data.prior is not None and not Path(stage.data.prior).is_dir():
        stage.data.prior = None
    return stage.data.described()


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {k: v for key, item in value.items() for k, v in _leaves(item, f"{path}.{key}" if path else str(key)).items()}
    return {path: value}


def _sampling(config: Config, stage: ModelStage | FirstStage) -> Iterator[str]:
    """Say what the model will be sampled with, and whose word each of it is."""
    if not isinstance(stage, ModelStage):
        return
    asked, base = stage.objective.sampling(), config.model.base
    yield "sampling, saved with the model:"
    for name, value in stage.sampling.to_dict().items():
        others = f"objective {config.objective.kind}" if name in asked else "default" if base is None else f"base {base}"
        yield f"  {name} = {value!r} ({'file or command line' if name in config.sampling else others})"
    schedule, sampling = stage.module.schedule, stage.sampling
    if schedule.terminal_snr == 0:  # what belongs together (Lin et al. 2023), in one line
        run = sampling.run(stage.host.backbone.scheduler)
        first = int(sampling.made().timesteps(run)[0])
        rescaled = f"guidance rescaled by {sampling.guidance_rescale:g}"
        if sampling.guidance_rescale == 0:
            rescaled = "guidance not rescaled, for which Lin et al. (2023) advise guidance_rescale 0.7"
        yield f"  zero terminal SNR: predicts {schedule.prediction_type}, sampling begins at timestep {first}, {rescaled}"


def _parts(module: TrainedModule) -> Iterator[str]:
    """Say of each part how many of its parameters train, and how they are optimised."""
    yield "parameters that train, of all:"
    counts: dict[str, list[int]] = {}
    for name, parameter in module.named_parameters():
        part = counts.setdefault(_part(name), [0, 0])
        part[0] += parameter.numel() * parameter.requires_grad
        part[1] += parameter.numel()
    for name, (trains, total) in counts.items():
        yield f"  {name}: {trains:,} of {total:,}"
    yield f"  all: {sum(t for t, _ in counts.values()):,} of {sum(n for _, n in counts.values()):,}"
    s = module.settings
    for prefix, (options, parameters) in zip(["", *module.groups()], module.grouped(), strict=True):
        rate = s.lr if options.lr is None else options.lr
        limit = s.clip if options.clip is None else options.clip
        what = f"group {prefix.rstrip('.')}" if prefix else "the rest" if module.groups() else "all"
        yield f"  {what}: {sum(p.numel() for p in parameters):,} at lr {rate:g}, gradients clipped to {limit:g}"


def _part(name: str) -> str:
    """Name the part that a parameter belongs to: ``unet``, ``plugin layout``, ``objective teacher``."""
    first, *rest = name.removeprefix("host.").removeprefix("backbone.").split(".")
    if first in ("plugins", "tuners"):
        return f"{first.removesuffix('s')} {rest[0]}"
    return f"objective {rest[0]}" if first == "objective" else first


def _memory(config: Config, stage: ModelStage | FirstStage) -> Iterator[str]:
    """Say what stays in memory throughout, exact, since it is counted, and what a batch adds."""
    module: TrainedModule = stage.module
    trained = [p for _, p in module.trained()]
    weights = sum(p.numel() * p.element_size() for p in _tensors(module))
    bytes_of = sum(p.numel() * p.element_size() for p in trained)
    parts = {"weights": weights, "gradients": bytes_of, "optimiser": 2 * bytes_of}
    if config.train.ema:
        parts["moving average"] = sum(p.numel() * p.element_size() for _, p in module.averaged())
    told = ", ".join(f"{name} {value / _MB:.1f} MB" for name, value in parts.items())
    yield f"memory: {told}; {sum(parts.values()) / _MB:.1f} MB together"
    yield f"  {_kept(config, stage)}"


def _kept(config: Config, stage: ModelStage | FirstStage) -> str:
    """Say what a batch adds to it."""
    train = config.train
    lowers = f"train.gradient_checkpointing ({str(train.gradient_checkpointing).lower()}) lowers it"
    on_top = f"what layers keep for the backward pass comes on top and grows with train.images ({train.images}); {lowers}"
    if not isinstance(stage, ModelStage):
        return on_top
    try:
        size = config.data.size if config.data.buckets is None else stage.data.largest
        kept = kept_for_backward(stage.host, train.images, size, train.precision)
    except (InputError, RuntimeError) as error:  # a network that needs its conditions, or an operation without shapes alone
        return f"{on_top} (not counted: {reason(error)})"
    return f"{on_top}: {kept / _MB:.1f} MB by the UNet alone, counted by shapes; plugins and an objective's networks add theirs"


def _tensors(module: nn.Module) -> list[Any]:
    return [*module.parameters(), *module.buffers()]

"""Support for a Trainer of the caller's: its settings are honoured, or refused before anything is read."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from drivegen.support.errors import InputError
from drivegen.training.config import TrainConfig
from drivegen.training.ema import EMA
from drivegen.training.order import Loader

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Lightning's word for each number format of the settings: weights stay in fp32, the arithmetic is in the format."""

_OF_THE_RUN = {
    "threads": "call torch.set_num_threads", "checkpoint_every": "give the Trainer a ModelCheckpoint",
    "keep_checkpoints": "give the Trainer a ModelCheckpoint", "log_every": "give the Trainer log_every_n_steps",
}  # fmt: skip
"""Settings that `drivegen train` carries out and a module cannot, and what to do in their place."""


def check_trainer(trainer: pl.Trainer, settings: TrainConfig) -> None:
    """Raise InputError where a Trainer contradicts the settings, or asks for something unsupported.

    Args:
        trainer: with callbacks, loggers, precision, accumulation, clipping, one device or DDP; all of these are honoured.
        settings: of the module.
    """
    if type(trainer.strategy) is not DDPStrategy and not isinstance(trainer.strategy, SingleDeviceStrategy):
        name = type(trainer.strategy).__name__
        raise InputError(f"the Trainer's strategy {name} is not supported: plugins need whole weights; use 'auto' or 'ddp'")
    expected = PRECISIONS[settings.precision]
    device = trainer.strategy.root_device.type
    if (settings.precision, trainer.precision, device) == ("fp16", PRECISIONS["bf16"], "cpu"):
        raise InputError(
            "settings.precision = 'fp16', and on a CPU Lightning computes in bf16 when it is asked for fp16; take"
            " settings.precision='bf16' and a Trainer of precision='bf16-mixed', or a GPU"
        )
    if trainer.precision != expected:
        words = {lightning: own for own, lightning in PRECISIONS.items()}
        cure = f"or settings.precision={words[trainer.precision]!r}" if trainer.precision in words else "weights train in fp32"
        raise InputError(
            f"the Trainer's precision is {trainer.precision!r}, and settings.precision = {settings.precision!r} is"
            f" {expected!r}; give the Trainer precision={expected!r}, {cure}"
        )
    if settings.device != "auto" and settings.device != device:
        raise InputError(f"settings.device = {settings.device!r}, and the Trainer computes on {device!r}; make them agree")
    if trainer.state.fn != "fit":
        return
    if settings.accumulate not in (1, trainer.accumulate_grad_batches):
        raise InputError(
            f"settings.accumulate = {settings.accumulate}, and the Trainer's accumulate_grad_batches is"
            f" {trainer.accumulate_grad_batches}; give the Trainer accumulate_grad_batches={settings.accumulate}"
        )
    if settings.ema and not any(isinstance(callback, EMA) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise InputError(
            f"settings.ema = {settings.ema:g} needs the callback: give the Trainer callbacks=[EMA({settings.ema:g})]"
        )
    data: Any = getattr(trainer, "datamodule", None)
    if settings.images not in (_default("images"), getattr(data, "images", settings.images)):
        raise InputError(f"settings.images = {settings.images}, and the data have images={data.images}; make them agree")
    if not any(getattr(callback, "carries_out_settings", False) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        for name, cure in _OF_THE_RUN.items():
            if getattr(settings, name) != _default(name):
                raise InputError(f"settings.{name} is for `drivegen train`; with a Trainer of your own {cure}")
    if settings.schedule == "cosine" and trainer.max_steps > settings.steps:
        _refuse_beyond(f"max_steps = {trainer.max_steps}", settings)


def check_data_length(trainer: pl.Trainer, settings: TrainConfig) -> None:
    """Raise InputError where the data or the learning-rate schedule ends before the Trainer does."""
    steps = trainer.estimated_stepping_batches
    if settings.schedule == "cosine" and steps > settings.steps:
        _refuse_beyond("length" if math.isinf(steps) else f"length of {steps} steps", settings)
    loader = trainer.train_dataloader
    length = loader.length if isinstance(loader, Loader) else None
    needed = trainer.max_steps * trainer.accumulate_grad_batches
    if length is not None and trainer.max_steps > 0 and needed > length:
        raise InputError(
            f"the data end after batches={length}, and the Trainer's max_steps = {trainer.max_steps} needs {needed};"
            " leave batches out, or make them agree"
        )


def _refuse_beyond(what: str, settings: TrainConfig) -> None:
    raise InputError(
        f"the Trainer's {what} goes beyond settings.steps = {settings.steps}, where the cosine schedule's learning rate is 0;"
        " give both the same, or schedule='constant'"
    )


def _default(name: str) -> object:
    return next(f.default for f in dataclasses.fields(TrainConfig) if f.name == name)

"""The loss on held-out frames during a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch

from drivegen.training.ema import EMA
from drivegen.training.processes import total
from drivegen.training.randomness import same_randomness


class Validation(pl.Callback):
    """Logs and prints ``val_loss`` before the first step, after every N and after the last.

    It is the mean over the frames of the module's `validation_loss`, with the moving average in place of the trained parameters
    where there is one. It does not change what the next training step draws or computes.

    Args:
        every: N.
        batches: returns the held-out frames, each a batch.
        ema: the moving average; None for none.
    """

    def __init__(self, every: int, batches: Callable[[], Iterable[Any]], ema: EMA | None = None) -> None:
        self.every, self.batches, self.ema = every, batches, ema
        self._measured = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        due = trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps
        if due and not trainer.should_stop:  # who stops the run is not kept waiting
            self.measure(trainer, pl_module)

    def measure(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Measure now, unless this step was measured already."""
        if self._measured == trainer.global_step:  # an accumulated batch: the parameters have not moved
            return
        self._measured = trainer.global_step
        with same_randomness(), self.ema.applied(pl_module) if self.ema is not None else nullcontext():
            losses = losses_of(pl_module, self.batches(), trainer.strategy.precision_plugin.val_step_context)
        summed, count = total((sum(losses), float(len(losses))), trainer.strategy.root_device)
        loss = summed / count
        for logger in trainer.loggers:
            logger.log_metrics({"val_loss": loss}, trainer.global_step)
        if not trainer.is_global_zero:
            return
        print(f"step {trainer.global_step}  val_loss {loss:.6f}", flush=True)


@torch.no_grad()
def losses_of(module: Any, batches: Iterable[Any], precision: Callable[[], Any] = nullcontext) -> list[float]:
    """Return a module's `validation_loss` of batches of one frame; the module is in training mode afterwards.

    Args:
        module: a `DriveModule` or a `FirstStageModule`.
        batches: one frame each.
        precision: makes the context in which each is computed.
    """
    module.eval()
    losses = []
    for batch in batches:
        with precision():
            losses.append(float(module.validation_loss(batch.to(module.device))))
    module.train()
    return losses

"""Ctrl-C and SIGTERM: the step ends, the state is saved, and the exit status says which it was."""

from __future__ import annotations

import signal
from typing import Any

import pytorch_lightning as pl

from drivegen.training.checkpoint import Checkpoints

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopOnSignal(pl.Callback):
    """Stops after the present optimiser step; a second Ctrl-C is not waited for."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints, self.received = checkpoints, 0
        self._before: dict[int, Any] = {}
        self._step = -1

    @property
    def status(self) -> int:
        """Exit status: 0 where no signal came."""
        return STATUS[signal.Signals(self.received)] if self.received else 0

    def _receive(self, number: int, frame: Any) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has put its own handlers in by now: SIGTERM would raise in the middle of a step.
        self._before = {number: signal.signal(number, self._receive) for number in STATUS}
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        whole, self._step = trainer.global_step != self._step, trainer.global_step
        if self.received and whole:
            self.checkpoints.save(trainer)
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.restore()

    def restore(self) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

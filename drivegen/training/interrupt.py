"""Ctrl-C and SIGTERM: the step ends, the state is saved, and the exit status says which it was."""

from __future__ import annotations

import signal
from typing import Any

import pytorch_lightning as pl

from drivegen.support.signals import STATUS
from drivegen.training.checkpoint import Checkpoints
from drivegen.training.processes import greatest


class StopOnSignal(pl.Callback):
    """Stops after the current optimiser step, at once before the first and after the last; a second Ctrl-C stops at once.

    Signals are handled from `with stop:` on, which ends quietly when a signal ended the block. In a Trainer's callbacks it
    comes after those that complete a step, and before those that take long.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints, self.received, self.broken_off = checkpoints, 0, False
        self._before: dict[int, Any] = {}
        self._training = self._ending = False
        self._step = -1

    @property
    def status(self) -> int:
        """Exit status: 0 where no signal came."""
        return STATUS[self.received] if self.received else 0

    def __enter__(self) -> StopOnSignal:
        self._before = {number: signal.signal(number, self._receive) for number in STATUS}
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        return self.broken_off and isinstance(error, (KeyboardInterrupt, SystemExit))  # Lightning makes an exit(1) of the first

    def _receive(self, number: int, frame: Any) -> None:
        # A second SIGTERM says nothing new: `timeout`, for one, sends it to the process and again to its group.
        first, self.received = not self.received, self.received or number
        at_once = not self._training if first else number == signal.SIGINT and not self._ending
        if at_once:
            self.broken_off = True
            raise KeyboardInterrupt

    def ends_at_once(self) -> None:
        """Declare the last step saved: from now on a signal ends the work at once, and cleaning up is not interrupted."""
        self._training, self._ending = False, True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has put its own handlers in by now: SIGTERM would raise in the middle of a step.
        for number in self._before:
            signal.signal(number, self._receive)
        self._training, self._step = True, trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        whole, self._step = trainer.global_step != self._step, trainer.global_step
        if whole:  # all processes end after the same step, whichever of them was told to
            self.received = int(greatest(self.received, trainer.strategy.root_device))
        if self.received and whole:
            self.checkpoints.save(trainer)
            trainer.should_stop = True

"""Progress: a bar with loss and time left on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl

from drivegen.support.progress import is_shown, progress


class Lines(pl.Callback):
    """Prints ``step 200/10000 loss 0.123 0.42 s per step 1:08:36 left``, for logs."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._losses: list[Any] = []
        self._since = (0, 0.0)
        self._step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._since, self._step = (trainer.global_step, time.monotonic()), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._losses.append(outputs["loss"].detach())
        step = trainer.global_step
        if step == self._step:
            return
        self._step = step
        if step % self.every and step != trainer.max_steps:
            return
        pace = (time.monotonic() - self._since[1]) / max(1, step - self._since[0])
        loss = sum(float(x) for x in self._losses) / len(self._losses) * trainer.accumulate_grad_batches
        left = timedelta(seconds=round(pace * (trainer.max_steps - step)))
        print(f"step {step}/{trainer.max_steps}  loss {loss:.4f}  {pace:.3f} s per step  {left} left", flush=True)
        self._losses, self._since = [], (step, time.monotonic())


class Bar(pl.Callback):
    """Reports optimiser steps and the loss of the last batch as progress."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._advance: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._advance = self._open.enter_context(progress("training", trainer.max_steps, "steps", done=trainer.global_step))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = float(outputs["loss"].detach()) * trainer.accumulate_grad_batches
        self._advance(to=trainer.global_step, note=f"loss {loss:.4f}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._open.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._open.close()


def shown_by(every: int) -> pl.Callback:
    """Return the callback that shows a training's progress: a bar where progress is reported, else a line every so many
    steps.
    """
    return Bar() if is_shown() else Lines(every)

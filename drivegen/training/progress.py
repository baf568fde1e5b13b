"""Progress: a bar with loss and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl


class Lines(pl.Callback):
    """Prints ``step 200/10000  loss 0.123  0.42 s a step  1:08:36 left``, for logs."""

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
        print(f"step {step}/{trainer.max_steps}  loss {loss:.4f}  {pace:.3f} s a step  {left} left", flush=True)
        self._losses, self._since = [], (step, time.monotonic())


def progress(every: int) -> pl.Callback:
    """Return what shows progress where the output goes."""
    if sys.stdout.isatty():
        from pytorch_lightning.callbacks import RichProgressBar

        return RichProgressBar()
    return Lines(every)

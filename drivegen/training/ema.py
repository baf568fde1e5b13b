"""A moving average of the trained parameters, as a Lightning callback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from drivegen.support.errors import InputError


class EMA(pl.Callback):
    """Keeps decay·average + (1 − decay)·parameter of what a module names (`averaged`); the state is in the checkpoint.

    The decay rises from 0.1 as (1 + n) / (10 + n), so that the initial values are forgotten soon.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.average: dict[str, torch.Tensor] = {}
        self._moved = False

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if not self.average:
            self.average = {name: p.detach().clone() for name, p in pl_module.averaged()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.average = {name: v.to(pl_module.device) for name, v in self.average.items()}
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._has_moved)  # not called in accumulated batches and skipped steps

    def _has_moved(self, *_: Any) -> None:
        self._moved = True

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._moved:
            return
        self._moved = False
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        parameters = dict(pl_module.averaged())
        torch._foreach_lerp_(list(self.average.values()), [parameters[name].detach() for name in self.average], 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        return {"average": dict(self.average), "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the averages."""
        if self.average and state_dict["average"].keys() != self.average.keys():
            raise InputError("the checkpoint's moving average is of other parameters than those that train")
        self.average, self.updates = dict(state_dict["average"]), int(state_dict["updates"])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Replace the parameters by the average within the block."""
        parameters = dict(module.named_parameters())
        kept = {name: parameters[name].detach().clone() for name in self.average}
        self._copy(parameters, self.average)
        try:
            yield
        finally:
            self._copy(parameters, kept)

    @staticmethod
    @torch.no_grad()
    def _copy(parameters: dict[str, nn.Parameter], values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            parameters[name].copy_(value)

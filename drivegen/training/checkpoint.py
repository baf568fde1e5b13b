"""Checkpoints: whole or not at all, plain tensors only, and refused when they do not belong to the run."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from drivegen.support import files
from drivegen.support.errors import InputError
from drivegen.training.config import differences

FREE = (
    "preview", "data.workers", "data.cache", "output", "sampling", "save_dtype", "save_shard_mb",
    "train.checkpoint_every", "train.keep_checkpoints", "train.log_every",
)  # fmt: skip
"""Settings that may change when a run is resumed: none of them changes what is learned."""


class AtomicIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written to a temporary file, synced, and put in place."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        files.write_atomically(path, buffer.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return read(Path(path))


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint of plain tensors and values; raises InputError when it is missing, damaged or holds anything else."""
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path} to resume from")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and EOF errors for damaged and hostile files alike
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} was refused: it is damaged or holds more than plain tensors ({reason})") from error
    if not isinstance(state, dict) or "global_step" not in state or "state_dict" not in state:
        raise InputError(f"{path} is not a training checkpoint")
    return state


def check_config(checkpoint: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> None:
    """Raise InputError that shows the difference when a checkpoint was made with settings that change what is learned."""
    saved = checkpoint.get("drivegen_config")
    if saved is None:
        raise InputError(f"{path} was not written by `drivegen train`; it has no config to compare with")
    # A longer run: the schedule is that of the new length, from where the old one stands.
    free = (*FREE, "train.steps") if config["train"]["steps"] > checkpoint["global_step"] else FREE
    changed = [d for d in differences(saved, config) if not re.match(rf"({'|'.join(map(re.escape, free))})[.:\[]", d)]
    if changed:
        shown = "; ".join(changed)
        raise InputError(f"the config is not the one that {path} was made with: {shown}; use the old one, or start anew")


class Checkpoints(pl.Callback):
    """Writes ``last.ckpt`` and ``step-N.ckpt`` every N steps, keeping the newest few, with the config inside."""

    def __init__(self, folder: Path, every: int, keep: int, config: Mapping[str, Any]) -> None:
        self.folder, self.every, self.keep, self.config = folder, every, keep, dict(config)
        self._saved = -1

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["drivegen_config"] = self.config

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0 and trainer.global_step != self._saved:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> Path:
        """Write the present state as ``last.ckpt``, and under its step."""
        last = self.folder / "last.ckpt"
        if self._saved == trainer.global_step and last.is_file():
            return last
        self._saved = trainer.global_step
        trainer.save_checkpoint(last)
        if trainer.is_global_zero:
            _link(last, self.folder / f"step-{self._saved:08d}.ckpt")
            for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
                old.unlink()
        return last


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, so that it is written once; replacing the first name leaves the second alone."""
    temporary = files.unforeseen(target)
    os.link(source, temporary)
    os.replace(temporary, target)

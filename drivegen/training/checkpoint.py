"""Checkpoints of a run: when they are written, how many are kept, and whether one belongs to the run that is resumed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from drivegen.support import files, strict_yaml
from drivegen.support.errors import InputError
from drivegen.training.checkpoint_file import AtomicIO, is_sealed, read
from drivegen.training.config import Config
from drivegen.training.plain_config import differences, to_dict

__all__ = ["FREE", "AtomicIO", "Checkpoints", "check_config", "is_sealed", "read"]

FREE = (
    "preview", "validation", "logger", "data.workers", "data.cache", "output", "sampling", "save_dtype", "save_shard_mb",
    "trainer", "train.checkpoint_every", "train.keep_checkpoints", "train.log_every",
)  # fmt: skip
"""Settings that may change when a run is resumed: none of them changes what is learned."""


def check_config(checkpoint: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> None:
    """Raise InputError showing the difference when a checkpoint was made with other settings that affect training.

    Args:
        checkpoint: its content.
        config: the present settings as plain values.
        path: of the checkpoint, for the error.
    """
    saved = checkpoint.get("drivegen_config")
    if saved is None:
        raise InputError(f"{path} was not written by `drivegen train`; it has no config to compare with")
    saved = to_dict(strict_yaml.build(Config, saved, f"the config in {path}"))  # with the defaults of settings that came since
    before, now = (plain["trainer"]["devices"] * plain["trainer"]["num_nodes"] for plain in (saved, config))
    if before != now:
        raise InputError(
            f"{path} was written by {before} processes, and trainer.devices × trainer.num_nodes is {now} here: its position in"
            f" the data and its seeds are those of {before}; go on with {before}, or start anew"
        )
    # A longer run: the schedule is that of the new length, from where the old one stands.
    free = (*FREE, "train.steps") if config["train"]["steps"] > checkpoint["global_step"] else FREE
    changed = [d for d in differences(saved, config) if not re.match(rf"({'|'.join(map(re.escape, free))})[.:\[]", d)]
    if changed:
        shown = "; ".join(changed)
        raise InputError(f"the config is not the one that {path} was made with: {shown}; use the old one, or start anew")


class Checkpoints(pl.Callback):
    """Writes ``last.ckpt`` and ``step-N.ckpt`` every N steps, keeping the newest few.

    Args:
        folder: where they are written.
        every: steps between two of them.
        keep: how many of the numbered ones stay.
        config: plain values that are kept inside.
    """

    carries_out_settings = True

    def __init__(self, folder: Path, every: int, keep: int, config: Mapping[str, Any]) -> None:
        self.folder, self.every, self.keep, self.config = folder, every, keep, dict(config)
        self.frames = ""
        """Digest of the frames that are trained on, known once the data are open."""
        self._saved = -1

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["drivegen_config"], checkpoint["frames"] = self.config, self.frames

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0 and trainer.global_step != self._saved:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> Path:
        """Write the current state as ``last.ckpt``, and under its step."""
        last = self.folder / "last.ckpt"
        # Whether the file is there is asked of one process alone, so that all of them save or none does.
        if self._saved == trainer.global_step and trainer.strategy.broadcast(last.is_file()):
            return last
        self._saved = trainer.global_step
        trainer.save_checkpoint(last)
        if trainer.is_global_zero:
            _link(last, self.folder / f"step-{self._saved:08d}.ckpt")
            for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
                old.unlink()
        return last


def _link(source: Path, target: Path) -> None:
    """Link a file under another name, so that it is written once; replacing the first leaves the other alone."""
    temporary = files.unforeseen(target)
    try:
        os.link(source, temporary)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write the checkpoint {target}: {error.strerror or error}; {source} is whole") from error

"""Trainings of a tiny module, whole, or broken off and resumed, for batteries."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from drivegen.training.ema import EMA
from drivegen.training.frames import TrainBatch
from drivegen.training.module import DriveModule


def trained(
    module: DriveModule, batch: TrainBatch, steps: int, start: Mapping[str, Any] | None = None
) -> tuple[DriveModule, dict[str, Any]]:  # fmt: skip
    """Train on one batch, with a moving average; returns the module and its checkpoint.

    Args:
        module: changed in place.
        batch: of every step.
        steps: after which it ends, counted from the beginning of the training.
        start: a checkpoint to go on from; None begins anew.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_steps=steps, accelerator="cpu", devices=1, precision="32-true", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[EMA(0.9)], default_root_dir=folder,
        )  # fmt: skip
        path = None
        if start is not None:
            path = Path(folder) / "start.ckpt"
            torch.save(dict(start), path)
        loader: DataLoader[Any] = DataLoader([batch] * 8, batch_size=None)  # type: ignore[arg-type]
        trainer.fit(module, train_dataloaders=loader, ckpt_path=path, weights_only=False)
        file = Path(folder) / "end.ckpt"
        trainer.save_checkpoint(file)
        return module, torch.load(file, weights_only=False)


def differences(whole: Mapping[str, Any], resumed: Mapping[str, Any]) -> list[str]:
    """Name what is not the same, bit for bit, in two checkpoints that should be.

    Args:
        whole: of an unbroken run.
        resumed: of a resumed one.
    """
    found: list[str] = []
    for part in ("state_dict", "optimizer_states", "callbacks", "objective"):
        a, b = _leaves(whole.get(part), part), _leaves(resumed.get(part), part)
        found += [key for key in a.keys() | b.keys() if not _same(a.get(key), b.get(key))]
    return sorted(found)


def _leaves(value: Any, path: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {k: v for key, item in value.items() for k, v in _leaves(item, f"{path}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, item in enumerate(value) for k, v in _leaves(item, f"{path}/{i}").items()}
    return {path: value}


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b)

"""Training in fp16: weights stay in float32, the loss is scaled, a step that overflows is skipped and nothing counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision

from drivegen import training
from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.objectives.noise import Noise
from drivegen.support.errors import InputError
from drivegen.training.config import TrainConfig
from drivegen.training.datamodule import DriveData
from drivegen.training.ema import EMA
from drivegen.training.module import DriveModule
from tests.tiny_models import tiny_backbone
from tests.training.conftest import SIZE

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False,
}  # fmt: skip


class Counting(Noise):
    """The plain loss, which counts the steps that it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.told = 0

    def after(self, host: Host) -> None:
        self.told += 1


class Scaled(pl.Callback):
    """Keeps what each step left behind."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []
        self.scales: list[float] = []
        self.told: list[int] = []
        self.averaged: list[int] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = torch.cat([p.detach().flatten().clone() for _, p in pl_module.trained()])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.weights.append(torch.cat([p.detach().flatten().clone() for _, p in pl_module.trained()]))
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.scales.append(scaler.get_scale() if scaler else 1.0)
        self.told.append(pl_module.objective.told)
        self.averaged.append(next(c for c in trainer.callbacks if isinstance(c, EMA)).updates)


def train(city: Path, precision: str, steps: int, scale: float = 2.0**10, **fit: Any) -> tuple[Scaled, pl.Trainer]:
    """Train a tiny model on a CPU, in fp16 by torch's scaler for CPUs, which Lightning takes when it is given one."""
    torch.manual_seed(0)
    host = Host(tiny_backbone(), {"camera": registry.load("camera")()})
    chosen: dict[str, Any] = {"precision": precision, "unet": True, "ema": 0.5, "images": 2}
    settings = TrainConfig(steps=4, warmup=0, lr=1e-3, **chosen)
    module, kept = DriveModule(host, settings, objective=Counting()), Scaled()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, backoff_factor=2.0**-100)
    half: dict[str, Any] = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]} if precision == "fp16" else {}
    trainer = pl.Trainer(**QUIET, **half, max_steps=steps, callbacks=[EMA(0.5), kept])
    trainer.fit(module, datamodule=DriveData([city], host, size=SIZE, images=2, val_scenes=["scene-2"]), **fit)
    return kept, trainer


@pytest.mark.slow
def test_a_step_that_overflows_is_skipped_and_a_resumed_run_is_the_unbroken_one(city: Path, tmp_path: Path) -> None:
    # Gradients of 2**110 times their size are infinite: the first step is skipped, and the scale falls to 2**10.
    whole, trainer = train(city, "fp16", 3, scale=2.0**110)
    assert whole.scales == [2.0**10] * 3
    assert whole.told == whole.averaged == [0, 1, 2]
    assert {p.dtype for p in trainer.lightning_module.parameters()} == {torch.float32}
    _, broken = train(city, "fp16", 2, scale=2.0**110)
    broken.save_checkpoint(tmp_path / "two.ckpt")
    on, _ = train(city, "fp16", 3, scale=2.0**30, ckpt_path=tmp_path / "two.ckpt")
    assert (on.scales, on.averaged) == (whole.scales[2:], whole.averaged[2:])
    assert torch.equal(on.weights[-1], whole.weights[-1])


@pytest.mark.slow
def test_a_step_in_fp16_is_near_one_in_float32(city: Path) -> None:
    (half, _), (full, _) = (train(city, precision, 1) for precision in ("fp16", "32"))
    moved, wanted = (kept.weights[0] - kept.start for kept in (half, full))
    assert float((moved - wanted).norm() / wanted.norm()) < 0.2  # Adam's first step is a sign for each weight


def test_fp16_on_a_cpu_is_refused_and_not_computed_in_another_format(city: Path, config: Path) -> None:
    with pytest.raises(InputError, match=r"train.precision = 'fp16' is for a GPU, and this run is on a CPU; use bf16 or 32"):
        training.run(config, ["train.precision=float16"])
    module = DriveModule(Host(tiny_backbone(), {}), TrainConfig(steps=1, precision="fp16", unet=True))
    trainer = pl.Trainer(**QUIET, precision="16-mixed", max_steps=1)
    with pytest.raises(InputError, match="on a CPU Lightning computes in bf16 when it is asked for fp16"):
        trainer.fit(module, datamodule=DriveData([city], module.host, size=SIZE))

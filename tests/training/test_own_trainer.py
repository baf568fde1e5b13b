"""A Trainer of one's own: what it says is done, or refused in a sentence before data are read."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger

from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.support.errors import InputError
from drivegen.training.config import TrainConfig
from drivegen.training.datamodule import DriveData
from drivegen.training.ema import EMA
from drivegen.training.module import DriveModule
from drivegen.training.own_trainer import check_trainer
from tests.tiny_models import tiny_backbone
from tests.training.conftest import SIZE

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip


def host_of() -> Host:
    torch.manual_seed(0)
    return Host(tiny_backbone(), {"camera": registry.load("camera")()})


def module_of(**settings: Any) -> DriveModule:
    return DriveModule(host_of(), TrainConfig(**{"steps": 2, "warmup": 0, "precision": "32", **settings}))


class Unread(pl.LightningDataModule):
    """Data that no refusal may wait for."""

    images = 12

    def setup(self, stage: str | None = None) -> None:
        pytest.fail("data were read")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "settings", "said"),
    [
        ({"precision": "bf16-true"}, {}, "precision is 'bf16-true'"),
        ({"precision": "16-true"}, {"precision": "fp16"}, "precision is '16-true'"),
        ({"precision": "64-true"}, {}, "precision is '64-true'"),
        ({"precision": "bf16-mixed"}, {}, "settings.precision='bf16'"),
        ({}, {"precision": "bf16"}, "precision='bf16-mixed'"),
        ({"accumulate_grad_batches": 2}, {"accumulate": 4}, "accumulate_grad_batches=4"),
        ({}, {"accumulate": 4}, "accumulate_grad_batches=4"),
        ({"max_steps": 3}, {"schedule": "cosine"}, "max_steps = 3 goes beyond settings.steps = 2"),
        ({}, {"ema": 0.9}, r"callbacks=\[EMA\(0.9\)\]"),
        ({}, {"images": 5}, "images = 5, and the data have images=12"),
        ({}, {"threads": 2}, "settings.threads"),
        ({}, {"checkpoint_every": 7}, "ModelCheckpoint"),
    ],
)
def test_what_would_be_ignored_is_refused_before_data_are_read(trainer: Any, settings: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        pl.Trainer(**QUIET, **{"max_steps": 1, **trainer}).fit(module_of(**settings), datamodule=Unread())


def test_a_strategy_that_shards_weights_is_refused() -> None:
    class FSDPStrategy:
        """What Lightning makes on GPUs alone."""

    trainer: Any = SimpleNamespace(precision="32-true", strategy=FSDPStrategy())
    with pytest.raises(InputError, match="FSDPStrategy is not supported"):
        check_trainer(trainer, TrainConfig(steps=1, precision="32"))


@pytest.mark.parametrize("epochs", [{"max_epochs": 2}, {"max_epochs": -1}, {"max_steps": -1, "max_time": "00:00:10:00"}])
def test_a_cosine_ends_with_the_trainer_whatever_says_where_that_is(city: Path, epochs: Any) -> None:
    module = module_of(schedule="cosine", steps=2)
    with pytest.raises(InputError, match="cosine"):
        pl.Trainer(**QUIET, **epochs).fit(module, datamodule=DriveData([city], module.host, size=SIZE))


def test_data_that_end_before_the_trainer_are_refused(city: Path) -> None:
    module = module_of()
    data = DriveData([city], module.host, size=SIZE, batches=3)
    with pytest.raises(InputError, match=r"batches=3.*max_steps = 2 needs 4"):
        pl.Trainer(**QUIET, max_steps=2, accumulate_grad_batches=2).fit(module, datamodule=data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "limit", "algorithm"),
    [({}, 0.5, "norm"), ({"gradient_clip_val": 1e-3}, 1e-3, "norm"), ({"gradient_clip_val": 0.0}, math.inf, "norm"),
     ({"gradient_clip_val": 1e-5, "gradient_clip_algorithm": "value"}, 1e-5, "value")],
)  # fmt: skip
def test_a_trainer_s_clipping_is_done_in_place_of_the_settings(city: Path, asked: Any, limit: float, algorithm: str) -> None:
    seen: list[torch.Tensor] = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            seen[:] = [p.grad.clone() for _, p in pl_module.trained()]  # before clipping

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            self.clipped = [p.grad.clone() for _, p in pl_module.trained()]

    module, watch = module_of(clip=0.5), Watch()
    pl.Trainer(**QUIET, max_steps=1, callbacks=[watch], **asked).fit(
        module, datamodule=DriveData([city], module.host, size=SIZE)
    )
    expected = [torch.nn.Parameter(g.clone()) for g in seen]
    for parameter, gradient in zip(expected, seen, strict=True):
        parameter.grad = gradient.clone()
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(expected, limit)
    else:
        torch.nn.utils.clip_grad_norm_(expected, limit)
    assert any(bool(g.abs().max() > 0) for g in seen)
    for found, wanted in zip(watch.clipped, expected, strict=True):
        torch.testing.assert_close(found, wanted.grad)


@pytest.mark.slow
def test_callbacks_a_logger_the_moving_average_and_accumulation_are_honoured(city: Path, tmp_path: Path) -> None:
    module, ema = module_of(ema=0.5, accumulate=2), EMA(0.5)
    data = DriveData([city], module.host, size=SIZE, val_scenes=["scene-2"], val_frames=1)
    stopping = pl.callbacks.EarlyStopping("val_loss", patience=5)
    saving = pl.callbacks.ModelCheckpoint(tmp_path / "own", monitor="val_loss", save_last=True)
    quiet = {**QUIET, "enable_checkpointing": True, "logger": CSVLogger(tmp_path, "log", "")}
    trainer = pl.Trainer(
        **quiet, max_steps=2, accumulate_grad_batches=2, callbacks=[ema, stopping, saving], log_every_n_steps=1
    )
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 2
    assert ema.updates == 2
    assert float(trainer.callback_metrics["val_loss"]) > 0
    assert "val_loss" in (tmp_path / "log" / "metrics.csv").read_text()
    saved = torch.load(tmp_path / "own" / "last.ckpt", weights_only=True)
    assert saved["frozen"] == module.frozen_digests()
    assert saved["state_dict"].keys() == dict(module.trained()).keys()
    again = module_of(ema=0.5, accumulate=2)
    next(again.host.backbone.vae.parameters()).data.add_(1)
    with pytest.raises(InputError, match="other frozen parts than those here: vae"):
        pl.Trainer(**QUIET, max_steps=3, accumulate_grad_batches=2, callbacks=[EMA(0.5)]).fit(
            again, datamodule=DriveData([city], again.host, size=SIZE), ckpt_path=tmp_path / "own" / "last.ckpt"
        )

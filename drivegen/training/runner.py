"""A training run from its config: checks first, then the training, then a model folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytorch_lightning as pl
import torch

from drivegen.support import strict_yaml
from drivegen.support.errors import InputError
from drivegen.support.locks import locked_folder
from drivegen.training import checkpoint as checkpoints
from drivegen.training import config as configs
from drivegen.training.config import Config
from drivegen.training.ema import EMA
from drivegen.training.folder import resume_from
from drivegen.training.frozen import check_frozen, frames_digest
from drivegen.training.interrupt import StopOnSignal
from drivegen.training.loggers import check_loggers, make_loggers
from drivegen.training.order import explained
from drivegen.training.own_trainer import PRECISIONS
from drivegen.training.places import check_places, place
from drivegen.training.plain_config import to_dict
from drivegen.training.preview import Preview
from drivegen.training.processes import check_processes, leaving, rank, strategy
from drivegen.training.progress import shown_by
from drivegen.training.stages import FirstStage, ModelStage
from drivegen.training.validation import Validation


def run(path: Path, overrides: Sequence[str], resume: str | None) -> int:
    """Train as a config says; see `drivegen.training.run`.

    Args:
        path: the YAML file.
        overrides: ``key=value`` settings that replace the file's.
        resume: None, ``auto`` or a checkpoint file.
    """
    config = configs.load(path, overrides)
    _check_machine(config)
    check_places(config)
    check_loggers(config)
    check_processes(config)
    output, first = place(config.output, "output"), rank(config) == 0
    # The first process writes all files of the run, and holds its folder for the others.
    with locked_folder(output) if first else nullcontext(output) as folder, leaving(), _external_causes(folder):
        start = resume_from(folder, resume) if first or resume is not None else None
        if start is not None:
            checkpoints.check_config(checkpoints.read(start), to_dict(config), start)
        if start is not None and first:
            bare = "" if checkpoints.is_sealed(start) else "; it carries no digest, so damage to it would not be seen"
            print(f"going on from {start}{bare}", flush=True)
        elif resume == "auto" and first:
            print(f"{folder} has no checkpoint yet: a new run begins", flush=True)
        if config.train.threads is not None:
            torch.set_num_threads(config.train.threads)
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        stage = FirstStage(config) if config.stage == "autoencoder" else ModelStage(config)
        return _fit(config, stage, folder, start)


def _check_machine(config: Config) -> None:
    """Raise InputError for a setting that this machine does not support."""
    if config.train.device == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device = 'cuda', and there is no such GPU here; use auto or cpu")
    on_cpu = config.train.device == "cpu" or not torch.cuda.is_available()
    if config.train.precision == "fp16" and on_cpu:
        raise InputError("train.precision = 'fp16' is for a GPU, and this run is on a CPU; use bf16 or 32")
    most = max(64, 4 * (os.cpu_count() or 1))
    if (config.train.threads or 0) > most:
        raise InputError(f"train.threads = {config.train.threads} on a machine of {os.cpu_count()} processors; at most {most}")


@contextmanager
def _external_causes(folder: Path) -> Iterator[None]:
    """Describe an external cause of a run's end in a sentence: a killed worker, no memory, a full disk."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise InputError(f"the run in {folder} ends at {where}: {error.strerror or error}; its checkpoints are kept") from error
    except (RuntimeError, MemoryError) as error:
        if (told := explained(error)) is None:
            raise
        raise told from error


def _fit(config: Config, stage: ModelStage | FirstStage, folder: Path, start: Path | None) -> int:
    train = config.train
    ema = EMA(train.ema) if train.ema else None
    saver = checkpoints.Checkpoints(folder, train.checkpoint_every, train.keep_checkpoints, to_dict(config))
    stop = StopOnSignal(saver)
    callbacks: list[pl.Callback] = [ema] if ema is not None else []
    first = rank(config) == 0
    callbacks += [*([shown_by(train.log_every)] if first else []), saver, stop]
    if config.validation.every:
        callbacks.append(Validation(config.validation.every, stage.data.val_dataloader, ema))
    if config.preview.every:
        callbacks.append(Preview(folder / "previews", config.preview.every, stage.draw, ema))
    with stop:
        stage.prepare()
        sources = stage.data.open()
        for setting in ("preview", "validation"):
            if getattr(config, setting).every and not sources.val:
                raise InputError(f"{setting}.every is set, but data.val_scenes holds no scene out to look at")
        stage.check()
        if first and isinstance(stage, ModelStage):
            for line in stage.data.described():
                print(line, flush=True)
        saver.frames = frames_digest(sources.train)
        if start is not None:
            _check_ground(stage, saver.frames, start)
        stage.data.setup()
        trainer = trainer_for(config, folder, callbacks)
        trainer.fit(stage.module, datamodule=stage.data, ckpt_path=None if start is None else str(start))
        saver.save(trainer)
        stop.ends_at_once()
        if not stop.received and first:
            with ema.applied(stage.module) if ema is not None else nullcontext():
                print(f"wrote {stage.write(folder, trainer.global_step)}", flush=True)
    if stop.broken_off:
        print("stopped at once, in the middle of something; --resume auto goes on from the last checkpoint", flush=True)
    elif stop.received and first:
        print(f"stopped at step {trainer.global_step}; go on with --resume auto", flush=True)
    # The others end well where all end together: their launcher takes anything else for a failure.
    return stop.status if first or stop.broken_off else 0


def _check_ground(stage: ModelStage | FirstStage, frames: str, start: Path) -> None:
    """Raise InputError where a checkpoint was trained with another base, plugin or data than the current ones."""
    state = checkpoints.read(start)
    saved, now = state.get("frozen"), stage.module.frozen_digests()
    if saved is None:
        print(f"{start} does not say which weights and frames it stands on, so they are taken to be the same", flush=True)
        return
    check_frozen({**saved, "frames": state.get("frames")}, {**now, "frames": frames}, start)


def export(path: Path, out: Path) -> Path:
    """See `drivegen.training.export`."""
    state = checkpoints.read(path)
    if "drivegen_config" not in state:
        raise InputError(f"{path} was not written by `drivegen train`; it does not say what its weights belong to")
    config = strict_yaml.build(Config, state["drivegen_config"])
    if config.stage != "model":
        raise InputError(f"{path} is a first stage's; its network is written to the run's vae/ at the end")
    stage = ModelStage(config)
    check_frozen(state.get("frozen"), stage.module.frozen_digests(), path)
    stage.module.on_load_checkpoint(state)
    averages = [v["average"] for k, v in state.get("callbacks", {}).items() if k.startswith("EMA")]
    parameters = dict(stage.module.trained())
    with torch.no_grad():
        for name, value in {**state["state_dict"], **(averages[0] if averages else {})}.items():
            parameters[name].copy_(value)
    return stage.write(out, int(state["global_step"]))


def trainer_for(config: Config, folder: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Make the Trainer of a run.

    Args:
        config: its settings.
        folder: its output folder.
        callbacks: in the order in which they are called.
    """
    train = config.train
    bar = any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks)
    return pl.Trainer(
        max_steps=train.steps, max_epochs=-1, min_epochs=0, accelerator={"cuda": "gpu"}.get(train.device, train.device),
        devices=config.trainer.devices, num_nodes=config.trainer.num_nodes, strategy=strategy(config),
        use_distributed_sampler=False, precision=PRECISIONS[train.precision],  # type: ignore[arg-type]
        accumulate_grad_batches=train.accumulate, callbacks=callbacks,
        logger=make_loggers(config, folder) if rank(config) == 0 else False,
        log_every_n_steps=min(train.log_every, train.steps),
        plugins=[checkpoints.AtomicIO()], default_root_dir=folder, limit_val_batches=0, num_sanity_val_steps=0,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=bar,
    )  # fmt: skip

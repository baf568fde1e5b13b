"""A training run from its config: checks first, then the work, then a folder that opens."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image

from drivegen import lora
from drivegen.sampling.settings import Sampling
from drivegen.saved import model as models
from drivegen.support import files, strict_yaml
from drivegen.support.errors import InputError
from drivegen.support.locks import locked_folder
from drivegen.training import checkpoint as checkpoints
from drivegen.training import config as configs
from drivegen.training.build import build_first_stage, build_host
from drivegen.training.config import Config
from drivegen.training.ema import EMA
from drivegen.training.folder import resume_from
from drivegen.training.interrupt import StopOnSignal
from drivegen.training.preview import Preview, Rows
from drivegen.training.progress import shown_by

DTYPES = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
_PRECISION: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def run(path: Path, overrides: Sequence[str], resume: str | None) -> int:
    """See `drivegen.training.run`."""
    config = configs.load(path, overrides)
    if config.train.device == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device = 'cuda', and there is no such GPU here; use auto or cpu")
    with locked_folder(Path(config.output)) as folder:
        start = resume_from(folder, resume)
        if start is not None:
            checkpoints.check_config(checkpoints.read(start), configs.to_dict(config), start)
            print(f"going on from {start}", flush=True)
        elif resume == "auto":
            print(f"{folder} has no checkpoint yet: a new run begins", flush=True)
        if config.train.threads is not None:
            torch.set_num_threads(config.train.threads)
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        stage = FirstStage(config) if config.stage == "autoencoder" else ModelStage(config)
        return _fit(config, stage, folder, start)


def _fit(config: Config, stage: ModelStage | FirstStage, folder: Path, start: Path | None) -> int:
    train = config.train
    ema = EMA(train.ema) if train.ema else None
    saver = checkpoints.Checkpoints(folder, train.checkpoint_every, train.keep_checkpoints, configs.to_dict(config))
    stop = StopOnSignal(saver)
    callbacks: list[pl.Callback] = [ema] if ema is not None else []
    callbacks += [shown_by(train.log_every), saver, stop]
    if config.preview.every:
        callbacks.append(Preview(folder / "previews", config.preview.every, stage.draw, ema))
    trainer = trainer_for(config, folder, callbacks)
    with stop:
        if config.preview.every and not stage.data.open().val:
            raise InputError("preview.every is set, but data.val_scenes holds no scene out to look at")
        stage.data.setup()
        trainer.fit(stage.module, datamodule=stage.data, ckpt_path=None if start is None else str(start))
        saver.save(trainer)
        stop.ends_at_once()
        if not stop.received:
            with ema.applied(stage.module) if ema is not None else nullcontext():
                print(f"wrote {stage.write(folder, trainer.global_step)}", flush=True)
    if stop.broken_off:
        print("stopped at once, in the middle of something; --resume auto goes on from the last checkpoint", flush=True)
    elif stop.received:
        print(f"stopped at step {trainer.global_step}; go on with --resume auto", flush=True)
    return stop.status


def export(path: Path, out: Path) -> Path:
    """See `drivegen.training.export`."""
    state = checkpoints.read(path)
    if "drivegen_config" not in state:
        raise InputError(f"{path} was not written by `drivegen train`; it does not say what its weights belong to")
    config = strict_yaml.build(Config, state["drivegen_config"])
    if config.stage != "model":
        raise InputError(f"{path} is a first stage's; its network is written to the run's vae/ at the end")
    stage = ModelStage(config)
    stage.module.on_load_checkpoint(state)
    averages = [v["average"] for k, v in state.get("callbacks", {}).items() if k.startswith("EMA")]
    parameters = dict(stage.module.trained())
    with torch.no_grad():
        for name, value in {**state["state_dict"], **(averages[0] if averages else {})}.items():
            parameters[name].copy_(value)
    return stage.write(out, int(state["global_step"]))


def trainer_for(config: Config, folder: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Make the Trainer of a run."""
    from pytorch_lightning.loggers import TensorBoardLogger

    train = config.train
    board = files.refuse_link(folder / "tensorboard")
    bar = any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks)
    return pl.Trainer(
        max_steps=train.steps, max_epochs=-1, min_epochs=0, accelerator={"cuda": "gpu"}.get(train.device, train.device),
        devices=1, precision=_PRECISION[train.precision], accumulate_grad_batches=train.accumulate, callbacks=callbacks,
        logger=TensorBoardLogger(folder, board.name, ""), log_every_n_steps=min(train.log_every, train.steps),
        plugins=[checkpoints.AtomicIO()], default_root_dir=folder,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=bar,
    )  # fmt: skip


class ModelStage:
    """Plugins, UNet and text encoder."""

    def __init__(self, config: Config) -> None:
        from drivegen.training.datamodule import DriveData
        from drivegen.training.module import DriveModule

        self.config = config
        self.host = build_host(config)
        self.sampling = Sampling.from_dict(config.sampling, "sampling")
        self.model = models.Model(self.host, self.sampling, config.data.size)
        plugins, train = config.plugins, config.train
        drop = {name: settings.drop for name, settings in plugins.items()}
        trained = [name for name, settings in plugins.items() if settings.train]
        self.module = DriveModule(self.host, train, drop, config.drop_groups, trained)
        data = config.data
        self.data = DriveData(
            data.roots, self.host, size=data.size, images=train.images, version=data.version, val_scenes=data.val_scenes,
            max_frames=data.max_frames, cache=data.cache, workers=data.workers, seed=train.seed,
            batches=train.steps * train.accumulate,
        )  # fmt: skip

    def draw(self) -> Rows:
        """Draw the pictures of held-out frames and, below each row, what the model makes of the same conditions."""
        from drivegen.pipeline.pipeline import Pipeline
        from drivegen.scene.pictures import load_image

        rows: list[list[Image.Image]] = []
        pipe = Pipeline(self.model)
        given = {name: self.host.plugin(name).training_input for name in self.host.plugins}
        inputs = {name: value for name, value in given.items() if value is not None}
        for frame in held_out(self.data, self.config):
            rows.append([load_image(camera) for camera in frame.cameras])
            rows.append(list(pipe(frame, seed=self.config.preview.seed, inputs=inputs).pictures().values()))
        return rows

    def write(self, folder: Path, step: int) -> Path:
        """Save the LoRA, and the model folder without it where more than a LoRA was trained."""
        about = {"steps": step, "training": configs.to_dict(self.config)}
        dtype = DTYPES[self.config.save_dtype]
        if self.config.lora is not None:
            file = lora.save(lora.extract(self.host), files.make_subfolder(folder, "lora"), dtype)
            if not any(settings.train for settings in self.config.plugins.values()):
                return file
            print(f"wrote {file}", flush=True)
        shard = None if self.config.save_shard_mb is None else self.config.save_shard_mb * 10**6
        return models.save(self.host, folder / "model", self.sampling, dtype, self.config.data.size, about, shard)


class FirstStage:
    """The first stage."""

    def __init__(self, config: Config) -> None:
        from drivegen.training.first_stage.images import ImageData
        from drivegen.training.first_stage.module import FirstStageModule

        assert config.autoencoder is not None
        self.config, train, data = config, config.train, config.data
        self.vae = build_first_stage(config.autoencoder, train.seed)
        self.module = FirstStageModule(self.vae, train, config.autoencoder)
        self.data = ImageData(
            data.roots, size=data.size, images=train.images, version=data.version, val_scenes=data.val_scenes,
            max_frames=data.max_frames, workers=data.workers, seed=train.seed, batches=train.steps * train.accumulate,
        )  # fmt: skip

    def draw(self) -> Rows:
        """Draw held-out pictures and, below each row, their reconstructions."""
        from drivegen.pipeline.views import convert
        from drivegen.training.fill import to_unit
        from drivegen.training.first_stage.networks import reconstruct
        from drivegen.training.frames import pixels_of

        rows: list[list[Image.Image]] = []
        device = next(self.vae.parameters()).device
        for frame in held_out(self.data, self.config):
            pixels = to_unit(torch.from_numpy(pixels_of(frame))).to(device)
            rows += [convert(pixels, "pil"), convert(reconstruct(self.vae, pixels), "pil")]
        return rows

    def write(self, folder: Path, step: int) -> Path:
        """Standardise the latents, and save the network's folder."""
        from drivegen.backbones.networks import save_model
        from drivegen.training.first_stage.standardise import standardise

        assert self.data.dataset is not None
        self.vae.eval()
        standardise(self.vae, self.data.dataset)
        with files.replacing(folder / "vae") as new:
            save_model(self.vae, new, "diffusion_pytorch_model", DTYPES[self.config.save_dtype])
        return folder / "vae"


def held_out(data: Any, config: Config) -> list[Any]:
    """Return the preview's frames, spread over the scenes that are not trained on."""
    refs = data.sources.val
    count = min(config.preview.frames, len(refs))
    return [data.sources.frame(refs[i * len(refs) // count]) for i in range(count)]

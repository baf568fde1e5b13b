"""The two kinds of training: the model (plugins, UNet, text encoder) or the first stage; data, previews and results of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from drivegen import lora
from drivegen.catalog import objectives
from drivegen.sampling import Sampling
from drivegen.saved import model as models
from drivegen.support import files, runtime
from drivegen.support.errors import InputError
from drivegen.training import config as configs
from drivegen.training.build import build_first_stage, build_model
from drivegen.training.config import Config
from drivegen.training.order import spread
from drivegen.training.preview import Rows


class ModelStage:
    """Training of plugins, UNet and text encoder."""

    def __init__(self, config: Config) -> None:
        from drivegen.training.datamodule import DriveData
        from drivegen.training.module import DriveModule

        self.config = config
        self.model = build_model(config)
        self.host = self.model.host
        plugins, train = config.plugins, config.train
        drop = {name: settings.drop for name, settings in plugins.items()}
        trained = [name for name, settings in plugins.items() if settings.train]
        self.objective = objectives.make(config.objective.kind, config.objective.options)
        self.module = DriveModule(self.host, train, drop, config.drop_groups, trained, self.objective)
        self.sampling  # noqa: B018  # what is saved with the model is refused now, not at the end
        data = config.data
        self.data = DriveData(
            data.roots, self.host, size=data.size, images=train.images, version=data.version, val_scenes=data.val_scenes,
            max_frames=data.max_frames, cache=None if data.cache is None else Path(data.cache).expanduser(),
            workers=data.workers, seed=train.seed, batches=train.steps * train.accumulate,
            val_frames=config.validation.frames, cameras=train.noise == "sphere", skip_missing=data.skip_missing,
            extras={name: Path(folder).expanduser() for name, folder in data.extras.items()},
        )  # fmt: skip

    @property
    def sampling(self) -> Sampling:
        """What the model is sampled with at this point of the training: the configuration's words, then the objective's, then
        the base's.
        """
        said = self.config.sampling
        asked = {name: value for name, value in self.objective.sampling().items() if name not in said}
        if "sampler" in said:
            asked.pop("sampler_options", None)  # of the objective's own sampler
        return self.model.sampling.replaced(**asked)

    def draw(self) -> Rows:
        """Draw the pictures of held-out frames and, below each row, those generated from the same conditions."""
        from drivegen.pipeline.pipeline import Pipeline
        from drivegen.scene.pictures import load_image

        rows: list[list[Image.Image]] = []
        pipe = Pipeline(replace(self.model, sampling=self.sampling))
        given = {name: self.host.plugin(name).training_input for name in self.host.plugins}
        for frame in held_out(self.data, self.config):
            rows.append([load_image(camera) for camera in frame.cameras])
            inputs = {name: value for name, value in given.items() if value is not None and name not in frame.extras}
            rows.append(list(pipe(frame, seed=self.config.preview.seed, inputs=inputs).pictures().values()))
        return rows

    def write(self, folder: Path, step: int) -> Path:
        """Save the LoRA, and the model folder without it where more than a LoRA was trained."""
        about = {"steps": step, "training": configs.to_dict(self.config)}
        dtype = runtime.parse_dtype(self.config.save_dtype)
        if self.config.lora is not None:
            file = lora.save(lora.extract(self.host), files.make_subfolder(folder, "lora"), dtype)
            if self.objective.sampling():
                print(f"the LoRA is sampled with {_options(self.sampling)}", flush=True)
            if not any(settings.train for settings in self.config.plugins.values()):
                return file
            print(f"wrote {file}", flush=True)
        shard = None if self.config.save_shard_mb is None else self.config.save_shard_mb * 10**6
        return models.save(self.host, folder / "model", self.sampling, dtype, self.config.data.size, about, shard)


def _options(sampling: Sampling) -> str:
    """Spell what a LoRA, whose file states no settings, is to be sampled with."""
    options = [f"--sampler-option {name}={value}" for name, value in sampling.sampler_options.items()]
    return " ".join([f"--sampler {sampling.sampler}", *options, f"--steps {sampling.steps} --guidance {sampling.guidance:g}"])


class FirstStage:
    """Training of the first stage."""

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
            val_frames=config.validation.frames, skip_missing=data.skip_missing,
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
        try:
            with files.replacing(folder / "vae") as new:
                save_model(self.vae, new, "diffusion_pytorch_model", runtime.parse_dtype(self.config.save_dtype))
        except OSError as error:
            raise InputError(f"cannot write the first stage to {folder / 'vae'}: {error.strerror or error}") from error
        return folder / "vae"


def held_out(data: Any, config: Config) -> list[Any]:
    """Return the preview's frames, spread over the held-out scenes."""
    return [data.sources.frame(ref) for ref in spread(data.sources.val, config.preview.frames)]

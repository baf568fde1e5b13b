"""The two kinds of training: the model (plugins, UNet, text encoder) or the first stage; data, previews and results of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from drivegen.catalog import objectives
from drivegen.sampling import Sampling
from drivegen.saved import model as models
from drivegen.saved.tuners import save as save_tuner
from drivegen.support import files, runtime
from drivegen.support.errors import InputError
from drivegen.training.build import build_first_stage, build_model
from drivegen.training.config import Config
from drivegen.training.order import spread
from drivegen.training.plain_config import to_dict
from drivegen.training.preview import Rows
from drivegen.training.prior import prior_pictures
from drivegen.training.prompts import Prompt

if TYPE_CHECKING:
    from drivegen.training.first_stage.redrawn import Redrawn

PROMPTS = 32
"""As many prompts are looked at for the words that are trained."""


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
        if self.objective.tells_prior and config.prior is None:
            raise InputError(
                f"objective {config.objective.kind} needs the group prior, pictures of what the model knows; give it"
            )
        if config.prior is not None and not self.objective.tells_prior:
            raise InputError(
                f"objective {config.objective.kind} does not tell a prior apart, as dreambooth does; leave prior out"
            )
        self.module = DriveModule(self.host, train, drop, config.drop_groups, trained, self.objective)
        self.sampling  # noqa: B018  # what is saved with the model is refused now, not at the end
        data, asked = config.data, self.objective.datasets
        if asked and asked != len(data.roots):
            raise InputError(
                f"objective {config.objective.kind} tells {asked} datasets apart, and data.roots has {len(data.roots)}; "
                "give as many, in the order of what they are for"
            )
        self.data = DriveData(
            data.roots, self.host, size=data.size, images=train.images, version=data.version, val_scenes=data.val_scenes,
            max_frames=data.max_frames, cache=None if data.cache is None else Path(data.cache).expanduser(),
            workers=data.workers, seed=train.seed, batches=train.steps * train.accumulate,
            val_frames=config.validation.frames, cameras=train.noise == "sphere", skip_missing=data.skip_missing,
            extras={name: Path(folder).expanduser() for name, folder in data.extras.items()},
            enrich=Prompt(data.prompt) if isinstance(data.prompt, str) else None,
            prompts=[Prompt(one) for one in data.prompt] if isinstance(data.prompt, tuple) else (), apart=bool(asked),
            prior=None if config.prior is None else Path(config.prior.folder).expanduser(),
            buckets=() if data.buckets is None else data.buckets.besides(data.size),
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

    def prepare(self) -> None:
        """Make the pictures of what the model knows before it is trained, where they are asked for and not there."""
        if self.config.prior is not None:
            with self.host.without_tuners():
                prior_pictures(self.config, self.model)
            self.module.train()

    def check(self) -> None:
        """Raise InputError where a tuner's word is in none of the prompts that are looked at; the data are open."""
        words = [word for name in self.host.tuners for word in self.host.tuner(name).words]
        sources = self.data.open()
        for number, root in enumerate(self.config.data.roots if self.data.apart else ()):
            if all(ref.root != number for ref in sources.train):
                raise InputError(f"no frame of {root} is left to train on; raise data.max_frames, or lower data.val_scenes")
        if not words:
            return
        templates = [str(getattr(self.host.plugin(name), "template", "")) for name in self.host.plugins]
        seen = [*templates, *(sources.frame(ref).description for ref in spread(sources.train, PROMPTS))]
        for word in words:
            if not any(word.lower() in prompt.lower() for prompt in seen):
                say = f"say it in data.prompt, such as '{{description}}, {word}'"
                raise InputError(f"no prompt has the word {word!r}, so that nothing would be learned of it; {say}")

    def draw(self) -> Rows:
        """Draw the pictures of held-out frames and, below each row, those generated from the same conditions.

        Where tuners train, the row between is generated without them.
        """
        from drivegen.pipeline.pipeline import Pipeline
        from drivegen.scene.pictures import load_image

        rows: list[list[Image.Image]] = []
        pipe = Pipeline(replace(self.model, sampling=self.sampling))
        given = {name: self.host.plugin(name).training_input for name in self.host.plugins}
        for frame in held_out(self.data, self.config):
            rows.append([load_image(camera) for camera in frame.cameras])
            inputs = {name: value for name, value in given.items() if value is not None and name not in frame.extras}

            def generated(frame: Any = frame, inputs: Any = inputs) -> list[Image.Image]:
                width, height = frame.cameras[0].image_size  # of its bucket
                made = pipe(frame, seed=self.config.preview.seed, inputs=inputs, size=(height, width))
                return list(made.pictures().values())

            if self.host.tuners:
                with self.host.without_tuners():
                    rows.append(generated())
            rows.append(generated())
        return rows

    def write(self, folder: Path, step: int) -> Path:
        """Save the tuners, each by itself, and the model folder without them where plugins were trained too."""
        about = {"steps": step, "training": to_dict(self.config)}
        dtype = runtime.parse_dtype(self.config.save_dtype)
        written = []
        for name in self.config.tuners:
            summary = self._summary(step)
            written.append(save_tuner(self.host.tuner(name), folder / name, dtype, name, self.host.backbone, summary))
        if written:
            if self.objective.sampling():
                print(f"it is sampled with {_options(self.sampling)}", flush=True)
            more = any(settings.train for settings in self.config.plugins.values())
            for file in written if more else written[:-1]:
                print(f"wrote {file}", flush=True)
            if not more:
                return written[-1]
        shard = None if self.config.save_shard_mb is None else self.config.save_shard_mb * 10**6
        return models.save(self.host, folder / "model", self.sampling, dtype, self.config.data.size, about, shard)

    def _summary(self, step: int) -> dict[str, Any]:
        """Say how a tuner was trained, for its card."""
        said = to_dict(self.config)
        base = self.config.model.base
        told = {
            "base": "from scratch" if base is None else Path(base).name, "size": said["data"]["size"],
            "data": [Path(root).name for root in self.config.data.roots], "objective": self.config.objective.kind,
            **{f"objective's {name}": value for name, value in self.config.objective.options.items()},
        }  # fmt: skip
        return {**told, **said["train"], "steps": step, "sampled_with": dict(self.objective.sampling())}


def _options(sampling: Sampling) -> str:
    """Spell what a tuner, whose file states no settings, is to be sampled with."""
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
        redrawn = self._redrawn()
        self.module = FirstStageModule(self.vae, train, config.autoencoder, redrawn.digest if redrawn is not None else "")
        self.data = ImageData(
            data.roots, size=data.size, images=train.images, version=data.version, val_scenes=data.val_scenes,
            max_frames=data.max_frames, workers=data.workers, seed=train.seed, batches=train.steps * train.accumulate,
            val_frames=config.validation.frames, skip_missing=data.skip_missing, redrawn=redrawn,
        )  # fmt: skip

    def _redrawn(self) -> Redrawn | None:
        """Give what draws latents anew, where that is asked for; its cache is the data's, or in the run's folder."""
        from drivegen.training.first_stage.redrawn import Redrawn

        config = self.config
        assert config.autoencoder is not None
        if config.autoencoder.redrawn is None:
            return None
        root = Path(config.data.cache or Path(config.output) / "cache").expanduser()
        return Redrawn(
            config.autoencoder.redrawn, self.vae, root, size=config.data.size, device=config.train.device,
            dtype=torch.bfloat16 if config.train.precision == "bf16" else torch.float32, seed=config.train.seed,
        )  # fmt: skip

    def prepare(self) -> None:
        """Nothing is made before the data are open."""

    def check(self) -> None:
        """Nothing is left to be checked once the data are open."""

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
        """Standardise the latents where they are new, and save the network's folder."""
        from drivegen.backbones.networks import save_model
        from drivegen.training.first_stage.standardise import standardise

        assert self.data.dataset is not None
        assert self.config.autoencoder is not None
        self.vae.eval()
        if self.config.autoencoder.train == "all":
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

"""Latents of frames that a model draws anew from their recorded pictures, made once before a decoder is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from drivegen.backbones.first_stage import FirstStage
from drivegen.pipeline.checks import RECORDED
from drivegen.support import files
from drivegen.support.errors import InputError
from drivegen.support.locks import waited_for
from drivegen.support.progress import track
from drivegen.training.cache import ArrayCache, digest
from drivegen.training.first_stage.networks import encoding_parts
from drivegen.training.first_stage.settings import RedrawnConfig
from drivegen.training.frames import FrameRef, Sources
from drivegen.training.frozen import frozen_digests


class Redrawn:
    """The latents of `autoencoder.redrawn`, kept in a folder under a digest of the model, its sampling and the settings.

    Args:
        settings: which model, and how much of its sampling is done anew.
        vae: the network that trains; the model's first stage has the same encoder, or InputError says so.
        root: folder of all caches.
        size: (height, width) of the pictures.
        device: of the model: auto, cpu or cuda.
        dtype: the model's number format.
        seed: of the noise and of each frame's strength.
    """

    def __init__(
        self, settings: RedrawnConfig, vae: Any, root: Path, *, size: tuple[int, int], device: str, dtype: torch.dtype,
        seed: int,
    ) -> None:  # fmt: skip
        from drivegen.pipeline.pipeline import Pipeline

        self.settings, self.size, self.seed = settings, size, seed
        self.pipe = Pipeline.from_pretrained(settings.model, device=device, dtype=dtype)
        _check_same_latents(self.pipe.host.backbone.first_stage, FirstStage(vae), settings.model)
        self.digest = digest(
            frozen_digests(self.pipe.host.requires_grad_(False)), self.pipe.model.sampling.to_dict(), settings.strength,
            settings.steps, size, seed, str(dtype),
        )  # fmt: skip
        self.root, self.cache = root, ArrayCache(root, "redrawn", self.digest)

    def fill(self, sources: Sources) -> None:
        """Draw the latents of the trained frames that are not there; of several processes the first one does."""
        with waited_for(files.make_subfolder(self.root.parent, self.root.name) / ".redrawing"):
            missing = [ref for ref in sources.train if not self.cache.has(ref.key())]
            for ref in track(missing, "drawing anew", unit="frames") if missing else ():
                self.cache.write(ref.key(), {"latents": self._drawn(sources, ref)})
        del self.pipe  # the training needs its memory

    def read(self, ref: FrameRef) -> np.ndarray:
        """Read a frame's latents (V, C, h, w), unscaled, float32: autocast to bfloat16 joins no float16 tensors."""
        found = self.cache.read(ref.key())
        if found is None:
            raise InputError(f"{self.cache.folder} has lost the latents of {ref.token}; the same command draws them again")
        return found["latents"].astype(np.float32)

    def drawing_of(self, ref: FrameRef) -> tuple[int, float]:
        """Return the seed and the strength with which a frame is drawn anew."""
        draw = np.random.default_rng([self.seed, *ref.key().encode()])
        return int(draw.integers(2**31)), float(draw.uniform(*self.settings.strength))

    def _drawn(self, sources: Sources, ref: FrameRef) -> np.ndarray:
        height, width = self.size
        frame = sources.datasets[ref.root].frame_with_neighbours(ref.token, *self.pipe.neighbours).resized(width, height)
        seed, strength = self.drawing_of(ref)
        views = self.pipe(
            frame, image=RECORDED, strength=strength, seed=seed, steps=self.settings.steps, size=self.size, output_type="latent"
        )
        latents = torch.stack([views[camera.channel] for camera in frame.cameras])
        return self.pipe.host.backbone.first_stage.unscale(latents.float()).numpy().astype(np.float16)


def _check_same_latents(models: FirstStage, trained: FirstStage, name: str) -> None:
    """Raise InputError where a model's latents are not those of the first stage that is trained."""
    given, own = (
        {f"{i}.{key}": value for i, part in enumerate(encoding_parts(stage.vae)) for key, value in part.state_dict().items()}
        for stage in (models, trained)
    )
    # The model may be in a smaller number format.
    same = given.keys() == own.keys() and all(torch.equal(v.cpu(), own[key].to(v.dtype).cpu()) for key, v in given.items())
    if not same or (models.scaling, models.shift) != (trained.scaling, trained.shift):
        raise InputError(
            f"autoencoder.redrawn.model = {name!r} has another first stage than autoencoder.weights, so its latents are not "
            "what this decoder is to show; let weights name that model"
        )

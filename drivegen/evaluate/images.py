"""Generated images on disk: each is made once, and an interrupted measurement is resumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from drivegen.pipeline.pipeline import Pipeline
from drivegen.pipeline.views import convert, save_png, to_pixels
from drivegen.scene import Frame
from drivegen.support import files, runtime, weights
from drivegen.support.errors import InputError

Images = Mapping[str, NDArray[np.uint8]]
"""Pictures (H, W, 3) of one frame by camera channel."""


@dataclass(frozen=True)
class Store:
    """A folder of generated images: ``root/<variant>/<frame>/<CHANNEL>.png``."""

    root: Path

    def has(self, variant: str, name: str, frame: Frame) -> bool:
        """Tell whether all views of a frame exist.

        Args:
            variant: the set of images.
            name: of the frame.
            frame: its cameras count.
        """
        return all(self._path(variant, name, channel).is_file() for channel in frame.channels)

    def load(self, variant: str, name: str, frame: Frame) -> dict[str, NDArray[np.uint8]]:
        """Load the views of a frame, in ring order.

        Args:
            variant: the set of images.
            name: of the frame.
            frame: its cameras are loaded.
        """
        return {c: np.asarray(Image.open(self._path(variant, name, c)).convert("RGB")) for c in frame.channels}

    def save(self, variant: str, name: str, pictures: Mapping[str, Image.Image]) -> None:
        """Write the views of a frame, each atomically.

        Args:
            variant: the set of images.
            name: of the frame.
            pictures: by camera channel.
        """
        for channel, picture in pictures.items():
            files.make_subfolder(self.root, variant, name)
            save_png(picture, self._path(variant, name, channel))

    def _path(self, variant: str, name: str, channel: str) -> Path:
        return self.root / variant / name / f"{channel}.png"

    def bind(self, settings: Mapping[str, Any]) -> None:
        """Record the settings that the images are made with; raises InputError where existing ones were made with others."""
        path = self.root / "settings.json"
        if not path.is_file():
            self.root.mkdir(parents=True, exist_ok=True)
            files.write_json(path, settings)
            return
        known = weights.read_json(path)
        changed = [name for name in {**known, **settings} if known.get(name) != settings.get(name)]
        if changed:
            what = ", ".join(f"{name} was {known.get(name)!r} and is {settings.get(name)!r}" for name in sorted(changed))
            raise InputError(f"{self.root} holds images of another measurement: {what}; name another --out, or remove it")


@dataclass(frozen=True, eq=False)
class Job:
    """One frame to be generated."""

    variant: str
    name: str
    frame: Frame
    seed: int
    without: tuple[str, ...] = ()


def generate(pipe: Pipeline, jobs: Iterable[Job], store: Store, steps: int | None = None) -> Iterator[Job]:
    """Generate the frames that do not exist yet; yields every job once its images are on disk.

    Args:
        pipe: the model.
        jobs: the frames.
        store: where the images go.
        steps: sampling steps; None takes the model's default.
    """
    everything = set(pipe.host.plugins)
    for job in jobs:
        if not store.has(job.variant, job.name, job.frame):
            # With everything null both halves of guidance are the same prediction: one is enough.
            guidance = 1.0 if set(job.without) == everything else None
            views = pipe(job.frame, seed=job.seed, without=job.without, num_inference_steps=steps, guidance_scale=guidance)
            store.save(job.variant, job.name, views.pictures())
        yield job


@torch.no_grad()
def reconstruct(pipe: Pipeline, images: Images) -> dict[str, Image.Image]:
    """Encode and decode pictures with the model's VAE: an upper bound for generation."""
    out = {}
    for channel, image in images.items():
        pixels = to_pixels(Image.fromarray(image), (image.shape[1], image.shape[0]))[None].to(pipe.device)
        with runtime.autocast(pipe.device, pipe.dtype):
            decoded = pipe.host.backbone.decode_latents(pipe.host.backbone.encode_images(pixels))
        out[channel] = convert(decoded, "pil")[0]
    return out

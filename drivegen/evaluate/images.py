"""Generated images on disk: each is made once, and an interrupted measurement is resumed."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from drivegen.pipeline.pipeline import Pipeline
from drivegen.pipeline.views import convert, save_png, to_pixels
from drivegen.scene import Frame
from drivegen.support import files, runtime, weights
from drivegen.support.errors import InputError
from drivegen.support.locks import claimed

Images = Mapping[str, NDArray[np.uint8]]
"""Pictures (H, W, 3) of one frame by camera channel."""


PATIENCE_S = 1.0
"""Between two looks at frames that other processes are at."""


@dataclass(frozen=True)
class Store:
    """A folder of generated images: ``root/<variant>/<frame>/<CHANNEL>.png``, and ``latents.npy`` where they are kept."""

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

    def save_latents(self, variant: str, name: str, latents: Tensor) -> None:
        """Write the latents of a frame, atomically.

        Args:
            variant: the set of images.
            name: of the frame.
            latents: (V, C, h, w), in ring order.
        """
        files.make_subfolder(self.root, variant, name)
        buffer = io.BytesIO()
        np.save(buffer, latents.float().cpu().numpy(), allow_pickle=False)
        files.write_atomically(self.root / variant / name / "latents.npy", buffer.getvalue())

    def latents(self, variant: str, name: str) -> NDArray[np.float32] | None:
        """Load the latents (V, C, h, w) of a frame; None where they were not kept."""
        path = self.root / variant / name / "latents.npy"
        if not path.is_file():
            return None
        try:
            found: NDArray[np.float32] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is no array of latents ({error}); remove its folder, it is made again") from error
        return found

    def claim(self, variant: str, name: str) -> AbstractContextManager[bool]:
        """Claim a frame among the processes that fill this folder; gives whether no other one has it.

        Args:
            variant: the set of images.
            name: of the frame.
        """
        return claimed(files.make_subfolder(self.root, ".claims") / f"{variant}.{name}")

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
    """One frame to be generated; latents says whether its latents are kept beside the pictures."""

    variant: str
    name: str
    frame: Frame
    seed: int
    without: tuple[str, ...] = ()
    latents: bool = False


def generate(pipe: Pipeline, jobs: Iterable[Job], store: Store, steps: int | None = None) -> Iterator[Job]:
    """Generate the frames that do not exist yet; yields every job once its images are on disk.

    Several processes may fill one folder: a frame that another one is at comes last, and is waited for.

    Args:
        pipe: the model.
        jobs: the frames.
        store: where the images go.
        steps: sampling steps; None takes the model's default.
    """
    waiting = list(jobs)
    while waiting:
        others = []
        for job in waiting:
            with store.claim(job.variant, job.name) as mine:
                if mine and not store.has(job.variant, job.name, job.frame):
                    _make(pipe, job, store, steps)
            if mine:
                yield job
            else:
                others.append(job)
        if len(others) == len(waiting):
            time.sleep(PATIENCE_S)
        waiting = others


def _make(pipe: Pipeline, job: Job, store: Store, steps: int | None) -> None:
    # With everything null both halves of guidance are the same prediction: one is enough.
    guidance = 1.0 if set(job.without) == set(pipe.host.plugins) else None
    last: dict[str, Tensor] = {}
    views = pipe(
        job.frame, seed=job.seed, without=job.without, num_inference_steps=steps, guidance_scale=guidance,
        callback_on_step_end=(lambda _pipe, _step, _t, tensors: last.update(tensors)) if job.latents else None,
    )  # fmt: skip
    if job.latents:  # first: pictures say that a frame is done
        store.save_latents(job.variant, job.name, last["latents"])
    store.save(job.variant, job.name, views.pictures())


@torch.no_grad()
def encode(pipe: Pipeline, image: NDArray[np.uint8]) -> Tensor:
    """Encode a picture (H, W, 3) with the model's VAE: scaled latents (1, C, h, w)."""
    pixels = to_pixels(Image.fromarray(image), (image.shape[1], image.shape[0]))[None].to(pipe.device)
    with runtime.autocast(pipe.device, pipe.dtype):
        return pipe.host.backbone.first_stage.encode(pixels)


@torch.no_grad()
def reconstruct(pipe: Pipeline, images: Images) -> dict[str, Image.Image]:
    """Encode and decode pictures with the model's VAE: an upper bound for generation."""
    out = {}
    for channel, image in images.items():
        latents = encode(pipe, image)
        with runtime.autocast(pipe.device, pipe.dtype):
            out[channel] = convert(pipe.host.backbone.first_stage.decode(latents), "pil")[0]
    return out

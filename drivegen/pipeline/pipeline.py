"""Frames to images: prepare, encode once, denoise, decode."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.host.regions import Region
from drivegen.pipeline.views import OUTPUT_TYPES, Settings, Views, convert, to_pixels
from drivegen.raster import region_mask
from drivegen.sampling import (
    Classifier,
    HostDenoiser,
    Sampling,
    agreeing,
    build_scheduler,
    camera_generators,
    check_range,
    check_seed,
    draw_noise,
    fast_generation,
    overlaps,
    remembered_projections,
    sample,
    sphere_noise,
    start_at,
)  # fmt: skip
from drivegen.saved.model import check_size, load
from drivegen.saved.sharing import Extensions
from drivegen.scene import Frame
from drivegen.support import runtime
from drivegen.support.errors import InputError

Callback = Callable[["Pipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]
"""diffusers' ``callback_on_step_end(pipe, step, t, {"latents": …})``; latents that it returns replace the present ones."""


@dataclass(frozen=True, eq=False)
class _Job:
    """One call's settings, checked."""

    sampling: Sampling
    scales: Mapping[str, float]
    without: tuple[str, ...]
    inputs: Mapping[str, Any]
    strength: float | None
    output_type: str
    negative_prompt: str
    size: tuple[int, int]
    callback: Callback | None
    ranges: Mapping[str, tuple[float, float]]
    regions: Mapping[str, Any]
    classifier: Classifier | None


class Pipeline(Extensions):
    """A model that turns frames into the images that their cameras would see.

    ``Pipeline(model)`` uses the model's host as it is: its device, its dtype, its weights (so a training run can look at its
    own); `from_pretrained` loads one and chooses.
    """

    @classmethod
    def from_pretrained(
        cls, source: str | Path = "tiny", device: str = "auto", dtype: str | torch.dtype = "auto", offload: bool = False,
        config_folder: str | Path | None = None, vae: str | Path | None = None,
    ) -> Pipeline:  # fmt: skip
        """Load "tiny" (the embedded model), a model folder, a diffusers folder or a single-file checkpoint.

        device "auto" is CUDA, then Metal, then the CPU; dtype "auto" is bfloat16 where the processor has it, else float32.
        offload keeps each network in main memory until it is used; it needs a GPU. vae is a folder or file of a VAE in the
        place of the model's own.
        """
        target = runtime.choose_device(device)
        number = runtime.choose_dtype(dtype, target)
        model = load(source, config_folder=config_folder, vae=vae)
        model.host.to(dtype=number).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if offload:
            runtime.offload(model.host, target)
        else:
            model.host.to(target)
        return cls(model)

    def ignored(self, frame: Frame) -> tuple[str, ...]:
        """Name what the frame holds and a model with text alone cannot follow."""
        if any(not getattr(self.host.plugin(name), "takes_prompt", False) for name in self.host.plugins):
            return ()
        held = {"cameras": True, "boxes": bool(frame.boxes), "map": frame.map is not None}
        return tuple(name for name, there in held.items() if there)

    @overload
    def __call__(self, frames: Frame, **options: Any) -> Views: ...

    @overload
    def __call__(self, frames: Sequence[Frame], **options: Any) -> list[Views]: ...

    def __call__(self, frames: Frame | Sequence[Frame], **options: Any) -> Views | list[Views]:
        """Generate the views of one frame, or of each frame of a list; options as in `generate`."""
        if isinstance(frames, Frame):
            return next(self.generate([frames], **options))
        return list(self.generate(frames, **options))

    def generate(
        self,
        frames: Sequence[Frame],
        *,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        seed: int | Sequence[int] = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | Mapping[str, float] | None = None,
        guidance_rescale: float | None = None,
        sampler: str | None = None,
        noise: str | None = None,
        agreement: float | None = None,
        scales: Mapping[str, float] | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        regions: Mapping[str, Any] | None = None,
        without: Sequence[str] = (),
        inputs: Mapping[str, Any] | None = None,
        image: Mapping[str, Image.Image] | Sequence[Image.Image] | Image.Image | None = None,
        strength: float | None = None,
        size: tuple[int, int] | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
        classifier: Classifier | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Views]:
        """Yield the views of each frame as they are done; frames are run one by one, so that none depends on the others.

        prompt replaces each frame's description. seed is one for all frames, or one each; generator draws it. guidance_scale is
        one for all plugins that the model's guidance nulls, or a weight a plugin by name; noise and agreement
        are as in `Sampling`. By plugin name, too: scales, 1 as trained, 0 absent; ranges, the (start, end) fractions of steps
        outside of which it is absent; regions, where in the pictures it is there (`raster.region_mask`); inputs, what goes to
        its `prepare`; `without` names those to null. image (one a camera, by channel or in ring order) with strength (0 to 1,
        default 0.8) starts from pictures. size is (height, width). classifier pulls. Whatever is None is the model's own.
        """
        host = self.host
        for name in (*(scales or {}), *without, *(ranges or {}), *(regions or {})):
            host.plugin(name)
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type {output_type!r} is not one of {', '.join(OUTPUT_TYPES)}")
        if image is None and strength is not None:
            raise InputError(f"strength {strength} is given, but no image to start from")
        strength = None if image is None else (0.8 if strength is None else float(strength))
        if strength is not None and not 0 <= strength <= 1:
            raise InputError(f"strength {strength} must be from 0 (the picture itself) to 1 (nothing of it)")
        for name, scale in (scales or {}).items():
            if not 0 <= scale < float("inf"):
                raise InputError(f"scale {scale} of {name!r} must be a finite number, 0 or above")
        sampling = self.model.sampling.replaced(
            steps=num_inference_steps, guidance=guidance_scale, guidance_rescale=guidance_rescale, sampler=sampler, noise=noise,
            agreement=agreement,
        )  # fmt: skip
        job = _Job(
            sampling, dict(scales or {}), tuple(dict.fromkeys(without)), self._inputs(inputs, negative_prompt), strength,
            output_type, negative_prompt or "", check_size(size or self.model.image_size, host.backbone), callback_on_step_end,
            {name: check_range(name, *ends) for name, ends in (ranges or {}).items()}, dict(regions or {}), classifier,
        )  # fmt: skip
        sampling.nulled(host.plugins)
        seeds = self._seeds(seed, generator, len(frames))
        if prompt is not None:
            frames = [replace(frame, description=prompt) for frame in frames]
        # The checks above run at once, not when the first result is asked for.
        return (self._one(frame, number, image, job) for frame, number in zip(frames, seeds, strict=True))

    def _seeds(self, seed: int | Sequence[int], generator: torch.Generator | None, count: int) -> list[int]:
        if generator is not None:
            return [int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device)) for _ in range(count)]
        seeds = list(seed) if isinstance(seed, Sequence) else [seed] * count
        if len(seeds) != count:
            raise InputError(f"{len(seeds)} seeds are given for {count} frames; give one, or one a frame")
        return [check_seed(number) for number in seeds]

    def _inputs(self, inputs: Mapping[str, Any] | None, negative_prompt: str | None) -> dict[str, Any]:
        out = dict(inputs or {})
        if negative_prompt is None:
            return out
        takers = [name for name in self.host.plugins if getattr(self.host.plugin(name), "takes_prompt", False)]
        if not takers:
            has = ", ".join(self.host.plugins) or "none"
            raise InputError(f"a negative prompt is given, but no plugin of this model takes one; it has {has}")
        for name in takers:
            given = out.get(name) or {}
            given = {"prompt": given} if isinstance(given, str) else dict(given)
            out[name] = {"negative": negative_prompt, **given}
        return out

    @torch.no_grad()
    def _one(self, frame: Frame, seed: int, image: Any, job: _Job) -> Views:
        host, sampling, device = self.host, job.sampling, self.device
        frame = frame.resized(job.size[1], job.size[0])
        plugins = {name: host.plugin(name) for name in host.plugins if job.scales.get(name, 1.0) != 0}
        inputs = {name: given for name, given in job.inputs.items() if name in plugins or name not in host.plugins}
        batch = data.collate([data.prepare(frame, plugins, inputs)], plugins, len(frame.cameras), [frame.token]).to(device)
        generators = camera_generators(seed, frame.channels, sampling.noise == "shared")
        factor = host.backbone.vae_factor
        shape = (host.backbone.latent_channels, job.size[0] // factor, job.size[1] // factor)
        sphere = sampling.noise == "sphere"
        noise = sphere_noise(seed, frame.cameras, shape, generators) if sphere else draw_noise(generators, shape)
        noise = noise.to(device)
        with _evaluating(host, frozen=job.classifier is not None), remembered_projections(host), fast_generation(host):
            regions = {n: Region(torch.from_numpy(region_mask(frame, r))[:, None].to(device)) for n, r in job.regions.items()}
            denoiser = HostDenoiser(host, batch, job.scales, job.without, self.dtype, job.ranges, regions)
            scheduler = build_scheduler(sampling.sampler, host.backbone.scheduler, sampling.steps, device)
            denoise = sampling.guided(denoiser, host.plugins)
            to_x0 = NoiseSchedule.of(scheduler)
            if sampling.agreement > 0:
                pairs = overlaps(frame.cameras, *shape[1:]).to(device)
                denoise = agreeing(denoise, to_x0, pairs, lambda: denoiser.progress < sampling.agreement)
            for name in plugins:
                denoise = host.guide(name, denoise, to_x0)
            if job.classifier is not None:
                denoise = job.classifier.guide(denoise, to_x0, frame, self._decode)
            x, timesteps = noise * scheduler.init_noise_sigma, scheduler.timesteps
            if job.strength is not None:
                timesteps = start_at(scheduler, job.strength)
                x = self._encode(frame, image)
                if len(timesteps):
                    x = scheduler.add_noise(x, noise, timesteps[:1].repeat(len(x)))
            denoiser.steps = max(1, len(timesteps))

            def after(i: int, t: Tensor, x: Tensor) -> Tensor | None:
                denoiser.step = i + 1
                changed = job.callback(self, i, t, {"latents": x}) if job.callback else None
                return (changed or {}).get("latents")

            x = sample(denoise, scheduler, x, timesteps, generators, after)
            if not bool(torch.isfinite(x).all()):
                raise InputError(f"frame {frame.token!r}: the latents are not finite in {self.dtype}; try --dtype float32")
            values = list(x.cpu()) if job.output_type == "latent" else convert(self._decode(x), job.output_type)
        return Views(frame, dict(zip(frame.channels, values, strict=True)), self._settings(frame, seed, job))

    def _encode(self, frame: Frame, image: Any) -> Tensor:
        if isinstance(image, (Image.Image, np.ndarray, str, os.PathLike)):
            image = [image]
        if isinstance(image, Mapping):
            missing = [channel for channel in frame.channels if channel not in image]
            unknown = [channel for channel in image if channel not in frame.channels]
            if missing or unknown:
                wrong = f"cameras {missing} have no image, and {unknown} are not cameras of it"
                raise InputError(f"frame {frame.token!r}: {wrong}; give one image for each of {', '.join(frame.channels)}")
            image = [image[channel] for channel in frame.channels]
        if not isinstance(image, Sequence):
            raise InputError(f"image is {type(image).__name__}; give a picture, a list of them, or one by camera channel")
        if len(image) != len(frame.cameras):
            raise InputError(f"{len(image)} images are given for the {len(frame.cameras)} cameras {', '.join(frame.channels)}")
        size = frame.cameras[0].image_size
        views = zip(image, frame.cameras, strict=True)
        pixels = torch.stack([to_pixels(picture, size, camera) for picture, camera in views]).to(self.device)
        with runtime.autocast(self.device, self.dtype):
            return self.host.backbone.encode_images(pixels).float()

    def _decode(self, latents: Tensor) -> Tensor:
        # A view at a time on the CPU: the decoder's activations then stay in its caches.
        size = 1 if latents.device.type == "cpu" else len(latents)
        with runtime.autocast(self.device, self.dtype):
            return torch.cat([self.host.backbone.decode_latents(part) for part in latents.split(size)])

    def _settings(self, frame: Frame, seed: int, job: _Job) -> Settings:
        s = job.sampling
        scales = {name: float(job.scales.get(name, 1.0)) for name in self.host.plugins}
        weights = {n: float(w) for n, w in s.guidance.items()} if isinstance(s.guidance, Mapping) else float(s.guidance)
        return Settings(
            seed, s.sampler, s.steps, weights, float(s.guidance_rescale), s.noise, float(s.agreement),
            frame.description, job.negative_prompt, job.strength, scales, job.without, job.ranges, tuple(job.regions),
            str(job.classifier or ""), job.size, str(self.dtype).removeprefix("torch."), str(self.device),
            torch.get_num_threads(), loras=self.loras,
        )  # fmt: skip


@contextmanager
def _evaluating(host: Host, frozen: bool = False) -> Iterator[None]:
    """Switch drop-out off for a while, and with frozen the gradients of parameters, and back on where they were."""
    was = [module for module in host.modules() if module.training]
    held = [parameter for parameter in host.parameters() if parameter.requires_grad and frozen]
    host.eval()
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in was:
            module.training = True
        for parameter in held:
            parameter.requires_grad_(True)

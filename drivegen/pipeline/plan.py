"""One generation of one frame, checked and prepared before any network computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from drivegen.host import batch as data
from drivegen.host.batch import Batch
from drivegen.host.confined import Reach
from drivegen.pipeline.checks import RECORDED
from drivegen.pipeline.names import check_names
from drivegen.pipeline.refining import REFINE_FROM, Refinement, check_refiner, refinement
from drivegen.pipeline.settings import GenerationSettings
from drivegen.pipeline.told import takers, told_guidance, told_mask
from drivegen.pipeline.views import to_pixels
from drivegen.plugin import Plugin
from drivegen.raster import region_mask
from drivegen.sampling import MAX_SEED, Reuse, Sampling, check_reuse
from drivegen.saved.model import Model, check_size
from drivegen.scene import Frame
from drivegen.scene.pictures import fitted, load_image, user_image
from drivegen.support import values
from drivegen.support.errors import InputError

DEFAULT_STRENGTH = 0.8

_FOR_PROMPTS = {"negative_prompt": "negative", "prompt_weights": "weighted", "clip_skip": "clip_skip"}
"""Options that go to the plugins which take prompts, and what their input is called there."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What one frame is generated from.

    frame has its cameras set to the generated size and the description that is used; settings are the caller's; noise (V, C, h,
    w) is given or None, and so are the pictures (V, 3, H, W) to start from, in [−1, 1], and the mask (V, 1, H, W), 1 where
    they are drawn anew; regions are masks (V, 1, H, W); confined are the LoRAs and tuners that act at some steps alone, or in a
    part of the picture; apart has the host's names of LoRAs that act each by itself.
    """

    frame: Frame
    seed: int
    settings: GenerationSettings
    sampling: Sampling
    size: tuple[int, int]
    batch: Batch
    plugins: Mapping[str, Plugin]
    regions: Mapping[str, Tensor]
    pictures: Tensor | None = None
    noise: Tensor | None = None
    mask: Tensor | None = None
    refinement: Refinement | None = None
    confined: frozenset[str] = frozenset()
    apart: Mapping[str, str] = field(default_factory=dict)

    @property
    def strength(self) -> float | None:
        """How much of the pictures is replaced, within the mask where there is one; None where there are none."""
        if self.pictures is None:
            return None
        usual = DEFAULT_STRENGTH if self.mask is None else 1.0
        return usual if self.settings.strength is None else self.settings.strength

    def digest(self) -> str:
        """Return one sha256 over all inputs of the networks: equal for equal frames, inputs, regions and pictures."""
        found = hashlib.sha256()
        tensors = {f"{name}.{key}": value for name, group in self.batch.arrays.items() for key, value in group.items()}
        if self.refinement is not None:
            own = self.refinement.batch.arrays.items()
            tensors |= {f"refiner.{name}.{key}": value for name, group in own for key, value in group.items()}
        tensors |= {f"region.{name}": mask for name, mask in self.regions.items()}
        tensors |= {name: given for name in ("pictures", "noise", "mask") if (given := getattr(self, name)) is not None}
        for name, tensor in sorted(tensors.items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            found.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        for camera in self.frame.cameras:
            pose = [*camera.ego_SE3_camera.matrix.ravel().tolist(), *camera.K_image.ravel().tolist()]
            found.update(json.dumps([camera.channel, pose]).encode())
        return found.hexdigest()


def plans(
    model: Model, frames: Frame | Sequence[Frame], settings: GenerationSettings, reaches: Mapping[str, Reach] | None = None
) -> Iterator[Plan]:
    """Plan each frame's generations, frame by frame; raises InputError at once for what is wrong whatever the frame.

    Args:
        model: the model.
        frames: one, or several that are read one at a time.
        settings: the options.
        reaches: what each LoRA and tuner changes, by name; None for none.
    """
    frames = _frames(frames)
    sampling, size = check(model, settings, reaches)
    number, each = len(frames), settings.repeats
    prompts = per_frame(settings.prompt, number, "prompts")
    negatives = per_frame(settings.negative_prompt, number, "negative prompts")
    seeds, noises = _seeds(settings, number), _noises(settings, number * each)

    def one(i: int) -> Plan:
        k = i // each
        frame = frames[k]
        if not isinstance(frame, Frame):
            raise InputError(f"frame {k} is of {type(frame).__name__}, not a drivegen.scene.Frame")
        own = replace(settings, negative_prompt=negatives[k], seed=seeds[i], prompt=prompts[k])
        return _plan(model, frame, own, sampling, size, noises[i])

    return (one(i) for i in range(number * each))


def check(
    model: Model, settings: GenerationSettings, reaches: Mapping[str, Reach] | None = None
) -> tuple[Sampling, tuple[int, int]]:
    """Return the sampling settings and the size (height, width) of a generation; raises InputError for what does not fit the
    model.

    Args:
        model: the model.
        settings: the options.
        reaches: what each LoRA and tuner changes, by name; None for none.
    """
    host, s = model.host, settings
    check_names(host, s, reaches or {})
    if model.refiner is not None:
        check_refiner(model, model.refiner)
    elif s.refine_from is not None:
        raise InputError(f"refine_from {s.refine_from:g} is given, but no refiner; name its folder with --refiner (refiner=)")
    if s.image is None and s.strength is not None:
        raise InputError(f"strength {s.strength} is given, but no image to start from")
    if s.strength is not None and not 0 <= s.strength <= 1:
        raise InputError(f"strength {s.strength} must be from 0 (the picture itself) to 1 (nothing of it)")
    if s.mask is not None and s.image is None:
        raise InputError("a mask says what is drawn anew of pictures, and none are given; give image= too, 'recorded' say")
    for who, one in (("model", model), ("refiner", model.refiner)):
        for name in () if one is None or s.mask is not None else told_mask(_present(one, s)):
            if name in (s.inputs or {}):
                continue
            raise InputError(
                f"the {who} inpaints: its plugin {name!r} is told what is drawn anew of which pictures; give image= and mask= "
                "(on the command line --mask CAMERA:FILE), or set its scale to 0"
            )
    if s.reuse is not None:
        if s.classifier is not None:
            raise InputError("a classifier takes gradients through every layer at every step; give it, or reuse")
        check_reuse(host, Reuse(**s.reuse))
    if s.latents is not None:
        for name in ("image", "noise"):
            if getattr(s, name) is not None and not (name == "image" and s.mask is not None):
                raise InputError(f"latents are what the views start from, and {name} says it too; give one of them")
    steps = s.steps
    if s.timesteps is not None:
        steps = len(s.timesteps)
        if s.steps not in (None, steps):
            raise InputError(f"{steps} timesteps are given and steps {s.steps}; leave one of them out")
    sampling = model.sampling.replaced(
        steps=steps, guidance=s.guidance, guidance_rescale=s.guidance_rescale, guidance_range=s.guidance_range,
        sampler=s.sampler, noise=s.noise, agreement=s.agreement, sampler_options=s.sampler_options,
    )  # fmt: skip
    sampling.nulled(host.plugins)
    if isinstance(sampling.guidance, Mapping) and (told := told_guidance(_present(model, s), s.without)):
        raise InputError(f"guidance has a weight per plugin, and {told[0]!r} tells the network one scale; give one")
    if s.guidance_range is not None and (told := told_guidance(_present(model, s), s.without)):
        raise InputError(f"guidance_range is given, and {told[0]!r} tells the network one scale for all steps; leave it out")
    host.backbone.check()  # parts may have been replaced since it was loaded
    sampling.run(host.backbone.scheduler, timesteps=s.timesteps)
    for name, key in _FOR_PROMPTS.items():
        if getattr(s, name) not in (None, "") and not takers(model, key):
            has = ", ".join(host.plugins) or "none"
            raise InputError(f"a {name.replace('_', ' ')} is given, but no plugin of this model takes one; it has {has}")
    return sampling, check_size(s.size or model.image_size, host.backbone)


def per_frame(given: Any, count: int, what: str) -> list[Any]:
    """Return one value per frame, from one for all or a list; raises InputError for a list of another length.

    Args:
        given: a value, or a tuple of values.
        count: number of frames.
        what: what the values are, for the error.
    """
    if not isinstance(given, tuple):
        return [given] * count
    if len(given) != count:
        raise InputError(f"{len(given)} {what} are given for {count} frames; give one, or one per frame")
    return list(given)


def _frames(frames: Any) -> Sequence[Frame]:
    if isinstance(frames, Frame):
        return [frames]
    if not isinstance(frames, Sequence) or isinstance(frames, (str, bytes)):
        raise InputError(f"frames must be a drivegen.scene.Frame or a list of them, not {type(frames).__name__}")
    if isinstance(frames, (list, tuple)):
        for i, frame in enumerate(frames):
            if not isinstance(frame, Frame):
                raise InputError(f"frame {i} is of {type(frame).__name__}, not a drivegen.scene.Frame")
    return frames


def _seeds(settings: GenerationSettings, frames: int) -> list[int]:
    """Return a seed per generation: drawn; or given, one for all, one per frame, or one for each of them."""
    each, generator = settings.repeats, settings.generator
    if generator is not None:
        return [int(torch.randint(MAX_SEED, (), generator=generator, device=generator.device)) for _ in range(frames * each)]
    given = [settings.seed] * frames if isinstance(settings.seed, int) else list(settings.seed)
    if len(given) == frames * each and each > 1:
        return given
    if len(given) != frames:
        raise InputError(f"{len(given)} seeds are given for {frames} frames; give one, or one per frame")
    return [values.whole(seed + i, "seed", 0, MAX_SEED) for seed in given for i in range(each)]


def _noises(settings: GenerationSettings, count: int) -> list[Any]:
    given = settings.latents
    if given is None or (count == 1 and not isinstance(given, tuple)):
        return [given] * count
    if not isinstance(given, tuple):
        raise InputError(f"latents are given once for {count} generations, which would start alike; give a list, one for each")
    if len(given) != count:
        raise InputError(f"{len(given)} latents are given for {count} generations; give one for each")
    return list(given)


def _plan(
    model: Model, frame: Frame, settings: GenerationSettings, sampling: Sampling, size: tuple[int, int], noise: Any
) -> Plan:  # fmt: skip
    host = model.host
    if isinstance(settings.prompt, str):
        frame = replace(frame, description=settings.prompt)
    values.text(frame.description, f"description of frame {frame.token!r}:")
    frame = frame.resized(size[1], size[0])
    plugins = _present(model, settings)
    inputs = {name: given for name, given in _inputs(model, settings).items() if name in plugins}
    inputs = {**dict.fromkeys(told_guidance(plugins, settings.without), sampling.guidance), **inputs}
    given = None if settings.image is None else _images(frame, settings.image)
    mask = None if settings.mask is None else torch.from_numpy(region_mask(frame, settings.mask) >= 0.5).float()[:, None]
    masked: dict[str, Any] = {}
    if given is not None and mask is not None:
        masked = {c: {"image": one, "mask": m[0].numpy()} for c, one, m in zip(frame.channels, given, mask, strict=True)}
        inputs = {**dict.fromkeys(told_mask(plugins), masked), **inputs}
    batch = data.collate([data.prepare(frame, plugins, inputs)], plugins, len(frame.cameras), [frame.token])
    regions = {n: torch.from_numpy(region_mask(frame, region))[:, None] for n, region in (settings.regions or {}).items()}
    pictures = None if given is None else torch.stack([to_pixels(one, frame.cameras[0].image_size) for one in given])
    shape = (host.backbone.latent_channels, size[0] // host.backbone.vae_factor, size[1] // host.backbone.vae_factor)
    start = None if noise is None else _noise(frame, noise, shape)
    seed = settings.seed
    assert isinstance(seed, int)
    refined = None if model.refiner is None else _refinement(model.refiner, frame, settings, masked)
    confined = {n for n, ends in (settings.ranges or {}).items() if tuple(ends) != (0, 1)}
    confined |= {n for n, region in regions.items() if not bool((region == 1).all())}
    beside = frozenset(confined - host.plugins.keys())
    return Plan(frame, seed, settings, sampling, size, batch, plugins, regions, pictures, start, mask, refined, beside)


def _refinement(refiner: Model, frame: Frame, settings: GenerationSettings, masked: Mapping[str, Any]) -> Refinement:
    """Prepare a frame for a model's refiner: prompts, inputs and scales of the generation reach the plugins that it has too.

    Args:
        refiner: the model that takes over.
        frame: with its cameras set to the generated size.
        settings: of the generation.
        masked: picture and mask of each camera, for plugins that are told them; empty without a mask.
    """
    plugins = _present(refiner, settings)
    shared = replace(settings, inputs={name: given for name, given in (settings.inputs or {}).items() if name in plugins})
    inputs = {**(dict.fromkeys(told_mask(plugins), masked) if masked else {}), **_inputs(refiner, shared)}
    told = bool(told_mask(plugins, settings.without))
    start = REFINE_FROM if settings.refine_from is None else settings.refine_from
    return refinement(refiner, plugins, frame, inputs, start, told)


def _present(model: Model, settings: GenerationSettings) -> dict[str, Plugin]:
    scales = settings.scales or {}
    return {name: model.host.plugin(name) for name in model.host.plugins if scales.get(name, 1.0) != 0}


def _inputs(model: Model, settings: GenerationSettings) -> dict[str, Any]:
    """Return what each plugin is given, what is said of all prompts with it; an input of the plugin's own goes before that."""
    out = dict(settings.inputs or {})
    said = {key: getattr(settings, name) for name, key in _FOR_PROMPTS.items() if getattr(settings, name) not in (None, "")}
    for key, value in said.items():
        for name in takers(model, key):
            given = out.get(name)
            if isinstance(given, str):
                given = {"prompt": given}
            elif given is not None and not isinstance(given, Mapping):
                raise InputError(
                    f"inputs of {name!r} must be a text or {{'prompt': text, 'negative': text}}, not {given!r:.80}"
                )
            out[name] = {key: value, **(given or {})}
    return out


def _images(frame: Frame, image: Any) -> list[Image.Image]:
    """Give the picture to start from of each view, at the generated size."""
    if image == RECORDED:
        return [_recorded(frame, camera) for camera in frame.cameras]
    views = _by_view(frame, [image] if isinstance(image, Image.Image) else image, "images")
    size = frame.cameras[0].image_size
    return [
        fitted(user_image(one, f"picture of {camera.channel}"), size, camera)
        for one, camera in zip(views, frame.cameras, strict=True)
    ]


def _recorded(frame: Frame, camera: Any) -> Image.Image:
    if camera.image_path is None:
        what = f"{camera.channel} of {frame.token!r} has none"
        raise InputError(f"the generation is to start from recorded pictures, and {what}; leave strength out, or give images")
    return load_image(camera)


def _noise(frame: Frame, noise: Any, shape: tuple[int, int, int]) -> Tensor:
    if isinstance(noise, Mapping):
        views = _by_view(frame, noise, "latents")
        for channel, one in zip(frame.channels, views, strict=True):
            if tuple(one.shape) != shape:
                raise InputError(f"latents of {channel!r} have shape {tuple(one.shape)}; expected {shape} (C, h, w)")
        noise = torch.stack(views)
    expected = (len(frame.cameras), *shape)
    if tuple(noise.shape) != expected:
        what = f"{expected} (views, C, h, w) for its {expected[0]} cameras at this size"
        raise InputError(f"latents of {frame.token!r} have shape {tuple(noise.shape)}; expected {what}")
    found: Tensor = noise.detach().float().cpu()
    return found


def _by_view(frame: Frame, given: Any, what: str) -> list[Any]:
    """Bring what is given by channel, or in ring order, into ring order; one for each camera."""
    if isinstance(given, Mapping):
        missing = [channel for channel in frame.channels if channel not in given]
        unknown = [channel for channel in given if channel not in frame.channels]
        if missing or unknown:
            wrong = f"cameras {missing} have no {what}, and {unknown} are not cameras of it"
            raise InputError(f"frame {frame.token!r}: {wrong}; give one for each of {', '.join(frame.channels)}")
        return [given[channel] for channel in frame.channels]
    if len(given) != len(frame.cameras):
        raise InputError(f"{len(given)} {what} are given for the {len(frame.cameras)} cameras {', '.join(frame.channels)}")
    return list(given)

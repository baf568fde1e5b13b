"""A second model for the last steps of a generation: SDXL's refiner beside its base, an ensemble of experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host import batch as data
from drivegen.host.batch import Batch
from drivegen.plugin import Denoiser, Plugin
from drivegen.sampling import HostDenoiser, Sampling, fast_generation, remembered_projections
from drivegen.saved.model import Model
from drivegen.scene import Frame
from drivegen.support import runtime
from drivegen.support.errors import InputError

REFINE_FROM = 0.8
"""The share of the noise's way at which a refiner takes over, as in SDXL's report (Podell et al. 2023, 2.5)."""


@dataclass(frozen=True, eq=False)
class Refinement:
    """What a refiner does of one generation.

    Args:
        model: the refiner.
        plugins: its conditions that are present.
        batch: their arrays for the frame.
        below: timesteps below this are the refiner's.
        told_mask: whether its network is told what is drawn anew of which pictures.
    """

    model: Model
    plugins: Mapping[str, Plugin]
    batch: Batch
    below: int
    told_mask: bool = False


def check_refiner(model: Model, refiner: Model) -> Model:
    """Return a refiner; raises InputError where it does not go on from the latents of a model.

    Args:
        model: what generates.
        refiner: what takes over.
    """
    one, other = model.host.backbone, refiner.host.backbone
    for what, ours, theirs in (
        ("latent channels", one.latent_channels, other.latent_channels),
        ("pixels per latent", one.vae_factor, other.vae_factor),
        ("scaling_factor of the VAE", one.first_stage.scaling, other.first_stage.scaling),
    ):
        if ours != theirs:
            raise InputError(f"the refiner has {what} {theirs}, and the model {ours}; it refines latents of another model")
    trained, second = (NoiseSchedule.trained(each.scheduler) for each in (one, other))
    if trained.prediction_type != second.prediction_type:
        raise InputError(
            f"the refiner predicts {second.prediction_type}, and the model {trained.prediction_type}; both must do the same"
        )
    a, b = trained.alphas_cumprod, second.alphas_cumprod
    if a.shape != b.shape or not torch.allclose(a.float().cpu(), b.float().cpu(), rtol=1e-4, atol=1e-6):
        raise InputError("the refiner was trained by another noise schedule than the model; it cannot go on from its latents")
    return refiner


def refinement(
    model: Model, plugins: Mapping[str, Plugin], frame: Frame, inputs: Mapping[str, Any], start: float, told_mask: bool
) -> Refinement:  # fmt: skip
    """Prepare a frame for a refiner, with the conditions that it has.

    Args:
        model: the refiner.
        plugins: its conditions that are present.
        frame: with its cameras set to the generated size.
        inputs: what is given to plugins, by name; what it has no plugin for is left out.
        start: the share of the noise's way that is done where it takes over.
        told_mask: whether one of the plugins is told what is drawn anew.
    """
    given = {name: value for name, value in inputs.items() if name in plugins}
    batch = data.collate([data.prepare(frame, plugins, given)], plugins, len(frame.cameras), [frame.token])
    total = NoiseSchedule.trained(model.host.backbone.scheduler).steps
    return Refinement(model, plugins, batch, round(total - start * total), told_mask)


@contextmanager
def refining(
    found: Refinement, sampling: Sampling, scales: Mapping[str, float], without: tuple[str, ...]
) -> Iterator[tuple[HostDenoiser, Denoiser]]:
    """Make the refiner's denoiser, bare and guided; while it is there, its host computes as in generation.

    Args:
        found: what it does.
        sampling: of the generation, whose guidance it has where that is one number, and else its own.
        scales: by plugin name; those of other plugins are left out.
        without: plugins that are null.
    """
    host = found.model.host
    device = runtime.device_of(host.backbone.unet)
    own = {name: scale for name, scale in scales.items() if name in host.plugins}
    nulls = [name for name in without if name in host.plugins]
    with ExitStack() as stack:
        stack.enter_context(remembered_projections(host))
        stack.enter_context(fast_generation(host))
        dtype = next(host.backbone.unet.parameters()).dtype
        predict = HostDenoiser(host, found.batch.to(device), own, nulls, dtype)
        guidance = found.model.sampling.guidance if isinstance(sampling.guidance, Mapping) else sampling.guidance
        how = found.model.sampling.replaced(guidance=guidance, guidance_rescale=sampling.guidance_rescale)
        how = replace(how, guidance_range=sampling.guidance_range)  # None, too, is the generation's word
        yield predict, how.guided(predict, host.plugins, predict.within)


def in_turns(first: Denoiser, second: Denoiser, below: int) -> Denoiser:
    """Return a denoiser that is the first one down to a timestep, and the second one below it.

    Args:
        first: for the timesteps above.
        second: for those below.
        below: the timestep.
    """

    def denoise(x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        later = bool((t < below).all())
        return second(x, t, *args, **kwargs) if later else first(x, t, *args, **kwargs)

    return denoise

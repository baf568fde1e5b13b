"""From a plan to pictures: encode once, denoise, decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host.host import Host
from drivegen.host.regions import Region
from drivegen.pipeline.plan import Plan
from drivegen.pipeline.refining import in_turns, refining
from drivegen.pipeline.told import told_guidance, told_mask
from drivegen.pipeline.views import convert
from drivegen.plugin import Denoiser
from drivegen.sampling import (
    HostDenoiser,
    Known,
    Reuse,
    agreeing,
    camera_generators,
    cells,
    draw_noise,
    fast_generation,
    invert,
    overlaps,
    remembered_projections,
    reusing,
    sphere_noise,
)
from drivegen.saved.model import Model
from drivegen.support import runtime
from drivegen.support.errors import InputError

AfterStep = Callable[[int, Tensor, Tensor], Any]
"""``after(step, t, latents)`` → None, or {"latents": what replaces them}."""


@torch.no_grad()
def denoise(model: Model, plan: Plan, after: AfterStep | None = None) -> list[Any]:
    """Generate the views of a plan, in ring order: values of its output type.

    Raises InputError where the latents are not finite.

    Args:
        model: what generates; nothing of it is changed afterwards.
        plan: what to generate.
        after: called after each step.
    """
    host, settings, sampling = model.host, plan.settings, plan.sampling
    generators = camera_generators(plan.seed, plan.frame.channels, sampling.noise == "shared")
    with _ready(model, plan) as predict, _refined(plan, predict) as second:
        device = runtime.device_of(host.backbone.unet)
        noise = _start(host, plan, generators).to(device)
        clean = None if plan.pictures is None else _encode(host, plan.pictures)
        known = None if clean is None else _known(plan, clean, noise)

        def step(i: int, t: Tensor, x: Tensor) -> Tensor | None:
            predict.step = i + 1
            return _latents(after(i, t, x), x) if after else None

        sampler = sampling.made()
        run = sampling.run(
            host.backbone.scheduler, timesteps=settings.timesteps, generators=generators,
            clean=None if plan.mask is not None and plan.strength == 1 else clean,  # all of the masked part is drawn anew
            strength=plan.strength or 0.0, callback=step, device=device,
        )  # fmt: skip
        predict.steps = max(1, len(sampler.timesteps(run)))
        # A network that is told the mask keeps the known part by itself; a refiner that is not goes on from there.
        told, told_later = told_mask(plan.plugins, settings.without), plan.refinement is None or plan.refinement.told_mask
        if known is not None and told and not told_later:
            assert second is not None
            second = known.kept(second, sampler.schedule(run), begun=True)
        guided = _guided(model, plan, predict, sampler.schedule(run), second)
        if known is not None and not told:
            guided = known.kept(guided, sampler.schedule(run))
        x = _finite(sampler(guided, noise, run), plan, predict.dtype)
        x = x if known is None or (told and told_later) else known.put_back(x)
        return list(x.cpu()) if settings.output_type == "latent" else convert(_decode(host, x), settings.output_type)


@torch.no_grad()
def noise_of(model: Model, plan: Plan, iterations: int) -> list[Tensor]:
    """Find the noise (C, h, w) of each view from which `denoise` would make a plan's pictures, in ring order.

    Args:
        model: what generates.
        plan: of the sampler `ddim`, with pictures.
        iterations: evaluations per step.
    """
    assert plan.pictures is not None
    with _ready(model, plan) as predict:
        device = runtime.device_of(model.host.backbone.unet)

        def step(i: int, t: Tensor, x: Tensor) -> None:
            predict.step = max(0, i - 1)

        run = plan.sampling.run(model.host.backbone.scheduler, callback=step, device=device)
        sampler = plan.sampling.made()
        predict.steps = len(sampler.timesteps(run))
        predict.step = predict.steps - 1
        guided = _guided(model, plan, predict, sampler.schedule(run))
        found = invert(guided, _encode(model.host, plan.pictures), run, iterations)
        return list(_finite(found, plan, predict.dtype).cpu())


@contextmanager
def _ready(model: Model, plan: Plan) -> Iterator[HostDenoiser]:
    """Make a plan's denoiser; while it is there, the host computes as in generation."""
    host, settings = model.host, plan.settings
    device = runtime.device_of(host.backbone.unet)
    with ExitStack() as stack:
        stack.enter_context(runtime.float32_by_default())
        stack.enter_context(_evaluating(host, frozen=settings.classifier is not None))
        names = {**{name: name for name in (*host.plugins, *plan.confined)}, **plan.apart}
        regions = {names[name]: Region(mask.to(device)) for name, mask in plan.regions.items() if name in names}
        scales, ranges = settings.scales or {}, {names[n]: ends for n, ends in (settings.ranges or {}).items() if n in names}
        predict = HostDenoiser(host, plan.batch.to(device), scales, settings.without, dtype_of(host), ranges, regions)
        if settings.reuse is not None:  # first: what is reused is not made faster in another way as well
            stack.enter_context(reusing(predict, Reuse(**settings.reuse)))
        stack.enter_context(remembered_projections(host))
        stack.enter_context(fast_generation(host, repeats=not plan.confined))
        yield predict


def _finite(x: Tensor, plan: Plan, dtype: torch.dtype) -> Tensor:
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"frame {plan.frame.token!r}: the latents are not finite in {dtype}; try dtype float32")
    return x


def dtype_of(host: Host) -> torch.dtype:
    """Return the number format of a host's UNet."""
    return next(host.backbone.unet.parameters()).dtype


def _start(host: Host, plan: Plan, generators: list[torch.Generator]) -> Tensor:
    """Give the noise (V, C, h, w) that a plan starts from, on the CPU."""
    factor = host.backbone.vae_factor
    shape = (host.backbone.latent_channels, plan.size[0] // factor, plan.size[1] // factor)
    if plan.noise is not None:
        return plan.noise
    if plan.sampling.noise == "sphere":
        return sphere_noise(plan.seed, plan.frame.cameras, shape, generators)
    return draw_noise(generators, shape)


def _known(plan: Plan, clean: Tensor, noise: Tensor) -> Known | None:
    """Give what of the latents is known; None where nothing is."""
    if plan.mask is None:
        return None
    return Known(clean, noise, cells(plan.mask, *clean.shape[2:]).to(clean.device))


@contextmanager
def _refined(plan: Plan, predict: HostDenoiser) -> Iterator[Denoiser | None]:
    """Give the denoiser of a plan's refiner, guided; None without one.

    Args:
        plan: what to generate.
        predict: the model's denoiser, which knows how many steps are done.
    """
    found, settings = plan.refinement, plan.settings
    if found is None:
        yield None
        return
    host = found.model.host
    with _evaluating(host), refining(found, plan.sampling, settings.scales or {}, tuple(settings.without)) as (own, guided):

        def second(x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
            own.step, own.steps = predict.step, predict.steps
            mine = {name: value for name, value in (known or {}).items() if name in host.plugins}
            return guided(x, t, known=mine) if mine else guided(x, t)

        yield second


def _guided(
    model: Model, plan: Plan, predict: HostDenoiser, to_x0: NoiseSchedule, second: Denoiser | None = None
) -> Any:  # fmt: skip
    """Put around a denoiser what guides it: guidance, agreement, the plugins' own, a classifier.

    Args:
        model: what generates.
        plan: what to generate.
        predict: the model's denoiser.
        to_x0: gives clean latents.
        second: that of the refiner, which takes its turn after guidance; None for none.
    """
    host, sampling = model.host, plan.sampling
    told = told_guidance(plan.plugins, plan.settings.without)
    guided: Any = predict if told else sampling.guided(predict, host.plugins, predict.within)
    if second is not None:
        assert plan.refinement is not None
        guided = in_turns(guided, second, plan.refinement.below)
    if sampling.agreement > 0:
        factor = host.backbone.vae_factor
        shown = overlaps(plan.frame, plan.size[0] // factor, plan.size[1] // factor).to(runtime.device_of(host.backbone.unet))
        guided = agreeing(guided, to_x0, shown, lambda: predict.progress < sampling.agreement)
    for name in plan.plugins:
        guided = host.guide(name, guided, to_x0)
    classifier = plan.settings.classifier
    if classifier is None:
        return guided
    return classifier.guide(guided, to_x0, plan.frame, lambda latents: _decode(host, latents))


def _latents(returned: Any, x: Tensor) -> Tensor | None:
    """Read what a callback returned: latents that replace x, or None."""
    if returned is None:
        return None
    form = "return None, or {'latents': a tensor of the shape that it was given}"
    if not isinstance(returned, Mapping) or set(returned) - {"latents"}:
        what = f"the keys {list(returned)}" if isinstance(returned, Mapping) else f"a {type(returned).__name__}"
        raise InputError(f"callback_on_step_end returned {what}; {form}")
    latents = returned.get("latents")
    if latents is None:
        return None
    if not isinstance(latents, Tensor) or latents.shape != x.shape or not latents.is_floating_point() or latents.is_meta:
        what = f"shape {tuple(latents.shape)}, {latents.dtype}" if isinstance(latents, Tensor) else type(latents).__name__
        raise InputError(f"callback_on_step_end returned latents of {what}, not of shape {tuple(x.shape)}; {form}")
    return latents.to(x)


def _encode(host: Host, pictures: Tensor) -> Tensor:
    device = runtime.device_of(host.backbone.unet)
    with runtime.autocast(device, dtype_of(host)):
        return host.backbone.first_stage.encode(pictures.to(device)).float()


def _decode(host: Host, latents: Tensor) -> Tensor:
    # A view at a time on the CPU: the decoder's activations then stay in its caches.
    size = 1 if latents.device.type == "cpu" else len(latents)
    with runtime.autocast(latents.device, dtype_of(host)):
        return torch.cat([host.backbone.first_stage.decode(part) for part in latents.split(size)])


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

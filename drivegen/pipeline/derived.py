"""Settings made of others: for the inversion of a picture, and of an earlier generation's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from drivegen.pipeline.checks import RECORDED
from drivegen.pipeline.settings import GenerationSettings, UsedSettings
from drivegen.support.errors import InputError


def inverting(settings: GenerationSettings) -> GenerationSettings:
    """Return settings for `Pipeline.invert`, with what it needs where nothing is said; raises InputError for what it cannot."""
    for name, needed in (("sampler", "ddim"), ("repeats", 1)):
        if getattr(settings, name) not in (None, needed):
            raise InputError(
                f"invert goes with {name} {needed!r} alone, and {getattr(settings, name)!r} is given; leave it out"
            )
    for name in ("strength", "latents", "timesteps", "callback_on_step_end", "classifier", "reuse"):
        if getattr(settings, name) is not None:
            raise InputError(f"invert takes no {name}; leave it out")
    guidance = 1.0 if settings.guidance is None else settings.guidance
    image = RECORDED if settings.image is None else settings.image
    return settings.replaced(sampler="ddim", guidance=guidance, agreement=settings.agreement or 0.0, image=image)


def again(settings: GenerationSettings, overrides: Mapping[str, Any]) -> GenerationSettings:
    """Turn the settings of an earlier generation into a caller's; raises InputError for what they do not hold."""
    if not isinstance(settings, UsedSettings):
        return settings
    given = {f.name: getattr(settings, f.name) for f in fields(GenerationSettings)}
    for name in ("regions", "inputs", "image", "mask", "latents", "callback_on_step_end", "classifier"):
        if given.pop(name) and overrides.get(name) is None:
            raise InputError(f"these settings are of a generation that was given {name}, which they do not hold; give it again")
    del given["generator"]  # the seed that it drew is there
    if given["timesteps"] is not None:
        del given["steps"]
    if overrides.get("latents") is not None:
        del given["noise"]  # which the views do not start from then
    if overrides.get("sampler") not in (None, given["sampler"]):
        del given["sampler_options"]  # which are the other sampler's
    return GenerationSettings(**given)

"""How a model samples that has no settings of drivegen's own: as its family, or as the scheduler of a distilled one says."""

from __future__ import annotations

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.sampling.settings import Sampling

_TURBO = {"EulerAncestralDiscreteScheduler": "euler_a", "EulerDiscreteScheduler": "euler"}
"""Schedulers that the folders of adversarially distilled models name (SD Turbo, SDXL Turbo; Sauer et al. 2023)."""


def usual_sampling(backbone: Backbone) -> Sampling:
    """Return the settings of a plain model: one step without guidance for a Turbo model, and else its family's guidance.

    A Turbo model is told by its scheduler: Euler's with trailing timesteps, and no zero terminal SNR, which wants those too.
    """
    config = backbone.scheduler.config
    sampler = _TURBO.get(type(backbone.scheduler).__name__)
    trailing = config.get("timestep_spacing") == "trailing" and not config.get("rescale_betas_zero_snr")
    if sampler is not None and trailing and config.get("prediction_type", "epsilon") == "epsilon":
        return Sampling(sampler=sampler, steps=1, guidance=1.0)
    return Sampling(guidance=backbone.family.guidance)

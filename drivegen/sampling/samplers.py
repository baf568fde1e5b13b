"""diffusers' schedulers by short name, each built from the model's own betas and prediction type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from drivegen.support.errors import InputError, nearest


@dataclass(frozen=True)
class Sampler:
    """A scheduler class of diffusers and the options that it needs to be what its paper says."""

    class_name: str
    options: dict[str, Any] = field(default_factory=dict)
    zero_snr: bool = True
    """Whether the scheduler can start from pure noise (zero terminal signal-to-noise ratio)."""


# Options are stated even where they are diffusers' defaults: a saved scheduler_config.json states those of *its* class, and
# `from_config` would carry, say, DDPM's clip_sample=True into DDIM. Leading spacing goes with steps_offset 1 (Stable
# Diffusion); UniPC ends at sigma_min as before diffusers 0.42, whose new default moves the last step.
_LEADING: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1}
_LINSPACE: dict[str, Any] = {"timestep_spacing": "linspace", "steps_offset": 0}
_TRAILING: dict[str, Any] = {"timestep_spacing": "trailing", "steps_offset": 0}  # with linspace, one step would start at 0
_DPM: dict[str, Any] = {
    "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "solver_order": 2, "thresholding": False,
    "final_sigmas_type": "zero",
}  # fmt: skip

SAMPLERS: dict[str, Sampler] = {
    "unipc": Sampler(
        "UniPCMultistepScheduler",
        {
            "solver_order": 2, "solver_type": "bh2", "predict_x0": True, "lower_order_final": True, "thresholding": False,
            "final_sigmas_type": "sigma_min", **_LINSPACE,
        },
    ),
    "dpm++": Sampler("DPMSolverMultistepScheduler", {**_DPM, **_LINSPACE, "use_karras_sigmas": False}),
    "dpm++_karras": Sampler("DPMSolverMultistepScheduler", {**_DPM, **_LINSPACE, "use_karras_sigmas": True}),
    "dpm++_sde": Sampler("DPMSolverMultistepScheduler", {**_DPM, **_LINSPACE, "algorithm_type": "sde-dpmsolver++"}),
    "ddim": Sampler("DDIMScheduler", {"clip_sample": False, "thresholding": False, "set_alpha_to_one": False, **_LEADING}),
    "ddpm": Sampler("DDPMScheduler", {"clip_sample": False, "thresholding": False, "variance_type": "fixed_small", **_LEADING}),
    "pndm": Sampler("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, **_LEADING}, zero_snr=False),
    "euler": Sampler("EulerDiscreteScheduler", {"final_sigmas_type": "zero", "use_karras_sigmas": False, **_TRAILING}),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler", _TRAILING),
    "heun": Sampler("HeunDiscreteScheduler", {"clip_sample": False, "use_karras_sigmas": False, **_TRAILING}, zero_snr=False),
}  # fmt: skip
"""The closed table of samplers that `--sampler` and drivegen.json may name."""


def check_sampler(name: str) -> Sampler:
    """Return the sampler of that name; raises InputError that lists the names."""
    if not isinstance(name, str) or name not in SAMPLERS:
        raise InputError(f"no sampler {name!r}; there are {', '.join(SAMPLERS)}{nearest(str(name), SAMPLERS)}")
    return SAMPLERS[name]


def build_scheduler(name: str, trained: Any, steps: int, device: Any = None) -> Any:
    """Build a fresh diffusers scheduler with its timesteps set, from the scheduler that the model was trained with.

    A model trained to zero terminal SNR keeps trailing spacing, without which its first step would not be pure noise (Lin et
    al. 2023, §3.3).
    """
    import diffusers

    sampler = check_sampler(name)
    options = dict(sampler.options)
    if trained.config.get("rescale_betas_zero_snr"):
        if not sampler.zero_snr:
            able = ", ".join(n for n, s in SAMPLERS.items() if s.zero_snr)
            raise InputError(f"the model has zero terminal SNR, where the sampler {name!r} cannot start; use one of {able}")
        options |= _TRAILING
    scheduler = getattr(diffusers, sampler.class_name).from_config(trained.config, **options)
    total = int(scheduler.config.num_train_timesteps)
    if steps > total:
        raise InputError(f"{steps} steps are more than the {total} timesteps that the model was trained with")
    scheduler.set_timesteps(steps, device=device)
    return scheduler

"""diffusers' schedulers by short name, each built from the facts of a model's training and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from drivegen.diffusion.training_facts import PREDICTIONS, training_facts
from drivegen.support.errors import InputError, nearest, reason


@dataclass(frozen=True)
class Sampler:
    """A scheduler class of diffusers and the options that it needs to be what its paper says."""

    class_name: str
    options: dict[str, Any] = field(default_factory=dict)
    zero_snr: bool = True
    """Whether the scheduler can start from pure noise (zero terminal signal-to-noise ratio)."""
    predictions: tuple[str, ...] = PREDICTIONS
    """What the network may predict for the scheduler to work."""
    equal_steps: bool = False
    """Whether the scheduler goes from each timestep by the same distance, whatever its list of timesteps says."""
    otherwise: Sampler | None = None
    """The same method where the distances cannot be equal; None = there is none."""


# Options that decide what a sampler is are stated even where they are diffusers' defaults, which change; of a model's own
# scheduler_config.json none is taken. Leading spacing goes with steps_offset 1 (Stable Diffusion); UniPC ends at sigma_min as
# before diffusers 0.42, whose new default moves the last step.
_LEADING: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1}
_LINSPACE: dict[str, Any] = {"timestep_spacing": "linspace", "steps_offset": 0}
_TRAILING: dict[str, Any] = {"timestep_spacing": "trailing", "steps_offset": 0}  # with linspace, one step would start at 0
_NOISE = ("epsilon", "v_prediction")
_DPM: dict[str, Any] = {
    "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "solver_order": 2, "thresholding": False,
    "final_sigmas_type": "zero",
}  # fmt: skip

# DPM-Solver of order one is DDIM (Lu et al. 2022, section 4.1), and goes to whichever timestep is next.
_DDIM_UNEQUAL = Sampler(
    "DPMSolverMultistepScheduler", {**_DPM, "solver_order": 1, "final_sigmas_type": "sigma_min", **_TRAILING}
)

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
    "ddim": Sampler(
        "DDIMScheduler", {"clip_sample": False, "thresholding": False, "set_alpha_to_one": False, **_LEADING},
        equal_steps=True, otherwise=_DDIM_UNEQUAL,
    ),
    "ddpm": Sampler("DDPMScheduler", {"clip_sample": False, "thresholding": False, "variance_type": "fixed_small", **_LEADING}),
    "pndm": Sampler(
        "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, **_LEADING}, zero_snr=False, predictions=_NOISE,
        equal_steps=True,
    ),
    "euler": Sampler("EulerDiscreteScheduler", {"final_sigmas_type": "zero", "use_karras_sigmas": False, **_TRAILING}),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler", _TRAILING, predictions=_NOISE),
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

    Raises InputError where the sampler cannot run the model, or not in so many steps.

    Args:
        name: one of SAMPLERS.
        trained: the model's scheduler; `training_facts` are taken from it, and nothing of how it would sample.
        steps: from 1 to the number of timesteps in training.
        device: where the timesteps lie; the CPU when None.
    """
    import diffusers

    sampler, facts = check_sampler(name), training_facts(trained)
    total = facts["num_train_timesteps"]
    if isinstance(steps, bool) or not isinstance(steps, int) or not steps >= 1:
        raise InputError(
            f"{steps!r} steps must be a whole number from 1 to {total}, the timesteps that the model was trained with"
        )
    if steps > total:
        raise InputError(f"{steps} steps are more than the {total} timesteps that the model was trained with")
    _check_able(name, "zero terminal SNR, where", facts["rescale_betas_zero_snr"], lambda other: other.zero_snr)
    kind = facts["prediction_type"]
    _check_able(name, f"prediction_type {kind!r}, with which", True, lambda other: kind in other.predictions)
    if sampler.equal_steps and _left_over(steps, total):
        if sampler.otherwise is None:
            raise InputError(
                f"the sampler {name!r} takes equal steps, and {steps} do not divide the {total} timesteps of the model's "
                f"training; use up to {total // 20}, {total // 2}, {total}, or another sampler"
            )
        sampler = sampler.otherwise
    cls = getattr(diffusers, sampler.class_name)
    known = inspect.signature(cls.__init__).parameters
    options = {**sampler.options, **_spacing(sampler, steps, total, facts["rescale_betas_zero_snr"])}
    try:
        scheduler = cls(**{key: value for key, value in facts.items() if key in known}, **options)
        scheduler.set_timesteps(steps, device=device)
    except Exception as error:  # diffusers raises whatever a schedule that is none leads to
        raise InputError(f"the sampler {name!r} cannot be built for this model in {steps} steps: {reason(error)}") from error
    if hasattr(scheduler, "set_begin_index"):
        # Sigmas spaced by another rule than time may share a timestep; without this some classes would begin at the second.
        scheduler.set_begin_index(0)
    return scheduler


def _check_able(name: str, what: str, asked: bool, able: Callable[[Sampler], bool]) -> None:
    if asked and not able(SAMPLERS[name]):
        others = ", ".join(other for other, sampler in SAMPLERS.items() if able(sampler))
        raise InputError(f"the model has {what} the sampler {name!r} cannot start; use one of {others}")


def _left_over(steps: int, total: int) -> bool:
    """Tell whether steps of a whole number of timesteps leave more than a twentieth of them over."""
    return total - steps * (total // steps) > total / 20


def _spacing(sampler: Sampler, steps: int, total: int, zero_snr: bool) -> dict[str, Any]:
    """Give the spacing of timesteps: the sampler's own, or trailing where that would not start from noise.

    A model trained to zero terminal SNR starts at its last timestep (Lin et al. 2023, section 3.3). Leading spacing takes
    multiples of ⌊total / steps⌋ from 1 on: a single step would begin at 1, and where the division leaves much over the first
    begins far from noise; in as many steps as timesteps no spacing but trailing exists.
    """
    ends_early = sampler.options.get("timestep_spacing") == "leading" and (steps == 1 or _left_over(steps, total))
    return _TRAILING if zero_snr or ends_early or steps == total else {}

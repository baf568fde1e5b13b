"""The samplers through diffusers' schedulers, and whether a sampler can run a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from drivegen.catalog import samplers as catalog
from drivegen.plugin.sampler import Run, Sampler
from drivegen.sampling.through_diffusers import LEADING, LINSPACE, TRAILING, ThroughDiffusers
from drivegen.support.errors import InputError
from drivegen.support.values import number, whole

# Settings that decide what a sampler is are stated even where they are diffusers' defaults, which change; of a model's own
# scheduler_config.json none is taken. UniPC ends at sigma_min as before diffusers 0.42, whose new default moves the last step.
_NOISE = ("epsilon", "v_prediction")
_DPM: dict[str, Any] = {
    "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "solver_order": 2, "thresholding": False,
    "final_sigmas_type": "zero",
}  # fmt: skip


class UniPC(ThroughDiffusers):
    """UniPC of order two: a predictor and a corrector that costs no evaluation (Zhao et al. 2023)."""

    class_name = "UniPCMultistepScheduler"
    settings: ClassVar[Mapping[str, Any]] = {
        "solver_order": 2, "solver_type": "bh2", "predict_x0": True, "lower_order_final": True, "thresholding": False,
        "final_sigmas_type": "sigma_min", **LINSPACE,
    }  # fmt: skip


class DPM(ThroughDiffusers):
    """DPM-Solver++ of order two (Lu et al. 2022)."""

    class_name = "DPMSolverMultistepScheduler"
    settings: ClassVar[Mapping[str, Any]] = {**_DPM, **LINSPACE, "use_karras_sigmas": False}


class DPMKarras(ThroughDiffusers):
    """DPM-Solver++ of order two on the noise levels of Karras et al. (2022)."""

    class_name = "DPMSolverMultistepScheduler"
    settings: ClassVar[Mapping[str, Any]] = {**_DPM, **LINSPACE, "use_karras_sigmas": True}


class DPMStochastic(ThroughDiffusers):
    """DPM-Solver++ of order two that draws noise at each step (its SDE)."""

    class_name = "DPMSolverMultistepScheduler"
    settings: ClassVar[Mapping[str, Any]] = {**_DPM, **LINSPACE, "algorithm_type": "sde-dpmsolver++"}


class DDIMUnequal(ThroughDiffusers):
    """DDIM to whichever timestep is next: DPM-Solver of order one (Lu et al. 2022, section 4.1)."""

    class_name = "DPMSolverMultistepScheduler"
    settings: ClassVar[Mapping[str, Any]] = {**_DPM, "solver_order": 1, "final_sigmas_type": "sigma_min", **TRAILING}


class DDIM(ThroughDiffusers):
    """DDIM without noise between steps (Song et al. 2021)."""

    class_name = "DDIMScheduler"
    settings: ClassVar[Mapping[str, Any]] = {"clip_sample": False, "thresholding": False, "set_alpha_to_one": False, **LEADING}
    equal_steps = True
    otherwise = DDIMUnequal


class DDPM(ThroughDiffusers):
    """Ancestral sampling, up to as many steps as training has timesteps (Ho et al. 2020)."""

    class_name = "DDPMScheduler"
    settings: ClassVar[Mapping[str, Any]] = {
        "clip_sample": False, "thresholding": False, "variance_type": "fixed_small", **LEADING,
    }  # fmt: skip


class PNDM(ThroughDiffusers):
    """PLMS, a linear multistep method of order four (Liu et al. 2022); it evaluates its second timestep twice."""

    class_name = "PNDMScheduler"
    settings: ClassVar[Mapping[str, Any]] = {"skip_prk_steps": True, "set_alpha_to_one": False, **LEADING}
    zero_snr = False
    predictions = _NOISE
    equal_steps = True


class Euler(ThroughDiffusers):
    """Euler's method on noise levels (Karras et al. 2022)."""

    class_name = "EulerDiscreteScheduler"
    settings: ClassVar[Mapping[str, Any]] = {"final_sigmas_type": "zero", "use_karras_sigmas": False, **TRAILING}


class EulerAncestral(ThroughDiffusers):
    """Euler's method that draws noise at each step."""

    class_name = "EulerAncestralDiscreteScheduler"
    settings: ClassVar[Mapping[str, Any]] = TRAILING
    predictions = _NOISE


class Heun(ThroughDiffusers):
    """Heun's method, two evaluations per step (Karras et al. 2022)."""

    class_name = "HeunDiscreteScheduler"
    settings: ClassVar[Mapping[str, Any]] = {"clip_sample": False, "use_karras_sigmas": False, **TRAILING}
    zero_snr = False


class _Distilled(ThroughDiffusers):
    """What was distilled on a teacher's steps, and takes some of them.

    Args:
        original_inference_steps: how many steps the distillation's solver took; the sampler's steps are some of them.
    """

    distilled = True

    def __init__(self, original_inference_steps: int = 50) -> None:
        self.original_inference_steps = whole(original_inference_steps, "original_inference_steps", 1)

    def chosen(self, run: Run) -> Mapping[str, Any]:
        """State the steps of the distillation's solver; raises InputError where they do not cover the timesteps."""
        original, total = self.original_inference_steps, run.facts["num_train_timesteps"]
        if original > total or total - original * (total // original) > total / 20:
            raise InputError(
                f"original_inference_steps {original} of the sampler {run.name!r} do not divide the {total} timesteps of the "
                "model's training; it is the number of steps that the distillation's solver took, such as 50"
            )
        if run.steps > original:
            raise InputError(
                f"{run.steps} steps are more than the {original} of the distillation's solver (original_inference_steps), "
                f"of which the sampler {run.name!r} takes some"
            )
        return {"original_inference_steps": original}


class LCM(_Distilled):
    """Latent consistency models: jump to the clean latents, draw noise, jump again (Luo et al. 2023)."""

    class_name = "LCMScheduler"
    settings: ClassVar[Mapping[str, Any]] = {"clip_sample": False, "thresholding": False, "timestep_scaling": 10.0}


class TCD(_Distilled):
    """Trajectory consistency distillation: jump along the trajectory, draw noise, jump again (Zheng et al. 2024).

    Args:
        original_inference_steps: how many steps the distillation's solver took; the sampler's steps are some of them.
        eta: the paper's γ, how much noise is drawn at each step: 0 draws none, 1 goes by the clean latents.
    """

    class_name = "TCDScheduler"
    settings: ClassVar[Mapping[str, Any]] = {"clip_sample": False, "thresholding": False, "timestep_scaling": 10.0}

    def __init__(self, original_inference_steps: int = 50, eta: float = 0.3) -> None:
        super().__init__(original_inference_steps)
        self.eta = number(eta, "eta", 0, 1)

    def in_steps(self) -> Mapping[str, Any]:
        """Give γ to each step."""
        return {"eta": self.eta}


SAMPLERS: dict[str, type[ThroughDiffusers]] = {
    "unipc": UniPC, "dpm++": DPM, "dpm++_karras": DPMKarras, "dpm++_sde": DPMStochastic, "ddim": DDIM, "ddpm": DDPM,
    "pndm": PNDM, "euler": Euler, "euler_a": EulerAncestral, "heun": Heun, "lcm": LCM, "tcd": TCD,
}  # fmt: skip
"""The samplers of this module by the names of their entry points."""


def check_run(sampler: Sampler, run: Run) -> None:
    """Raise InputError where a sampler cannot run a model, or not in so many steps; it says which others can."""
    facts, steps = run.facts, run.steps
    total = facts["num_train_timesteps"]
    if isinstance(steps, bool) or not isinstance(steps, int) or not steps >= 1:
        raise InputError(
            f"{steps!r} steps must be a whole number from 1 to {total}, the timesteps that the model was trained with"
        )
    if steps > total:
        raise InputError(f"{steps} steps are more than the {total} timesteps that the model was trained with")
    if facts["rescale_betas_zero_snr"] and not sampler.zero_snr:
        _refuse(run, "the model has zero terminal SNR, where the sampler {} cannot start", lambda other: other.zero_snr)
    kind = facts["prediction_type"]
    if kind not in sampler.predictions:
        what = f"the model has prediction_type {kind!r}, with which the sampler {{}} cannot start"
        _refuse(run, what, lambda other: kind in other.predictions)
    if run.timesteps is not None:
        if run.timesteps[0] >= total:
            raise InputError(f"timestep {run.timesteps[0]} must be from 0 to {total - 1}, the model's last")
        if not sampler.takes_timesteps():
            _refuse(run, "the sampler {} takes no timesteps", lambda other: other.takes_timesteps())
    sampler.timesteps(run)


def _refuse(run: Run, what: str, able: Callable[[type[Sampler]], bool]) -> None:
    others = ", ".join(other for other, sampler in SAMPLERS.items() if able(sampler) and not sampler.distilled)
    raise InputError(f"{what.format(repr(run.name))}; use one of {others}")


def build_scheduler(
    name: str, trained: Any, steps: int, device: Any = None, options: Mapping[str, Any] | None = None
) -> Any:  # fmt: skip
    """Build a fresh diffusers scheduler with its timesteps set, from the scheduler that the model was trained with.

    Raises InputError where the sampler cannot run the model, or not in so many steps, or is not one of diffusers'.

    Args:
        name: one of SAMPLERS.
        trained: the model's scheduler; `training_facts` are taken from it, and nothing of how it would sample.
        steps: from 1 to the number of timesteps in training.
        device: where the timesteps lie; the CPU when None.
        options: the sampler's own, by name.
    """
    sampler, run = catalog.make(name, options), Run(trained=trained, steps=steps, name=name, device=device)
    if not isinstance(sampler, ThroughDiffusers):
        raise InputError(f"the sampler {name!r} is no scheduler of diffusers; such are {', '.join(SAMPLERS)}")
    check_run(sampler, run)
    return sampler.scheduler(run)

"""A model's training facts, read from its scheduler: betas over timesteps, and what the network predicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from drivegen.support.errors import InputError, nearest, reason

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a network may predict: the noise, v = α·ε − σ·x0 (Salimans and Ho 2022, eq. 12), or the clean latents."""

MAX_TIMESTEPS = 100_000

_COMMON = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""Beta schedules that every scheduler here can build by name; of any other the betas themselves are passed."""

_OTHER_TRAINING = {
    "EDM": "networks trained by EDM, on noise levels", "FlowMatch": "networks trained by flow matching",
    "CMStochastic": "consistency models", "Consistency": "consistency decoders", "ScoreSde": "score networks of an SDE",
    "KarrasVe": "score networks of an SDE", "VQDiffusion": "networks that denoise codes",
    "Amused": "networks that denoise codes",
    "CogVideoX": "CogVideoX, whose noise schedule is shifted",
}  # fmt: skip


def check_settings(class_name: str, config: Mapping[str, Any]) -> None:
    """Refuse an unsupported scheduler configuration before anything is built from it; raises InputError naming the setting.

    Args:
        class_name: the scheduler's class in diffusers.
        config: its settings; what is missing is the class's default.
    """
    for beginning, what in _OTHER_TRAINING.items():
        if class_name.startswith(beginning):
            raise InputError(f"the scheduler {class_name} is for {what}; hosted are networks trained with betas over timesteps")
    check_prediction(config.get("prediction_type", "epsilon"), "the scheduler's prediction_type")
    if config.get("timestep_type", "discrete") != "discrete":
        raise InputError(
            f"the scheduler's timestep_type {config['timestep_type']!r} is for networks that take noise levels in place of "
            "timesteps, such as Stable Video Diffusion's; hosted are networks trained with betas over timesteps"
        )
    if config.get("use_flow_sigmas"):
        raise InputError(
            "the scheduler's use_flow_sigmas is for networks trained by flow matching; hosted are networks trained with betas "
            "over timesteps"
        )
    steps = config.get("num_train_timesteps", 1000)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_TIMESTEPS:
        raise InputError(f"the scheduler's num_train_timesteps {steps!r} must be a whole number from 1 to {MAX_TIMESTEPS}")
    betas = _listed(config.get("trained_betas"))
    for name, value in [(n, config.get(n, 0.01)) for n in ("beta_start", "beta_end")] if betas is None else []:
        if not _is_beta(value):
            raise InputError(f"the scheduler's {name} {value!r} must be a number above 0 and up to 1")
    if betas is not None:
        wrong = [beta for beta in betas if not _is_beta(beta)]
        if wrong or len(betas) != steps:
            found = f"hold {wrong[0]!r}" if wrong else f"are {len(betas)} numbers for {steps} timesteps"
            raise InputError(
                f"the scheduler's trained_betas {found}; needed is a number above 0 and up to 1 for each of num_train_timesteps"
            )


def check_prediction(kind: Any, what: str = "prediction_type") -> None:
    """Raise InputError unless a prediction type is one of PREDICTIONS; `what` names it in the error."""
    if kind not in PREDICTIONS:
        why = "is that of flow matching" if "flow" in str(kind) else f"is unknown{nearest(str(kind), PREDICTIONS)}"
        raise InputError(f"{what} {kind!r} {why}; hosted are {', '.join(PREDICTIONS)}")


def training_facts(scheduler: Any) -> dict[str, Any]:
    """Return a diffusers scheduler's training facts, as arguments that any of its scheduler classes takes.

    They are the betas (by schedule, or one by one), the number of timesteps, the prediction type and whether the last timestep
    is pure noise. Settings of sampling are left out. Raises InputError where the training did not use betas, or the facts
    contradict each other: epsilon is undetermined at pure noise (Lin et al. 2023).
    """
    config, own = getattr(scheduler, "config", None), getattr(scheduler, "alphas_cumprod", None)
    name = type(scheduler).__name__
    if not isinstance(config, Mapping):
        raise InputError(f"the scheduler is a {name}, and one of diffusers' schedulers is needed")
    check_settings(name, config)
    if not isinstance(own, Tensor) or "num_train_timesteps" not in config:
        raise InputError(f"the scheduler {name} has no betas over timesteps, by which hosted networks were trained")
    facts = {
        "num_train_timesteps": int(config["num_train_timesteps"]), "prediction_type": config.get("prediction_type", "epsilon"),
        "rescale_betas_zero_snr": bool(config.get("rescale_betas_zero_snr")),
    }  # fmt: skip
    facts |= _betas(scheduler, config)
    plain = _alphas(facts | {"rescale_betas_zero_snr": False}, name)
    alphas = _alphas(facts, name) if facts["rescale_betas_zero_snr"] else plain
    if not own.is_meta and not any(_alike(own.float().cpu(), expected) for expected in (alphas, plain)):
        raise InputError(f"the scheduler {name} changes the noise that its betas state, which no sampler here would follow")
    if float(alphas[-1]) == 0:
        facts["rescale_betas_zero_snr"] = True  # where the betas themselves end at pure noise, samplers must know it
        if facts["prediction_type"] == "epsilon":
            raise InputError(
                "the scheduler states zero terminal SNR with prediction_type 'epsilon', which says nothing of the picture at "
                "pure noise; such a model predicts v: state prediction_type 'v_prediction', or no rescale_betas_zero_snr"
            )
    return facts


def _betas(scheduler: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """State the betas by the name of their schedule where every scheduler class knows it, else one by one."""
    given = _listed(config.get("trained_betas"))
    if given is not None:
        return {"trained_betas": given}
    if config.get("beta_schedule") in _COMMON:
        named = {key: config[key] for key in ("beta_start", "beta_end") if key in config}
        return {"beta_schedule": config["beta_schedule"], **named}
    own = getattr(scheduler, "betas", None)
    if not isinstance(own, Tensor):
        raise InputError(f"the scheduler {type(scheduler).__name__} has no betas over timesteps")
    if config.get("rescale_betas_zero_snr"):
        own = type(scheduler).from_config({**config, "rescale_betas_zero_snr": False}).betas
    return {"trained_betas": own.tolist()}


def _alphas(facts: Mapping[str, Any], name: str) -> Tensor:
    from diffusers import DDPMScheduler

    try:
        with torch.device("cpu"):  # whatever device a program has made the default
            alphas: Tensor = DDPMScheduler(**facts).alphas_cumprod
    except Exception as error:  # diffusers raises whatever a wrong setting leads to
        raise InputError(f"the noise schedule of the scheduler {name} cannot be computed: {reason(error)}") from error
    if not bool(torch.isfinite(alphas).all()) or bool((alphas < 0).any()) or bool((alphas.diff() > 0).any()):
        raise InputError(
            f"the betas of the scheduler {name} do not make a noise schedule, where ever less is left of the picture"
        )
    return alphas


def _alike(own: Tensor, expected: Tensor) -> bool:
    """Compare noise schedules; some classes lift the last timestep off zero by 2⁻²⁴."""
    return own.shape == expected.shape and torch.allclose(own, expected, rtol=1e-3, atol=1e-6)


def _listed(values: Any) -> list[Any] | None:
    if values is None or isinstance(values, list):
        return values
    return list(values.tolist()) if hasattr(values, "tolist") else list(values) if isinstance(values, tuple) else [values]


def _is_beta(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 < value <= 1

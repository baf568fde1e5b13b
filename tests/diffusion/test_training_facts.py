"""What a scheduler says of training: taken whole from any class of diffusers, or refused with a sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.diffusion.training_facts import check_settings, training_facts
from drivegen.support.errors import InputError


def scheduler(class_name: str, **options: Any) -> Any:
    import diffusers

    return getattr(diffusers, class_name)(**options)


@pytest.mark.parametrize(
    ("class_name", "options"),
    [
        ("DDPMScheduler", {}), ("DDPMScheduler", {"beta_schedule": "sigmoid"}), ("DDPMScheduler", {"beta_schedule": "laplace"}),
        ("PNDMScheduler", {"beta_schedule": "squaredcos_cap_v2"}), ("LCMScheduler", {}), ("KDPM2DiscreteScheduler", {}),
        ("HeunDiscreteScheduler", {"beta_schedule": "exp"}), ("UnCLIPScheduler", {}), ("DDIMScheduler", {"beta_start": 0.002}),
        ("EulerDiscreteScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
        ("DDIMScheduler", {"trained_betas": torch.linspace(0.001, 0.02, 10).tolist(), "num_train_timesteps": 10}),
    ],
)  # fmt: skip
def test_any_class_of_diffusers_gives_its_noise(class_name: str, options: dict[str, Any]) -> None:
    own = scheduler(class_name, **options)
    schedule = NoiseSchedule.trained(own)
    torch.testing.assert_close(schedule.alphas_cumprod, own.alphas_cumprod, rtol=1e-5, atol=1e-6)
    assert schedule.prediction_type == own.config.prediction_type


def test_betas_that_end_at_pure_noise_are_zero_terminal_snr() -> None:
    betas = [*torch.linspace(0.001, 0.5, 9).tolist(), 1.0]
    options = {"trained_betas": betas, "num_train_timesteps": 10}
    assert training_facts(scheduler("DDPMScheduler", prediction_type="v_prediction", **options))["rescale_betas_zero_snr"]
    with pytest.raises(InputError, match="zero terminal SNR with prediction_type 'epsilon'"):
        training_facts(scheduler("DDPMScheduler", **options))


@pytest.mark.parametrize(
    ("class_name", "options", "said"),
    [
        ("EDMEulerScheduler", {}, "trained by EDM"), ("EDMDPMSolverMultistepScheduler", {}, "trained by EDM"),
        ("FlowMatchEulerDiscreteScheduler", {}, "trained by flow matching"),
        ("FlowMatchHeunDiscreteScheduler", {}, "trained by flow matching"),
        ("CMStochasticIterativeScheduler", {}, "consistency models"), ("IPNDMScheduler", {}, "has no betas over timesteps"),
        ("CogVideoXDDIMScheduler", {}, "whose noise schedule is shifted"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "noise levels in place of timesteps"),
        ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True}, "that of flow matching"),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}, "trained by flow matching"),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "trained by flow matching"),
        ("DDIMScheduler", {"prediction_type": "epsilom"}, r"is unknown \(did you mean 'epsilon'\?\)"),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}, "zero terminal SNR with prediction_type 'epsilon'"),
    ],
)  # fmt: skip
def test_training_of_another_kind_is_refused_by_name(class_name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        training_facts(scheduler(class_name, **options))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_train_timesteps": 10**9}, "num_train_timesteps 1000000000 must be a whole number from 1 to"),
        ({"num_train_timesteps": 0}, "num_train_timesteps 0"), ({"num_train_timesteps": True}, "num_train_timesteps True"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas are 2 numbers for 1000 timesteps"),
        ({"trained_betas": [-0.1] * 1000}, "trained_betas hold -0.1"), ({"trained_betas": "x"}, "trained_betas hold 'x'"),
        ({"trained_betas": [float("nan")] * 1000}, "trained_betas hold nan"),
        ({"beta_start": "a"}, "beta_start 'a'"), ({"beta_end": float("inf")}, "beta_end inf"), ({"beta_end": 0}, "beta_end 0"),
        ({"beta_start": [0.1]}, r"beta_start \[0.1\]"), ({"prediction_type": 3}, "prediction_type 3 is unknown"),
    ],
)  # fmt: skip
def test_settings_are_refused_before_anything_is_built(config: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_settings("DDPMScheduler", config)


def test_what_is_no_scheduler_is_refused() -> None:
    for wrong in (None, 3, torch.nn.Linear(1, 1)):
        with pytest.raises(InputError, match=r"one of diffusers' schedulers is needed"):
            training_facts(wrong)

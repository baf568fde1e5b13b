"""DDIM's step and its inverse, equal to diffusers'; the grid of a sampler; guidance as sampling has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.objectives.noise import Noise
from drivegen.objectives.solver import CLEAN, Guided, grid, jump, leading_to
from drivegen.sampling import classifier_free
from drivegen.testing.objectives import Case

BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
X, PREDICTION = (torch.randn(2, 4, 8, 8, generator=torch.manual_seed(seed)) for seed in (0, 1))


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_jump_is_diffusers_ddim_step_and_is_undone(kind: str, zero_snr: bool) -> None:
    if zero_snr and kind == "epsilon":
        pytest.skip("no such model")
    scheduler = DDIMScheduler(
        **BETAS, prediction_type=kind, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing",
        rescale_betas_zero_snr=zero_snr,
    )  # fmt: skip
    scheduler.set_timesteps(8)
    schedule = NoiseSchedule(scheduler.alphas_cumprod, kind)
    assert scheduler.timesteps.tolist() == grid(1000, 8).flip(0).tolist()
    ends = [*scheduler.timesteps[1:].tolist(), CLEAN]
    for t, to in zip(scheduler.timesteps, ends, strict=True):
        expected = scheduler.step(PREDICTION, t, X).prev_sample
        rows, there = t.expand(2), torch.full((2,), to)
        landed = jump(schedule, X, rows, PREDICTION, there)
        torch.testing.assert_close(landed, expected, rtol=2e-5, atol=2e-5)
        back = leading_to(schedule, X, rows, landed, there)
        torch.testing.assert_close(jump(schedule, X, rows, back, there), landed, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(back, PREDICTION, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("steps", [1, 2, 5, 16, 20])
def test_the_grid_is_that_of_the_sampler(steps: int) -> None:
    scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == grid(1000, steps).flip(0).tolist()


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guidance_is_sampling_s(rescale: float) -> None:
    case = Case(Noise)
    module = case.module()
    lesson, host = case.lesson(module), module.host
    at: Any = {name: torch.ones(2, dtype=torch.bool) for name in host.plugins}
    lesson.keep = at
    x = lesson.noisy()
    with torch.no_grad():
        found = Guided(lesson, host, 3.0, ("asked",), rescale)(x, lesson.t)

        def denoise(x: torch.Tensor, t: torch.Tensor, known: Any = None) -> torch.Tensor:
            return host(x, t, host.encode(lesson.arrays, lesson.grid, known or {}))

        expected = classifier_free(denoise, 3.0, ("asked",), rescale)(x, lesson.t)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(Guided(lesson, host)(x, lesson.t), denoise(x, lesson.t).detach())

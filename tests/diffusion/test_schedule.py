"""One owner of the noise schedule: equal to diffusers' numbers, and the same ones in training and sampling."""

from __future__ import annotations

import pytest
import torch

from drivegen.diffusion.loss_weighting import min_snr_weights
from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.support.errors import InputError
from tests.tiny_models import tiny_backbone


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_noise_and_targets_are_those_of_diffusers(kind):
    from diffusers import DDPMScheduler, PNDMScheduler
    from diffusers.training_utils import compute_snr

    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": kind}
    theirs = DDPMScheduler(**options)
    ours = NoiseSchedule.trained(PNDMScheduler(**options))  # what a Stable Diffusion folder holds
    x, e, t = torch.randn(5, 4, 3, 3), torch.randn(5, 4, 3, 3), torch.tensor([0, 7, 300, 700, 999])
    torch.testing.assert_close(ours.add_noise(x, e, t), theirs.add_noise(x, e, t))
    torch.testing.assert_close(ours.target(x, e, t), e if kind == "epsilon" else theirs.get_velocity(x, e, t))
    snr = compute_snr(theirs, t)
    expected = snr.clamp(max=5) / (snr + (kind == "v_prediction"))
    torch.testing.assert_close(min_snr_weights(ours, t, 5.0), expected, rtol=1e-4, atol=1e-6)


def test_min_snr_weighs_the_error_in_x0_alike_whatever_is_predicted():
    alphas = torch.linspace(0.99, 0.01, 50)
    x, e, t, d = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2), torch.tensor([0, 9, 30, 49]), torch.randn(4, 1, 2, 2) * 0.1
    a = alphas[t].view(-1, 1, 1, 1)
    wrong = {
        "sample": d,
        "epsilon": -(a / (1 - a)).sqrt() * d,
        "v_prediction": -d / (1 - a).sqrt(),
    }  # the same x0 error, at fixed noisy x
    losses = []
    for kind, error in wrong.items():
        schedule = NoiseSchedule(alphas, kind)
        prediction = schedule.target(x, e, t) + error
        squares = (prediction - schedule.target(x, e, t)).square().mean((1, 2, 3))
        losses.append(min_snr_weights(schedule, t, 5.0) * squares)
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_clean_latents_inverts_the_noising(kind: str) -> None:
    backbone = tiny_backbone(prediction_type=kind)
    x0, noise = torch.randn(2, 3, 4, 4, 7).unbind(0)
    t = torch.tensor([3, 400, 990])
    x = backbone.scheduler.add_noise(x0, noise, t)
    prediction = {"epsilon": noise, "sample": x0, "v_prediction": backbone.scheduler.get_velocity(x0, noise, t)}[kind]
    torch.testing.assert_close(NoiseSchedule.of(backbone.scheduler)(x, t, prediction), x0, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_training_and_sampling_agree(kind: str) -> None:
    schedule = NoiseSchedule.trained(tiny_backbone(prediction_type=kind).scheduler)
    x0, noise, t = torch.randn(3, 4, 2, 5), torch.randn(3, 4, 2, 5), torch.tensor([1, 500, 900])
    noisy, target = schedule.add_noise(x0, noise, t), schedule.target(x0, noise, t)
    torch.testing.assert_close(schedule(noisy, t, target), x0, rtol=1e-3, atol=1e-4)
    delta = torch.randn_like(x0)
    torch.testing.assert_close(schedule(noisy, t, schedule.shift_x0(t, target, delta)), x0 + delta, rtol=1e-3, atol=1e-3)


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(InputError, match="'velocity' is not one of epsilon, v_prediction, sample"):
        NoiseSchedule(torch.linspace(0.9, 0.1, 5), "velocity")

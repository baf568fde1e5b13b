"""Pictures as noise: DDIM's steps undone, alone and through a pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from drivegen.catalog import samplers
from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.pipeline.pipeline import Pipeline
from drivegen.sampling import Sampling, invert
from drivegen.sampling.inversion import angle
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from drivegen.testing.samplers import DEVIATION, MEAN, Case, gaussian
from tests.street import camera, street_frame
from tests.tiny_hosts import SIZE, tiny_host

KINDS = [("epsilon", False), ("v_prediction", False), ("v_prediction", True), ("sample", False)]


def pictures(rows: int = 4) -> Tensor:
    return MEAN + DEVIATION * torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("kind", "zero_snr"), KINDS)
def test_a_step_is_that_of_diffusers(kind: str, zero_snr: bool) -> None:
    import diffusers

    trained = Case(samplers.load("ddim")).trained(kind, zero_snr)
    ddim = diffusers.DDIMScheduler.from_config(
        dict(trained.config), clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing"
    )
    ddim.set_timesteps(10)
    x, prediction = pictures(), torch.randn(4, 4, 8, 8)
    for i, t in enumerate(ddim.timesteps.tolist()):
        before = t - 100
        alphas = ddim.alphas_cumprod.double()
        after = alphas[before] if before >= 0 else alphas[0]
        delta = angle(float(alphas[t]), float(after))
        v = NoiseSchedule.of(ddim).velocity(x, torch.tensor(t), prediction)
        theirs = ddim.step(prediction, t, x, return_dict=False)[0]
        torch.testing.assert_close(np.cos(delta) * x - np.sin(delta) * v, theirs, rtol=1e-4, atol=1e-4, msg=f"step {i}")


@pytest.mark.parametrize(("kind", "zero_snr"), KINDS)
def test_a_gaussian_comes_back(kind: str, zero_snr: bool) -> None:
    """More evaluations per step come nearer; the noise is that of a Gaussian."""
    case = Case(samplers.load("ddim"), prediction_type=kind)
    clean, errors = pictures(), []
    for iterations in (1, 2, 4, 8):
        run = case.run(case.trained(kind, zero_snr), rows=4, steps=20)
        denoise = gaussian(run.schedule)
        noise = invert(denoise, clean, run, iterations)
        back = case.made()(denoise, noise, run)
        errors.append(float((back - clean).norm() / clean.norm()))
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[0] > 0.005
    assert errors[-1] < 2e-4
    assert abs(float(noise.std()) - 1) < 0.1


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(
        Model(
            tiny_host(("text", "layout"), prediction_type="v_prediction"),
            Sampling(steps=25, sampler="unipc", guidance=3.0),
            SIZE,
        )
    )


@pytest.fixture(scope="module")
def frame() -> Any:
    return replace(street_frame(), cameras=(camera("CAM_FRONT", 0),), description="night")


@pytest.mark.slow
def test_a_picture_comes_back_from_its_noise(pipe: Pipeline, frame: Any) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    clean = pipe(frame, image=picture, strength=0.0, output_type="latent")["CAM_FRONT"]
    found = pipe.invert(frame, image=picture, iterations=6)
    assert (found.settings.sampler, found.settings.steps, found.settings.guidance) == ("ddim", 25, 1.0)
    assert found["CAM_FRONT"].shape == clean.shape
    back = pipe(frame, found.settings, latents=found, output_type="latent")["CAM_FRONT"]
    assert float((back - clean).norm() / clean.norm()) < 1e-3
    other = pipe(frame, found.settings, latents=found, output_type="latent", prompt="day", guidance=3.0)["CAM_FRONT"]
    assert float((other - clean).norm() / clean.norm()) > 0
    guided = pipe.invert(frame, image=picture, iterations=6, guidance=2.0)
    assert not torch.equal(guided["CAM_FRONT"], found["CAM_FRONT"])
    again = pipe(frame, guided.settings, latents=guided, output_type="latent")["CAM_FRONT"]
    assert float((again - clean).norm() / clean.norm()) < 0.01


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampler": "unipc"}, "sampler 'ddim' alone"), ({"repeats": 2}, "repeats 1 alone"),
        ({"latents": torch.zeros(1, 4, 8, 14)}, "takes no latents"), ({"iterations": 0}, "iterations of invert 0"),
        ({"callback_on_step_end": print}, "takes no callback"), ({"stepz": 3}, "no option 'stepz'"),
        ({}, "recorded pictures"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_inversion_is_refused(pipe: Pipeline, frame: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        pipe.invert(frame, **options)
    with pytest.raises(InputError, match="takes one drivegen"):
        pipe.invert([frame])  # type: ignore[arg-type]

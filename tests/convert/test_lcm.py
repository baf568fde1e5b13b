"""Whole latent consistency models in the released layout: converted, loaded and sampled as diffusers' pipeline does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel
from typer.testing import CliRunner

from drivegen import Pipeline
from drivegen.cli.main import app
from drivegen.convert import lcm
from drivegen.sampling import camera_generators, draw_noise
from drivegen.support.errors import InputError
from tests.street import camera, street_frame
from tests.tiny_hosts import SIZE
from tests.tiny_models import randomize, tiny_backbone


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as LCM_Dreamshaper_v7 is released, tiny and of random weights."""
    folder = tmp_path_factory.mktemp("lcm") / "released"
    backbone = tiny_backbone(vae_factor=8)
    settings = {k: v for k, v in backbone.unet.config.items() if not k.startswith("_")}
    unet = randomize(UNet2DConditionModel(**{**settings, "time_cond_proj_dim": 256}), 4).eval()
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    parts = (backbone.vae, backbone.text_encoder, backbone.tokenizer, unet, LCMScheduler(**betas), None, None)
    LatentConsistencyModelPipeline(*parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("steps", "scale"), [(4, 8.5), (2, 3.0)])
def test_pictures_are_those_of_diffusers_pipeline(released: Path, tmp_path: Path, steps: int, scale: float) -> None:
    done = CliRunner().invoke(app, ["convert", "lcm", str(released), str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    ours = Pipeline.from_pretrained(tmp_path / "model", "cpu", "float32")
    frame = replace(street_frame(), cameras=(camera("CAM_FRONT", 0),), description="night")
    settings = {} if (steps, scale) == (4, 8.5) else {"steps": steps, "guidance": scale}
    views = ours(frame, size=SIZE, output_type="latent", **settings)
    assert (views.settings.sampler, views.settings.steps, views.settings.guidance) == ("lcm", steps, scale)

    theirs = LatentConsistencyModelPipeline.from_pretrained(released, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    generators = camera_generators(0, ["CAM_FRONT"])
    noise = draw_noise(generators, (4, SIZE[0] // 8, SIZE[1] // 8))
    expected = theirs(
        "night", height=SIZE[0], width=SIZE[1], num_inference_steps=steps, guidance_scale=scale, latents=noise,
        generator=generators, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(views["CAM_FRONT"][None], expected, rtol=1e-4, atol=1e-4)


def test_it_is_loaded_by_conversion_alone(released: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="drivegen convert lcm"):
        Pipeline.from_pretrained(released)
    tiny_backbone().save(tmp_path / "plain")
    with pytest.raises(InputError, match="the UNet takes no scale; a plain model needs no conversion"):
        lcm.read(tmp_path / "plain")

"""Inpainting models of nine channels load as they are, from a folder and from one file, and generate as diffusers' pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from typer.testing import CliRunner

from drivegen.cli.main import app
from drivegen.pipeline.pipeline import Pipeline
from drivegen.sampling import build_scheduler
from drivegen.saved import model
from drivegen.support.errors import InputError
from tests.backbones.test_sdxl import sizes
from tests.convert.test_wider_single_file import Wide
from tests.street import street_frame

SIZE = (64, 96)
RANDOM = np.random.default_rng(2)


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Wide:
    return Wide(tmp_path_factory.mktemp("wide"), 9, request.param)


@pytest.fixture
def at_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers draws a sample of what the VAE says, by its own generator; here and there it is the mean."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


@pytest.mark.usefixtures("at_its_mode")
def test_folder_and_file_generate_what_diffusers_does(wide: Wide) -> None:
    frame = street_frame()
    for channel in frame.channels[2:]:
        frame = frame.drop_camera(channel)
    loaded = replace(model.load(wide.folder), image_size=SIZE)
    pictures = {c: Image.fromarray(RANDOM.integers(0, 256, (*SIZE, 3), dtype=np.uint8)) for c in frame.channels}
    masks = {c: RANDOM.random(SIZE) < 0.5 for c in frame.channels}
    factor = loaded.host.backbone.vae_factor
    noise = torch.randn(2, 4, SIZE[0] // factor, SIZE[1] // factor, generator=torch.manual_seed(0))
    given: dict[str, Any] = {"image": pictures, "mask": masks, "latents": noise, "prompt": "Night.", "sampler": "ddim"}
    given |= {"steps": 3, "guidance": 3.0, "output_type": "latent"}
    pipe = Pipeline(loaded)
    views = pipe(frame, **given)
    backbone, xl = loaded.host.backbone, loaded.host.backbone.family.key == "sdxl"
    scheduler = build_scheduler("ddim", backbone.scheduler, 3)
    parts = (backbone.vae, backbone.text_encoder, backbone.tokenizer, wide.net.eval())
    if xl:
        vae, text, words, net = parts
        reference: Any = StableDiffusionXLInpaintPipeline(
            vae, text, backbone.text_encoder_2, words, backbone.tokenizer_2, net, scheduler
        )
    else:
        reference = StableDiffusionInpaintPipeline(*parts, scheduler, None, None, requires_safety_checker=False)
    reference.set_progress_bar_config(disable=True)
    for i, channel in enumerate(frame.channels):
        told = {**sizes(frame, i, SIZE), "strength": 1.0} if xl else {}
        expected = reference(
            prompt="Night.", image=pictures[channel], mask_image=Image.fromarray(masks[channel].astype(np.uint8) * 255),
            height=SIZE[0], width=SIZE[1], num_inference_steps=3, guidance_scale=3.0, latents=noise[i : i + 1],
            output_type="latent", **told,
        ).images[0]  # fmt: skip
        assert float((views[channel] - expected).abs().max() / expected.abs().max()) < 1e-4
    other = Pipeline(replace(model.load(wide.file, config_folder=wide.configs[0]), image_size=SIZE))
    again = other(frame, **given)
    assert all(torch.equal(views[channel], again[channel]) for channel in frame.channels)


def test_it_is_saved_and_loaded_as_any_model(wide: Wide, tmp_path: Path) -> None:
    loaded = model.load(wide.folder)
    assert loaded.host.plugin("concat").takes_mask
    assert loaded.sampling.null == loaded.host.backbone.family.conditions
    model.save(loaded.host, tmp_path / "m", loaded.sampling, image_size=SIZE)
    again = model.load(tmp_path / "m")
    assert again.host.plugin("concat").takes_mask
    own, other = loaded.host.state_dict(), again.host.state_dict()
    assert all(torch.equal(own[key], other[key]) for key in own)


def test_without_a_mask_it_says_what_it_needs(wide: Wide) -> None:
    pipe = Pipeline(replace(model.load(wide.folder), image_size=SIZE))
    with pytest.raises(InputError, match="mask="):
        pipe(street_frame(), steps=1)
    plain = pipe(street_frame(), steps=1, scales={"concat": 0}, output_type="latent")
    assert all(bool(torch.isfinite(plain[channel]).all()) for channel in plain)
    told = CliRunner().invoke(app, ["info", str(wide.folder)])
    assert "nine channels: it inpaints" in told.output

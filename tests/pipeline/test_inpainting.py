"""What is known of the pictures is kept: as diffusers' inpainting does, for every sampler, and each view by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.pipeline.pipeline import Pipeline
from drivegen.sampling import Known, Sampling, build_scheduler
from drivegen.saved.model import Model
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from tests.street import street_frame
from tests.tiny_hosts import SIZE, tiny_host

RANDOM = np.random.default_rng(3)
PROMPT = "Night, rain."


@pytest.fixture(scope="module")
def frame() -> Frame:
    whole = street_frame()
    for channel in whole.channels[2:]:
        whole = whole.drop_camera(channel)
    return whole


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(Model(tiny_host(("text",)), Sampling("ddim", 4, 3.0, null=("text",)), SIZE))


@pytest.fixture(scope="module")
def given(frame: Frame) -> dict[str, Any]:
    """Pictures, masks of any shape, and noise."""
    pictures = {c: Image.fromarray(RANDOM.integers(0, 256, (*SIZE, 3), dtype=np.uint8)) for c in frame.channels}
    masks = {c: RANDOM.random(SIZE) < 0.5 for c in frame.channels}
    noise = torch.randn(len(frame.channels), 4, SIZE[0] // 8, SIZE[1] // 8, generator=torch.manual_seed(1))
    return {"image": pictures, "mask": masks, "latents": noise}


def theirs(pipe: Pipeline, frame: Frame, given: dict[str, Any], sampler: str, steps: int, unet: Any = None) -> torch.Tensor:
    """The latents of diffusers' pipeline, which draws one picture at a time; its VAE's distribution is taken at its mode."""
    backbone = pipe.host.backbone
    reference = StableDiffusionInpaintPipeline(
        backbone.vae, backbone.text_encoder, backbone.tokenizer, unet or backbone.unet,
        build_scheduler(sampler, backbone.scheduler, steps), None, None, requires_safety_checker=False,
    )  # fmt: skip
    reference.set_progress_bar_config(disable=True)
    out = []
    for i, channel in enumerate(frame.channels):
        mask = Image.fromarray(given["mask"][channel].astype(np.uint8) * 255)
        out.append(reference(
            PROMPT, given["image"][channel], mask, height=SIZE[0], width=SIZE[1], num_inference_steps=steps, guidance_scale=3.0,
            latents=given["latents"][i : i + 1], output_type="latent",
        ).images)  # fmt: skip
    return torch.cat(out)


@pytest.fixture
def at_its_mode(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


@pytest.mark.usefixtures("at_its_mode")
@pytest.mark.parametrize("sampler", ["ddim", "pndm", "unipc", "euler", "heun"])
def test_latents_are_those_of_diffusers_inpainting(pipe: Pipeline, frame: Frame, given: Any, sampler: str) -> None:
    views = pipe(frame, prompt=PROMPT, sampler=sampler, output_type="latent", **given)
    ours, reference = torch.stack([views[c] for c in frame.channels]), theirs(pipe, frame, given, sampler, 4)
    assert float((ours - reference).abs().max() / reference.abs().max()) < 1e-4


def test_known_latents_come_back_whatever_the_sampler(pipe: Pipeline, frame: Frame, given: Any) -> None:
    clean = pipe(frame, image=given["image"], strength=0, output_type="latent")
    for sampler, strength in (("ddim", 0.5), ("dpm++_sde", 1.0), ("euler_a", 1.0), ("sde_ve", 0.5)):
        found = pipe(frame, sampler=sampler, steps=2, strength=strength, output_type="latent", **given)
        for channel in frame.channels:
            rows = torch.from_numpy(given["mask"][channel][::8, ::8])
            assert torch.equal(found[channel][:, ~rows], clean[channel][:, ~rows]), sampler
            assert (found[channel][:, rows] != clean[channel][:, rows]).any()
    nothing = pipe(frame, image=given["image"], mask=dict.fromkeys(frame.channels, False), output_type="latent")
    assert all(torch.equal(nothing[channel], clean[channel]) for channel in frame.channels)


def test_each_view_has_its_own_region(pipe: Pipeline, frame: Frame, given: Any) -> None:
    first, second = frame.channels
    one = pipe(frame, image=given["image"], mask={first: True}, output_type="latent", seed=2)
    other = pipe(frame, image=given["image"], mask={first: True, second: given["mask"][second]}, output_type="latent", seed=2)
    assert torch.equal(one[first], other[first])  # text alone joins no views
    assert not torch.equal(one[second], other[second])


def test_what_does_not_fit_is_refused(pipe: Pipeline, frame: Frame, given: Any) -> None:
    image = given["image"]
    for options, said in (
        ({"mask": {frame.channels[0]: True}}, "image="), ({"image": image, "mask": 3}, "mask is"),
        ({"image": image, "mask": {"CAM_NONE": True}}, "CAM_NONE"), ({"image": image, "mask": "nobody"}, "nobody"),
        ({"image": image, "mask": {frame.channels[0]: np.ones((3, 3))}}, "a mask is"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            pipe(frame, **options)
    with pytest.raises(InputError, match="do not fit"):
        Known(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8), torch.ones(2, 1, 4, 4, dtype=torch.bool))


def test_what_is_shown_of_the_known_has_each_timesteps_noise() -> None:
    import diffusers

    schedule = NoiseSchedule.of(diffusers.DDPMScheduler())
    clean, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.manual_seed(0)).unbind(0)
    drawn = torch.rand(2, 1, 8, 8, generator=torch.manual_seed(1)) < 0.5
    seen: list[torch.Tensor] = []

    def denoise(x: torch.Tensor, t: torch.Tensor, known: Any = None) -> torch.Tensor:
        seen.append(x)
        return x

    keeping = Known(clean, noise, drawn).kept(denoise, schedule)
    for t in (900, 400, 10):
        keeping(torch.zeros(2, 4, 8, 8), torch.tensor(t))
        expected = schedule.add_noise(clean, noise, torch.full((2,), t))
        where = drawn.expand_as(clean)
        assert bool((seen[-1][where] == 0).all())
        assert t == 900 or torch.allclose(seen[-1][~where], expected[~where], atol=1e-6)

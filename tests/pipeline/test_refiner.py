"""A refiner for the last steps: equal to diffusers' ensemble of experts, beside the base's own conditions, and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from drivegen import Pipeline
from drivegen.catalog.registry import load
from drivegen.cli.main import app
from drivegen.host.host import Host
from drivegen.pipeline.refining import check_refiner
from drivegen.sampling.samplers import build_scheduler
from drivegen.sampling.settings import Sampling
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from drivegen.testing.models import randomize, tiny_backbone

SIZE = (48, 64)
STEPS = 5
KINDS = ("text", "pooled_text", "picture_size")
SCENE = replace(frame(0, views=2), description="Night, rain.")


def made(family: str, *more: str, sampler: str = "ddim", **options: Any) -> Model:
    host = Host(tiny_backbone(family=family, seed=len(family), **options), {k: load(k)() for k in (*KINDS, *more)}).eval()
    for kind in more:
        randomize(host.plugin(kind), 3, 0.05)
    return Model(host, Sampling(sampler=sampler, steps=STEPS, guidance=3.0), SIZE)


def pipe_of(model: Model, of: Any) -> Any:
    b = model.host.backbone
    scheduler = build_scheduler(model.sampling.sampler, b.scheduler, STEPS)
    pipe = of(
        vae=b.vae, text_encoder=b.text_encoder, text_encoder_2=b.text_encoder_2, tokenizer=b.tokenizer,
        tokenizer_2=b.tokenizer_2, unet=b.unet, scheduler=scheduler, force_zeros_for_empty_prompt=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
@torch.no_grad()
def test_equals_diffusers_ensemble_of_experts(sampler: str) -> None:
    base, refiner = made("sdxl", sampler=sampler), made("sdxl_refiner", sampler=sampler)
    pipe = Pipeline(replace(base, refiner=refiner))
    x = torch.randn(2, 4, 12, 16, generator=torch.Generator().manual_seed(1))
    views = pipe(SCENE, latents=x, refine_from=0.5, negative_prompt="fog", output_type="latent")
    ours = torch.stack(list(views.values()))
    told: dict[str, Any] = {
        "prompt": ["Night, rain."] * 2, "negative_prompt": ["fog"] * 2, "original_size": SIZE, "target_size": SIZE,
        "num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "latent",
    }  # fmt: skip
    first = pipe_of(base, diffusers.StableDiffusionXLPipeline)
    latents = first(**told, height=SIZE[0], width=SIZE[1], latents=x, denoising_end=0.5).images
    second = pipe_of(refiner, diffusers.StableDiffusionXLImg2ImgPipeline)
    second.register_to_config(requires_aesthetics_score=True)
    theirs = second(**told, image=latents, denoising_start=0.5).images
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    alone = Pipeline(base)(SCENE, latents=x, negative_prompt="fog", output_type="latent")
    assert (ours - torch.stack(list(alone.values()))).norm() > 1e-2 * theirs.norm()
    assert (views.settings.refine_from, views.settings.refiner) == (0.5, "given")
    assert "refiner" not in alone.settings.to_dict()


@torch.no_grad()
def test_it_keeps_the_conditions_that_both_have_and_a_recorded_picture() -> None:
    base, refiner = made("sdxl", "layout", "boxes"), made("sdxl_refiner", "boxes")
    pipe = Pipeline(replace(base, refiner=refiner))
    pictures = {channel: torch.rand(48, 64, 3).numpy() for channel in SCENE.channels}

    def latents(**given: Any) -> Tensor:
        views = pipe(SCENE, output_type="latent", image=pictures, **given)
        return torch.stack(list(views.values()))

    late = latents(strength=0.2, refine_from=0.5)
    assert torch.equal(late, latents(strength=0.2, refine_from=0.5, scales={"layout": 0.0}))  # all steps are the refiner's
    assert not torch.equal(late, latents(strength=0.2, refine_from=0.5, without=["boxes"]))
    assert not torch.equal(latents(strength=1.0), latents(strength=1.0, scales={"layout": 0.0}))
    assert torch.equal(latents(strength=1.0, refine_from=1.0), latents_of(base, pictures))


def latents_of(model: Model, pictures: Any) -> Tensor:
    return torch.stack(list(Pipeline(model)(SCENE, output_type="latent", image=pictures, strength=1.0).values()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latent_channels": 8}, "latent channels 8, and the model 4"), ({"vae_factor": 8}, "pixels per latent 8"),
        ({"prediction_type": "v_prediction"}, "predicts v_prediction, and the model epsilon"),
    ],
)  # fmt: skip
def test_one_that_cannot_go_on_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_refiner(made("sdxl"), made("sdxl_refiner", **options))
    with pytest.raises(InputError, match=r"refine_from 0.7 is given, but no refiner; name its folder with --refiner"):
        Pipeline(made("sdxl"))(SCENE, refine_from=0.7)


def test_from_the_command_line(tmp_path: Path) -> None:
    for family in ("sdxl", "sdxl_refiner"):
        tiny_backbone(family=family, vae_factor=8).save(tmp_path / family)
    words = ["generate", "--model", str(tmp_path / "sdxl"), "--refiner", str(tmp_path / "sdxl_refiner"), "--refine-from", "0.5"]
    out = tmp_path / "out"
    done = CliRunner().invoke(app, [*words, "--steps", "2", "--size", "32x64", "--dtype", "float32", "--out", str(out)])
    assert done.exit_code == 0, done.output
    line = json.loads((out / "manifest.jsonl").read_text().splitlines()[0])
    assert line["refine_from"] == 0.5
    assert len(line["refiner"]) == 64
    wrong = CliRunner().invoke(app, [*words[:4], "nowhere", "--out", str(out)])
    assert wrong.exit_code == 2


def kept(model: Model, refiner: Model | None, drawn: dict[str, Any], **options: Any) -> Tensor:
    pipe = Pipeline(replace(model, refiner=refiner))
    views = pipe(SCENE, image=PICTURES, mask=drawn, prompt="Night, rain.", output_type="latent", **options)
    return torch.stack(list(views.values()))


PICTURES = {channel: torch.rand(48, 64, 3, generator=torch.manual_seed(i)).numpy() for i, channel in enumerate(SCENE.channels)}
LEFT = {channel: torch.arange(64).repeat(48, 1).numpy() < 20 + 16 * i for i, channel in enumerate(SCENE.channels)}


@pytest.mark.parametrize("told", [False, True])
@torch.no_grad()
def test_within_a_mask_it_refines_that_part_alone(told: bool) -> None:
    base, refiner = made("sdxl", *(["boxes"] if not told else [])), made("sdxl_refiner")
    if told:  # of nine channels: the network keeps what is known by itself
        base.host.add_plugin("concat", load("concat")(form="masked"))
        randomize(base.host.plugin("concat"), 5)
    known = torch.stack(list(Pipeline(made("sdxl"))(SCENE, image=PICTURES, strength=0, output_type="latent").values()))
    both = kept(base, refiner, LEFT, refine_from=0.5)
    drawn = torch.stack([torch.from_numpy(LEFT[c][::4, ::4]) for c in SCENE.channels])[:, None].expand_as(both)
    assert torch.equal(both[~drawn], known[~drawn])
    alone = kept(base, None, LEFT)
    assert (both[drawn] - alone[drawn]).norm() > 1e-2 * alone[drawn].norm()
    assert torch.equal(kept(base, refiner, LEFT, refine_from=1.0)[drawn], alone[drawn])
    # A model that is its own refiner goes on as it would.
    itself = kept(base, base, LEFT, refine_from=0.5)
    assert (itself - alone)[drawn].norm() <= 1e-5 * alone[drawn].norm()


@torch.no_grad()
def test_alone_within_a_mask_it_is_diffusers_inpainting_of_a_refiner(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    from PIL import Image

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    base, refiner = made("sdxl"), made("sdxl_refiner")
    x = torch.randn(2, 4, 12, 16, generator=torch.manual_seed(1))
    pictures = {c: Image.fromarray((picture * 255).astype("uint8")) for c, picture in PICTURES.items()}
    views = Pipeline(replace(base, refiner=refiner))(
        SCENE, image=pictures, mask=LEFT, latents=x, refine_from=0.0, negative_prompt="fog", output_type="latent"
    )
    pipe = pipe_of(refiner, diffusers.StableDiffusionXLInpaintPipeline)
    pipe.vae = base.host.backbone.vae
    pipe.register_to_config(requires_aesthetics_score=True)
    for i, channel in enumerate(SCENE.channels):
        theirs = pipe(
            prompt="Night, rain.", negative_prompt="fog", image=pictures[channel],
            mask_image=Image.fromarray(LEFT[channel].astype("uint8") * 255), height=SIZE[0], width=SIZE[1], strength=1.0,
            latents=x[i : i + 1], num_inference_steps=STEPS, guidance_scale=3.0, original_size=SIZE, target_size=SIZE,
            output_type="latent",
        ).images[0]  # fmt: skip
        assert (views[channel] - theirs).norm() <= 1e-4 * theirs.norm()

"""A VAE in the place of a model's own: from every layout it equals diffusers' VAE, and what does not fit is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderOobleck, AutoencoderTiny, StableDiffusionPipeline, VQModel
from safetensors.torch import save_file
from torch import Tensor

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.backbones.vae_files import load_vae
from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.sampling import Sampling, build_scheduler, camera_generators, draw_noise
from drivegen.saved import model as models
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from tests.tiny_models import randomize, tiny_backbone

State = dict[str, Tensor]
SCENE = frame(0, views=1)
CHANNEL = SCENE.channels[0]
PICTURES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def kl(seed: int = 5, **settings) -> AutoencoderKL:
    """Another VAE than the tiny model's: attention in the middle, wider, two layers."""
    made = AutoencoderKL(**{
        "block_out_channels": (8, 8, 16, 16), "down_block_types": ("DownEncoderBlock2D",) * 4, "norm_num_groups": 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 4, "scaling_factor": 0.5,
    } | settings)  # fmt: skip
    return randomize(made, seed).eval()


def taesd(seed: int = 6, levels: int = 4, **settings) -> AutoencoderTiny:
    made = AutoencoderTiny(**{
        "encoder_block_out_channels": (8,) * levels, "decoder_block_out_channels": (8,) * levels,
        "num_encoder_blocks": (1, 2, 1, 1)[:levels], "num_decoder_blocks": (2, 1, 1, 1)[:levels],
    } | settings)  # fmt: skip
    return randomize(made, seed).eval()


@pytest.fixture(scope="module")
def base() -> Backbone:
    return tiny_backbone(vae_factor=8)


def ldm(state: State) -> State:
    """Names as the original code has them."""
    out = {}
    for key, value in state.items():
        key = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
        key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
        key = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{3 - int(m[1])}.block.", key)
        key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", key)
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
        if "mid_block.attentions.0." in key:
            key = key.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm", "norm")
            key = key.replace("to_q.", "q.").replace("to_k.", "k.").replace("to_v.", "v.").replace("to_out.0.", "proj_out.")
            value = value[..., None, None] if value.ndim == 2 else value
        out[key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")] = value
    return out


def write(path: Path, state: State) -> Path:
    state = {key: value.contiguous() for key, value in state.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if path.suffix == ".ckpt" else state, path)
    return path


def sources(folder: Path) -> dict[str, tuple[Path, torch.nn.Module]]:
    """Every layout, and the network that it is of."""
    full, small = kl(), taesd()
    full.save_pretrained(folder / "kl")
    small.save_pretrained(folder / "taesd")
    kl(7).save_pretrained(folder / "model" / "vae")
    state, named = full.state_dict(), ldm(full.state_dict())
    assert state.keys() != named.keys()
    halves: dict[str, State] = {"encoder": {}, "decoder": {}}
    for key, value in small.state_dict().items():
        half, _, number, rest = key.split(".", 3)
        halves[half][f"{int(number) + (half == 'decoder')}.{rest}"] = value
    for half, part in halves.items():
        write(folder / f"taesd_{half}.pth", part)
    prefixed = {f"first_stage_model.{key}": value for key, value in named.items()}
    prefixed["model.diffusion_model.x"] = torch.full((1,), torch.nan)  # of no concern to a VAE
    return {
        "folder": (folder / "kl", full), "model folder": (folder / "model", kl(7)),
        "bare": (write(folder / "bare.pt", {**named, "loss.logvar": torch.zeros(1)}), full),
        "state_dict": (write(folder / "ema.ckpt", named), full),
        "prefixed": (write(folder / "whole.safetensors", prefixed), full),
        "diffusers": (write(folder / "diffusers.safetensors", state), full),
        "taesd folder": (folder / "taesd", small), "taesd halves": (folder / "taesd_decoder.pth", small),
        "taesd file": (write(folder / "taesd.safetensors", small.state_dict()), small),
    }  # fmt: skip


@pytest.mark.slow
@torch.no_grad()
def test_every_layout_gives_diffusers_pictures_and_latents(base, tmp_path) -> None:
    latents = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    backbone = tiny_backbone(vae_factor=8)
    own = backbone.vae
    for name, (path, theirs) in sources(tmp_path).items():
        backbone.vae = own
        backbone.replace_vae(path)
        scale = theirs.config.scaling_factor
        assert scale == (1.0 if "taesd" in name else 0.5)
        assert torch.equal(backbone.first_stage.decode(latents), theirs.decode(latents / scale).sample), name
        encoded = theirs.encode(PICTURES)
        mean = encoded.latents if "taesd" in name else encoded.latent_dist.mean
        assert torch.equal(backbone.first_stage.encode(PICTURES), mean * scale), name
        assert torch.equal(backbone.first_stage.moments(PICTURES)[:, :4], mean), name
        spread = backbone.first_stage.moments(PICTURES)[:, 4:]
        assert torch.equal(spread, torch.zeros_like(mean) if "taesd" in name else encoded.latent_dist.std), name


@pytest.mark.slow
@pytest.mark.parametrize("make", [kl, taesd])
def test_a_pipeline_with_another_vae_equals_diffusers(make, tmp_path) -> None:
    """Text to picture and picture to picture; the saved model says which VAE it has and opens in diffusers."""
    size, latent = SCENE.cameras[0].image_size, (4, 6, 8)
    host = Host(tiny_backbone(vae_factor=8), {"text": registry.load("text")()})
    models.save(host, tmp_path / "model", Sampling(sampler="ddim", steps=2, guidance=1.0), image_size=(size[1], size[0]))
    make().save_pretrained(tmp_path / "other")
    pipe = Pipeline.from_pretrained(tmp_path / "model", dtype="float32", vae=tmp_path / "other")
    said = pipe.model.about["vae"]
    assert re.fullmatch(rf"other \({type(make()).__name__}\), sha256 [0-9a-f]{{64}} as fp16", said)
    views = pipe(SCENE, output_type="pt")
    ours = views[CHANNEL]
    assert views.settings.vae == said
    models.save(pipe.host, tmp_path / "saved", pipe.model.sampling, image_size=pipe.model.image_size, about=pipe.model.about)
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "saved", safety_checker=None)
    assert type(theirs.vae) is type(make())
    theirs.scheduler = build_scheduler("ddim", theirs.scheduler, 2)
    theirs.set_progress_bar_config(disable=True)
    made = theirs(
        SCENE.description, height=size[1], width=size[0], num_inference_steps=2, guidance_scale=1.0, output_type="pt",
        latents=draw_noise(camera_generators(0, SCENE.channels), latent),
    ).images[0]  # fmt: skip
    assert float((ours - made).norm() / made.norm()) < 1e-5
    again = Pipeline.from_pretrained(tmp_path / "saved", dtype="float32")
    assert again.model.about["vae"] == said
    assert torch.equal(again(SCENE, output_type="pt")[CHANNEL], ours)
    before = Pipeline.from_pretrained(tmp_path / "model", dtype="float32")(SCENE, output_type="pt")[CHANNEL]
    assert not torch.allclose(before, ours, atol=1e-2)
    start = pipe(SCENE, image=[pipe(SCENE)[CHANNEL]], strength=0.5, output_type="latent")[CHANNEL]
    assert torch.isfinite(start).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "nowhere", "there is no VAE at"),
        (lambda p: save(kl(latent_channels=16), p), "latent channels 16, and this model's 4"),
        (lambda p: save(taesd(levels=3), p), "pixels per latent 4, and this model's 8"),
        (lambda p: write(p / "v.pt", kl(latent_channels=8).state_dict()), "latent channels 8, and this model's 4"),
        (lambda p: save(VQModel(norm_num_groups=4, block_out_channels=(8,)), p), "latent channels 3, and this model's 4"),
        (lambda p: save(AutoencoderOobleck(encoder_hidden_size=8, decoder_channels=8), p), "is of a AutoencoderOobleck"),
        (lambda p: write(p / "v.pt", {"decoder.conv_in.bias": torch.ones(1)}), "v.pt is not a file of an AutoencoderKL"),
        (lambda p: write(p / "v.pt", {"conv.weight": torch.ones(1)}), "is not a file of an AutoencoderKL or AutoencoderTiny"),
        (lambda p: write(p / "v.pt", cut(kl().state_dict(), "decoder.conv_in.weight")), "lacks 'decoder.conv_in.weight'"),
        (lambda p: write(p / "v.pt", cut(kl().state_dict(), "decoder.conv_in.bias")), "missing decoder.conv_in.bias"),
        (lambda p: write(p / "v.pt", cut(ldm(kl().state_dict()), "encoder.down.0.block.1.conv1.weight")), "encoder.down"),
        (lambda p: write(p / "v.pt", cut(taesd().state_dict(), "decoder.layers.0.weight")), "lacks 'decoder.layers.0.weight'"),
        (lambda p: write(p / "taesd_decoder.pt", {"1.weight": torch.ones(8, 4, 3, 3)}), "keep the other half beside it"),
        (lambda p: p, "config.json"),
    ],
)
def test_what_does_not_fit_is_refused(base, tmp_path, make, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as refused:
        load_vae(make(tmp_path), base.vae)
    assert str(refused.value).count(str(tmp_path)) <= 1


def save(network, folder: Path) -> Path:
    network.save_pretrained(folder)
    return folder


def cut(state: State, key: str) -> State:
    assert key in state
    return {k: v for k, v in state.items() if k != key}


def test_another_scale_of_latents_is_warned_of(base, tmp_path) -> None:
    """SDXL's VAE has Stable Diffusion's shapes and another space of latents."""
    with pytest.warns(UserWarning, match=r"scaling_factor is 0\.13025"):
        load_vae(save(kl(scaling_factor=0.13025), tmp_path), base.vae)
    assert json.loads((tmp_path / "config.json").read_text())["scaling_factor"] == 0.13025

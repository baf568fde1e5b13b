"""The first stage encodes and decodes as diffusers' pipelines do, in float32 where a VAE must."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from drivegen import Pipeline
from drivegen.backbones import first_stage
from drivegen.backbones.first_stage import FirstStage
from drivegen.host.host import Host
from drivegen.saved import model
from drivegen.support import runtime
from drivegen.testing.models import tiny_backbone

PICTURES = torch.rand(5, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_scaled_and_shifted_latents_are_those_of_the_vae_and_parts_are_one_draw(monkeypatch: Any) -> None:
    vae = tiny_backbone().vae
    vae.register_to_config(scaling_factor=0.4, shift_factor=0.1)
    stage, posterior = FirstStage(vae), vae.encode(PICTURES).latent_dist
    draw = posterior.sample(torch.Generator().manual_seed(1))
    for most_px in (first_stage.MOST_PX, 2 * 32 * 48):  # at once, and two by two
        monkeypatch.setattr(first_stage, "MOST_PX", most_px)
        torch.testing.assert_close(stage.encode(PICTURES), (posterior.mode() - 0.1) * 0.4)
        torch.testing.assert_close(stage.encode(PICTURES, torch.Generator().manual_seed(1), sample=True), (draw - 0.1) * 0.4)
        torch.testing.assert_close(stage.moments(PICTURES), torch.cat([posterior.mean, posterior.std], dim=1))
    torch.testing.assert_close(stage.unscale(stage.scale(draw)), draw)
    torch.testing.assert_close(stage.decode(stage.scale(draw)), vae.decode(draw).sample)
    assert (stage.factor, stage.channels) == (4, 4)


@torch.no_grad()
def test_tiles_and_slices_are_diffusers_own() -> None:
    vae = tiny_backbone().vae  # tiles of 32 pixels, as its sample_size says
    stage = FirstStage(vae)
    latents, pixels = stage.encode(PICTURES), stage.decode(stage.encode(PICTURES))
    vae.enable_slicing()
    torch.testing.assert_close(stage.decode(latents), pixels)
    vae.enable_tiling()
    assert torch.equal(stage.encode(PICTURES[:1]), stage.scale(vae.encode(PICTURES[:1]).latent_dist.mode()))
    tiled = stage.decode(latents[:1])
    assert torch.equal(tiled, vae.tiled_decode(stage.unscale(latents[:1])).sample)
    assert not torch.equal(tiled, pixels[:1])
    vae.disable_tiling()
    torch.testing.assert_close(stage.decode(latents), pixels)


@torch.no_grad()
@pytest.mark.parametrize(("family", "upcast", "float32"), [("sd", True, False), ("sdxl", True, True), ("sdxl", False, False)])
def test_a_vae_computes_in_float32_where_its_family_heeds_force_upcast(family: str, upcast: bool, float32: bool) -> None:
    host = Host(tiny_backbone(family=family)).eval()
    backbone = host.backbone
    backbone.vae.register_to_config(force_upcast=upcast)
    latents = backbone.first_stage.encode(PICTURES)
    exact = backbone.first_stage.decode(latents)
    runtime.convert(host, torch.bfloat16)
    assert backbone.unet.dtype == torch.bfloat16
    with runtime.autocast(torch.device("cpu"), torch.bfloat16):  # as the pipeline computes
        assert torch.equal(backbone.first_stage.encode(PICTURES), latents) == float32
        assert torch.equal(backbone.first_stage.decode(latents), exact) == float32
        assert backbone.vae.dtype == (torch.float32 if float32 else torch.bfloat16)
        host.to(torch.bfloat16)  # a caller's own conversion rounds the weights, and the arithmetic stays
        assert (backbone.first_stage.decode(latents).dtype == torch.float32) == float32


def test_a_pipeline_in_bfloat16_decodes_sdxl_in_float32(tmp_path: Any) -> None:
    host = Host(tiny_backbone(family="sdxl"))
    model.save(host, tmp_path / "xl", image_size=(32, 48))
    pipe = Pipeline.from_pretrained(tmp_path / "xl", device="cpu", dtype="bfloat16")
    backbone = pipe.host.backbone
    assert (backbone.unet.dtype, backbone.vae.dtype) == (torch.bfloat16, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(backbone.vae.parameters(), host.backbone.vae.parameters(), strict=True))

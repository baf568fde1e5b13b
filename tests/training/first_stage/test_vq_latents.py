"""A vector-quantised first stage is a latent space of the host: trained on, sampled in, saved and opened again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from drivegen import Pipeline, nuscenes, training
from drivegen.scene import Frame, Scene
from drivegen.support.errors import InputError
from drivegen.training.build import load_first_stage
from tests.street import street_frame

SIZE = (32, 56)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two moments of two cameras, each picture noise of its own."""
    root, rng = tmp_path_factory.mktemp("street"), np.random.default_rng(0)
    frames = []
    for step in range(2):
        frame = street_frame(step)
        cameras = []
        for camera in frame.cameras[:2]:
            path = root / "samples" / camera.channel / f"{step}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
            coarse.resize((320, 180), Image.Resampling.BICUBIC).save(path)
            cameras.append(replace(camera, image_path=path))
        frames.append(replace(frame, cameras=tuple(cameras)))
    nuscenes.write([Scene("scene-0", tuple(frames), "a street", frames[0].location)], root)
    return root


@pytest.fixture(scope="module")
def vae(street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vq")
    values = {
        "stage": "autoencoder", "output": str(folder / "first"),
        "autoencoder": {
            "kind": "vq",
            "network": {
                "block_out_channels": [8, 8, 16], "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 4,
                "num_vq_embeddings": 32,
            },
        },
        "data": {"roots": [str(street)], "size": list(SIZE), "val_scenes": 0.0},
        "train": {"steps": 20, "images": 2, "lr": 5e-3, "warmup": 1, "log_every": 100, "device": "cpu"},
    }  # fmt: skip
    (folder / "first.yaml").write_text(yaml.safe_dump(values))
    assert training.run(folder / "first.yaml") == 0
    return folder / "first" / "vae"


@pytest.fixture(scope="module")
def model(street: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("host")
    values = {
        "output": str(folder / "run"),
        "model": {
            "vae": str(vae), "tokenizer": "configs/tokenizer",
            "unet": {
                "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 2,
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            },
            "text_encoder": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
            "scheduler": {"prediction_type": "v_prediction"},
        },
        "plugins": {"boxes": {"kind": "boxes", "options": {"max_boxes": 4}}, "cross_view": {"kind": "cross_view", "drop": 0.0}},
        "data": {"roots": [str(street)], "size": list(SIZE), "val_scenes": 0.0, "cache": str(folder / "cache")},
        "train": {"unet": True, "steps": 2, "images": 2, "warmup": 1, "precision": "32", "device": "cpu"},
        "sampling": {"sampler": "ddim", "steps": 3, "guidance": 1.0},
    }  # fmt: skip
    (folder / "train.yaml").write_text(yaml.safe_dump(values))
    assert training.run(folder / "train.yaml") == 0
    return folder / "run" / "model"


@pytest.mark.slow
def test_training_and_sampling_in_the_latents_of_a_codebook(street: Path, vae: Path, model: Path) -> None:
    pipe = Pipeline.from_pretrained(model, dtype="float32")
    backbone = pipe.host.backbone
    assert type(backbone.vae).__name__ == "VQModel"
    assert all(
        torch.equal(a, b) for a, b in zip(load_first_stage(str(vae)).parameters(), backbone.vae.parameters(), strict=True)
    )
    data = nuscenes.open(street)
    frames: list[Frame] = [data.frame(token).resized(SIZE[1], SIZE[0]) for token in data.samples()]
    one, two = (pipe(frame, seed=3).pictures() for frame in frames)
    assert {picture.size for picture in one.values()} == {(SIZE[1], SIZE[0])}
    assert all(np.ptp(np.asarray(picture)) > 0 for picture in (*one.values(), *two.values()))


@pytest.mark.slow
def test_latents_are_scaled_and_decoded_through_the_codes(vae: Path, model: Path) -> None:
    backbone = Pipeline.from_pretrained(model, dtype="float32").host.backbone
    pixels = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = backbone.first_stage.encode(pixels)
        own = backbone.vae.encode(pixels).latents
        torch.testing.assert_close(latents, own * backbone.vae.config.scaling_factor)
        codes, _, _ = backbone.vae.quantize(own)
        there = backbone.first_stage.decode(latents)
        torch.testing.assert_close(there, backbone.vae.decode(codes, force_not_quantize=True).sample, rtol=1e-4, atol=1e-5)
        # What lies nearer to its code than to any other is decoded as it: small errors of sampling are corrected.
        nudged = codes + 1e-4 * torch.randn(codes.shape, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(backbone.first_stage.decode(backbone.first_stage.scale(nudged)), there, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_diffusers_opens_the_model(model: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    assert type(pipe.vae).__name__ == "VQModel"
    latents = pipe("a street", num_inference_steps=2, height=SIZE[0], width=SIZE[1], output_type="latent").images
    # Its own call to the decoder passes a generator, which VQModel does not take.
    with torch.no_grad():
        assert pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample.shape == (1, 3, *SIZE)


def test_another_class_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKLWan"}')
    with pytest.raises(InputError, match="AutoencoderKLWan, and AutoencoderKL, AutoencoderTiny, VQModel is needed"):
        load_first_stage(str(tmp_path))

"""Decoders that learn from latents which a model has drawn anew: they are the pictures' own, and all else is as without."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from drivegen import training
from drivegen.support import weight_folders
from drivegen.support.errors import InputError
from drivegen.testing.models import tiny_backbone
from drivegen.training.build import build_first_stage
from drivegen.training.config import TrainConfig
from drivegen.training.fill import to_unit
from drivegen.training.first_stage.images import ImageBatch, ImageData
from drivegen.training.first_stage.losses import random_crops
from drivegen.training.first_stage.module import FirstStageModule
from drivegen.training.first_stage.networks import latents_of
from drivegen.training.first_stage.redrawn import Redrawn
from drivegen.training.first_stage.settings import AutoencoderConfig, RedrawnConfig

SIZE = (32, 56)
TRAIN = TrainConfig(steps=10, images=2, precision="32", warmup=0)


def settings(base: Path, kind: str = "plain", **redrawn: Any) -> AutoencoderConfig:
    told = RedrawnConfig(model=str(base), steps=2, **redrawn)
    return AutoencoderConfig(kind=kind, weights=str(base), train="decoder", redrawn=told)  # type: ignore[arg-type]


def redrawn_of(config: AutoencoderConfig, cache: Path, seed: int = 0) -> Redrawn:
    assert config.redrawn is not None
    vae = build_first_stage(config, seed=0)
    return Redrawn(config.redrawn, vae, cache, size=SIZE, device="cpu", dtype=torch.float32, seed=seed)


def all_images(city: Path, redrawn: Redrawn | None) -> ImageBatch:
    data = ImageData([city], size=SIZE, redrawn=redrawn)
    data.setup()
    images, _ = data.training_items()
    return images.collate([images[i] for i in range(len(images))])


def module_of(config: AutoencoderConfig) -> FirstStageModule:
    module = FirstStageModule(build_first_stage(config, seed=0), TRAIN, config)
    module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign,assignment]
    return module


def test_of_no_strength_the_latents_are_those_of_each_picture(city: Path, base: Path, tmp_path: Path) -> None:
    config = settings(base, strength=(0.0, 0.0))
    batch = all_images(city, redrawn_of(config, tmp_path))
    assert batch.redrawn is not None
    assert len(batch.pixels) == 16
    with torch.no_grad():
        own = latents_of(build_first_stage(config, seed=0), to_unit(batch.pixels))
    torch.testing.assert_close(batch.redrawn, own, rtol=2e-3, atol=2e-3)
    assert float((own[0] - own[1]).abs().mean()) > 0.05, "views of their own, so that an exchange would be seen"


def test_latents_are_what_the_model_makes_of_the_recorded_pictures(city: Path, base: Path, tmp_path: Path) -> None:
    """Frames have strengths of their own."""
    redrawn = redrawn_of(settings(base, strength=(0.0, 1.0)), tmp_path)
    sources = ImageData([city], size=SIZE).open()
    pipe, strengths = redrawn.pipe, set[float]()
    redrawn.fill(sources)
    for ref in sources.train:
        seed, strength = redrawn.drawing_of(ref)
        frame = sources.frame(ref)
        views = pipe(frame, image="recorded", strength=strength, seed=seed, steps=2, size=SIZE, output_type="latent")
        wanted = torch.stack([views[camera.channel] for camera in frame.cameras])
        wanted = pipe.host.backbone.first_stage.unscale(wanted)
        torch.testing.assert_close(torch.from_numpy(redrawn.read(ref)), wanted, rtol=1e-3, atol=1e-3)
        strengths.add(strength)
    assert len(strengths) == 6
    assert max(strengths) - min(strengths) > 0.3


def test_latents_are_drawn_once_and_again_for_other_settings(city: Path, base: Path, tmp_path: Path) -> None:
    def drawn(seed: int = 0, **more: Any) -> dict[Path, int]:
        redrawn = redrawn_of(settings(base, **more), tmp_path, seed)
        all_images(city, redrawn)
        return {path: path.stat().st_mtime_ns for path in sorted(redrawn.cache.folder.iterdir())}

    first = drawn()
    assert drawn() == first
    gone = next(iter(first))
    before = np.load(gone)["latents"]
    gone.unlink()
    after = drawn()
    assert {path: after[path] for path in after if path != gone} == {path: first[path] for path in first if path != gone}
    assert np.array_equal(np.load(gone)["latents"], before), "a frame's latents do not depend on which others are drawn"
    assert not set(drawn(strength=(0.2, 0.3))) & set(first)
    assert not set(drawn(seed=1)) & set(first)


@pytest.mark.parametrize("kind", ["plain", "kl"])
def test_with_its_own_latents_a_step_is_that_without(kind: str, city: Path, base: Path, tmp_path: Path) -> None:
    """Where the model draws nothing anew, a decoder learns what it learns without; a sampled posterior needs no share."""
    config = settings(base, kind, strength=(0.0, 0.0), share=1.0 if kind == "plain" else 0.0)
    batch = all_images(city, redrawn_of(config, tmp_path))
    found = []
    for one in (batch, ImageBatch(batch.pixels, batch.samples)):
        module = module_of(config)
        torch.manual_seed(3)
        loss = module.training_step(one, 0)
        loss.backward()
        found.append((loss.detach(), module.vae.decoder.conv_in.weight.grad))
    torch.testing.assert_close(found[0], found[1], rtol=2e-2, atol=1e-4)


def test_a_share_of_the_pictures_is_decoded_from_what_was_drawn(base: Path) -> None:
    module = module_of(settings(base, share=0.25))
    torch.manual_seed(1)
    mixed = module._mixed(torch.zeros(4000, 1, 1, 1), torch.ones(4000, 1, 1, 1, dtype=torch.float16))
    assert float(mixed.mean()) == pytest.approx(0.25, abs=0.03)
    assert set(mixed.flatten().tolist()) == {0.0, 1.0}


def test_windows_of_pictures_and_latents_are_the_same() -> None:
    numbers = torch.arange(2 * 6 * 9).reshape(2, 1, 6, 9)
    pixels = numbers.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.manual_seed(0)
    tops = set()
    for _ in range(20):
        cut, latents = random_crops(pixels, (8, 12), numbers)
        assert latents is not None
        assert latents.shape[-2:] == (2, 3)
        assert torch.equal(cut, latents.repeat_interleave(4, 2).repeat_interleave(4, 3))
        tops.add(int(latents[0, 0, 0, 0]))
    assert len(tops) > 5


def test_only_the_latents_of_this_first_stage_are_taken(base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny_backbone(prediction_type="v_prediction", seed=5).save(other)
    config = AutoencoderConfig(kind="plain", weights=str(other), train="decoder", redrawn=RedrawnConfig(model=str(base)))
    with pytest.raises(InputError, match=r"has another first stage than autoencoder\.weights"):
        redrawn_of(config, tmp_path)
    with pytest.raises(InputError, match="go with train: decoder alone"):
        AutoencoderConfig(redrawn=RedrawnConfig(model=str(base)))
    with pytest.raises(InputError, match="the least comes first"):
        RedrawnConfig(model=str(base), strength=(0.7, 0.3))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_resumed_equals_unbroken_and_another_model_is_noticed(precision: str, city: Path, base: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(base, model)
    values = {
        "stage": "autoencoder", "output": str(tmp_path / "unbroken"),
        "autoencoder": {
            "kind": "kl", "weights": str(base), "train": "decoder", "crop": [16, 32],
            "adversarial": {"start": 0.0, "ramp": 0.5, "channels": 4},
            "redrawn": {"model": str(model), "strength": [0.2, 0.8], "steps": 3},
        },
        "data": {"roots": [str(city)], "size": list(SIZE), "val_scenes": 0.0},
        "train": {
            "steps": 4, "images": 2, "lr": 5e-3, "warmup": 1, "checkpoint_every": 2, "keep_checkpoints": 4,
            "device": "cpu", "precision": precision,
        },
    }  # fmt: skip
    path = tmp_path / "decoder.yaml"
    path.write_text(yaml.safe_dump(values))
    assert training.run(path) == 0
    assert len(list((tmp_path / "unbroken" / "cache").glob("redrawn-*/*.npz"))) == 6
    half = tmp_path / "unbroken" / "step-00000002.ckpt"
    assert training.run(path, [f"output={tmp_path / 'resumed'}"], half) == 0
    before = weight_folders.load_state(base / "vae", "diffusion_pytorch_model")
    one, two = (
        weight_folders.load_state(tmp_path / name / "vae", "diffusion_pytorch_model") for name in ("unbroken", "resumed")
    )
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
        assert torch.equal(value, before[name].to(value.dtype)) == (not name.startswith(("decoder", "post_quant"))), name
    shutil.rmtree(model / "unet")
    tiny_backbone(prediction_type="v_prediction", seed=7).save(tmp_path / "seven")
    shutil.copytree(tmp_path / "seven" / "unet", model / "unet")
    with pytest.raises(InputError, match="other frozen parts than those here: redrawn latents"):
        training.run(path, [f"output={tmp_path / 'third'}"], half)

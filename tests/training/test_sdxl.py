"""SDXL trains as its configurations say: two steps on small random weights, from caches, and then generates."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
import yaml

from drivegen import Pipeline, training
from drivegen.backbones.stable_diffusion import Backbone
from drivegen.datasets import nuscenes
from drivegen.testing import tiny_backbone

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("sdxl_*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_trains_and_generates(path: Path, city: Path, tmp_path: Path) -> None:
    tiny_backbone(family="sdxl", vae_factor=8).save(tmp_path / "base")
    given = [
        f"data.roots=['{city}']", "data.size=[32, 64]", "data.val_scenes=[scene-2]", f"data.cache={tmp_path / 'cache'}",
        "data.version=null", "data.workers=0", f"model.base={tmp_path / 'base'}", "train.steps=2", "train.images=3",
        "train.warmup=1", "train.accumulate=1", "train.threads=1", "train.device=cpu", "train.checkpoint_every=2", "logger=[]",
        "preview.every=0", f"output={tmp_path / 'run'}",
    ]  # fmt: skip
    assert training.run(path, given) == 0
    data = nuscenes.open(city)
    pipe = Pipeline.from_pretrained(tmp_path / "base" if path.stem.startswith("sdxl_lora") else tmp_path / "run" / "model")
    if path.stem.startswith("sdxl_lora"):
        pipe.load_lora(tmp_path / "run" / "lora")
    views = pipe(data.frame(data.samples()[0]), steps=2, size=(32, 64), output_type="latent")
    assert all(bool(torch.isfinite(view).all()) for view in views.values())


@pytest.mark.slow
def test_both_text_encoders_train_are_saved_and_resume_to_the_same_bits(city: Path, tmp_path: Path) -> None:
    own = tiny_backbone(family="sdxl", vae_factor=8)
    own.save(tmp_path / "base")
    values = {
        "output": str(tmp_path / "run"), "model": {"base": str(tmp_path / "base")},
        "plugins": {kind: {"kind": kind} for kind in ("text", "pooled_text", "picture_size")},
        "data": {"roots": [str(city)], "size": [32, 64], "val_scenes": ["scene-2"], "cache": str(tmp_path / "cache")},
        "train": {
            "text_encoder": True, "steps": 4, "images": 3, "warmup": 1, "precision": "32", "device": "cpu", "threads": 1,
            "checkpoint_every": 2,
        },
        "logger": [],
    }  # fmt: skip
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(values))
    assert training.run(config) == 0
    half = next((tmp_path / "run").glob("step-*2.ckpt"))
    assert training.run(config, [f"output={tmp_path / 'other'}"], half) == 0
    trained = Backbone.from_folder(tmp_path / "run" / "model")
    resumed = Backbone.from_folder(tmp_path / "other" / "model")
    for name in ("text_encoder", "text_encoder_2"):
        before, after, again = (dict(one.component(name).named_parameters()) for one in (own, trained, resumed))
        moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
        # The states before the last layer are attended to; the second encoder's last layer is what pools its text.
        last = {key for key in after if "encoder.layers.1." in key or "final_layer_norm" in key or "text_projection" in key}
        assert moved == set(after) if name.endswith("2") else moved == set(after) - last, moved ^ set(after)
        assert all(torch.equal(value, again[key]) for key, value in after.items())
    assert all(torch.equal(a, b) for a, b in zip(trained.unet.parameters(), own.unet.parameters(), strict=True))
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(tmp_path / "run" / "model", local_files_only=True)
    assert torch.equal(pipe.text_encoder_2.text_projection.weight, trained.text_encoder_2.text_projection.weight)

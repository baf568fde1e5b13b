"""SDXL trains as its configurations say: two steps on small random weights, from caches, and then generates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drivegen import Pipeline, training
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

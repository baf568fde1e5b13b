"""The configurations of few-step students, each as a newcomer runs it, in small: train, generate, resume what keeps files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from drivegen import Pipeline, training
from drivegen.datasets import nuscenes
from drivegen.saved import model as models
from drivegen.training import checkpoint as checkpoints
from drivegen.training import config as configs
from tests.training.test_train import same_bits

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STUDENTS = [path for path in sorted(CONFIGS.glob("*.yaml")) if "objective:" in path.read_text(encoding="utf-8")]


@pytest.mark.slow
@pytest.mark.skipif(not (models.TINY / "drivegen.json").is_file(), reason="needs the embedded model")
@pytest.mark.parametrize("path", STUDENTS, ids=lambda path: path.stem)
def test_it_trains_and_generates(path: Path, city: Path, tmp_path: Path) -> None:
    options = configs.load(path).objective.options
    given = [
        f"data.roots=['{city}']", "data.size=[32, 56]", "data.val_scenes=[scene-2]", "data.cache=null",
        "train.steps=2", "train.images=3", "train.warmup=1", "train.threads=1", "train.device=cpu",
        "logger=[]",
    ]  # fmt: skip
    given += [f"train.checkpoint_every={1 if 'cache' in options else 2}"]
    given += [f"objective.options.{name}={value}" for name, value in small(options, tmp_path).items()]
    whole = tmp_path / "whole"
    assert training.run(path, [*given, f"output={whole}"]) == 0
    assert checkpoints.read(whole / "last.ckpt")["global_step"] == 2
    if "cache" in options:  # the battery resumes all; this one then reads what it kept
        again = tmp_path / "again"
        assert training.run(path, [*given, f"output={again}"], whole / "step-00000001.ckpt") == 0
        same_bits(whole / "last.ckpt", again / "last.ckpt")
    data = nuscenes.open(city)
    frame = data.frame(data.samples()[0])
    few: dict[str, Any] = {"size": (32, 56), "output_type": "latent"}
    if (whole / "lora").is_dir():
        pipe = Pipeline.from_pretrained("tiny", dtype="float32")
        few |= {"steps": 4, "guidance": 1.0, "sampler": "euler"}
        before = torch.stack(list(pipe(frame, **few).values()))
        pipe.load_lora(whole / "lora")
    else:
        pipe = Pipeline.from_pretrained(whole / "model", dtype="float32")
        assert pipe.model.sampling.steps == 4 or path.stem == "progressive"
        before = torch.zeros(())
    views = pipe(frame, **few)
    after = torch.stack(list(views.values()))
    assert bool(torch.isfinite(after).all())
    assert not torch.equal(after, before)
    assert views.settings.steps == 4


def small(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return options in place of a configuration's, so that every stage of it takes part in two steps."""
    found = {"steps_per_stage": 1, "cache": folder / "kept"}
    return {name: value for name, value in found.items() if name in options}

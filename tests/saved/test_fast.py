"""A model's student of few steps: found in its folder with its settings, refused where there is none or it is another's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from drivegen import Pipeline
from drivegen.sampling import Sampling
from drivegen.saved import model as models
from drivegen.saved.tuners import save
from drivegen.support.errors import InputError
from drivegen.tuners.lora import LoRA
from tests.street import street_frame
from tests.tiny_hosts import SIZE, tiny_host
from tests.tiny_models import randomize

FEW = {"sampler": "euler", "steps": 2, "guidance": 1.0}


def saved(folder: Path, seed: int = 0, few: object = FEW) -> Path:
    """Save a model, and in its folder a student of it."""
    host = tiny_host(("text",), seed)
    sampling = Sampling(sampler="tcd", steps=5, guidance=3.0, sampler_options={"eta": 0.2}, noise="shared")
    models.save(host, folder, sampling, None, SIZE)
    host.add_tuner("lora", LoRA(rank=2))
    randomize(host.tuner("lora"), 7)
    save(host.tuner("lora"), folder / "fast", None, "lora", host.backbone, {"sampled_with": few})
    return folder


def test_a_student_brings_its_lora_and_its_settings(tmp_path: Path) -> None:
    folder, frame = saved(tmp_path / "model"), street_frame()
    fast, plain = (Pipeline.from_pretrained(folder, "cpu", "float32", fast=on) for on in (True, False))
    assert fast.model.sampling == Sampling(**FEW, noise="shared")
    assert (fast.loras, plain.loras) == ({"fast": 1.0}, {})
    views = fast(frame, output_type="latent", seed=3)
    assert (views.settings.steps, views.settings.loras) == (2, {"fast": 1.0})
    plain.load_lora(folder / "fast", name="fast")
    by_hand = plain(frame, output_type="latent", seed=3, **FEW)
    assert all(torch.equal(views[channel], by_hand[channel]) for channel in frame.channels)
    plain.unload_lora()
    assert not torch.equal(plain(frame, output_type="latent", seed=3, **FEW)[frame.channels[0]], views[frame.channels[0]])


def test_bfloat16_is_the_same_model(tmp_path: Path) -> None:
    assert Pipeline.from_pretrained(saved(tmp_path / "model"), "cpu", "bfloat16", fast=True).loras == {"fast": 1.0}


def test_what_has_no_student_or_another_s_is_refused(tmp_path: Path) -> None:
    folder, other = saved(tmp_path / "model"), saved(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="fast 2 must be True or False"):
        Pipeline.from_pretrained(folder, fast=2)  # type: ignore[arg-type]
    (folder / "fast").rename(tmp_path / "away")
    with pytest.raises(InputError, match="no student of few steps"):
        Pipeline.from_pretrained(folder, fast=True)
    (other / "fast").rename(folder / "fast")
    with pytest.raises(InputError, match="the student of another model: the weights of unet are not these"):
        Pipeline.from_pretrained(folder, fast=True)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("kind", "loha", "must be a LoRA's"), ("training", {}, "sampled_with None"), ("training", "x", "training 'x'"),
        ("training", {"sampled_with": {}}, "does not say"), ("base", None, "base None"), ("sha256", "0", "damaged or was"),
        ("training", {"sampled_with": {"sampler": "nobody"}}, "no sampler 'nobody'"),
        ("training", {"sampled_with": {"stepps": 4}}, "unknown sampling setting 'stepps'"),
    ],
)  # fmt: skip
def test_a_description_that_is_wrong_is_named(tmp_path: Path, key: str, value: object, said: str) -> None:
    path = saved(tmp_path / "model") / "fast" / "tuner.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {key: value}), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        Pipeline.from_pretrained(path.parents[1], fast=True)

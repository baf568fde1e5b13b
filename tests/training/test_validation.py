"""val_loss: the same for the same weights in whatever run, and no trace of it in what is trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

from drivegen import training
from drivegen.host.batch import collate, prepare
from drivegen.plugin import Grid
from drivegen.support.errors import InputError
from drivegen.training import checkpoint as checkpoints
from drivegen.training.datamodule import DriveData
from drivegen.training.frames import TrainBatch, pixels_of
from drivegen.training.validation import losses_of
from tests.training.conftest import SIZE
from tests.training.test_own_trainer import QUIET, module_of

QUICK = ["train.accumulate=1", "train.unet=false", "train.steps=2", "drop_groups=[]", "plugins.cross_view.train=false"]


def losses(text: str) -> dict[int, str]:
    return {int(step): value for step, value in re.findall(r"step (\d+)  val_loss (\S+)", text)}


@pytest.mark.slow
def test_trainer_validate_equals_the_mean_over_frames_and_repeats(city: Path) -> None:
    module = module_of()
    data = DriveData([city], module.host, size=SIZE, val_scenes=0.4, images=4)
    (first,) = pl.Trainer(**QUIET).validate(module, datamodule=data, verbose=False)
    torch.manual_seed(99)
    other = DriveData([city], module.host, size=SIZE, val_scenes=0.4, images=99, workers=1)
    assert pl.Trainer(**QUIET).validate(module, datamodule=other, verbose=False) == [first]
    by_hand = losses_of(module, other.val_dataloader())
    assert sum(by_hand) / len(by_hand) == pytest.approx(first["val_loss"], rel=1e-6)
    (one,) = pl.Trainer(**QUIET).validate(
        module, datamodule=DriveData([city], module.host, size=SIZE, val_scenes=0.6, val_frames=2), verbose=False
    )
    assert one["val_loss"] != first["val_loss"]
    with pytest.raises(InputError, match="val_scenes holds no scene out"):
        pl.Trainer(**QUIET).validate(module, datamodule=DriveData([city], module.host, size=SIZE), verbose=False)


def test_frames_together_have_the_mean_of_their_losses(city: Path) -> None:
    module = module_of().eval()
    sources = DriveData([city], module.host, size=SIZE).open()
    refs = [ref for ref in sources.train if ref.views == 3][:2]
    plugins = {name: module.host.plugin(name) for name in module.host.plugins}
    frames = [sources.frame(ref) for ref in refs]
    ready = [prepare(frame, plugins) for frame in frames]
    pixels = [torch.from_numpy(pixels_of(frame)) for frame in frames]
    one = [
        float(module.validation_loss(TrainBatch(collate([r], plugins, 3, [ref.token]), p)))
        for r, ref, p in zip(ready, refs, pixels, strict=True)
    ]
    both = module.validation_loss(TrainBatch(collate(ready, plugins, 3, [ref.token for ref in refs]), torch.cat(pixels)))
    assert float(both) == pytest.approx(sum(one) / 2, rel=1e-5)
    assert one[0] != one[1]


@pytest.mark.slow
def test_weights_are_the_same_bits_with_validation_and_resumed(config: Path, tmp_path: Path, capsys: Any) -> None:
    runs = {"without": [], "with": ["validation={every: 1, frames: 2}"], "resumed": ["validation={every: 1, frames: 2}"]}
    for name, more in runs.items():
        settings = [*QUICK, f"output={tmp_path / name}", *more]
        if name == "resumed":
            assert training.run(config, [*settings, "train.steps=1", "train.schedule=constant"]) == 0
            assert training.run(config, [*settings, "train.schedule=constant"], "auto") == 0
        else:
            assert training.run(config, [*settings, "train.schedule=constant"]) == 0
        runs[name] = losses(capsys.readouterr().out)
    assert not runs["without"]
    assert runs["with"] == runs["resumed"]
    assert sorted(runs["with"]) == [0, 1, 2]
    assert len(set(runs["with"].values())) > 1
    states = [checkpoints.read(tmp_path / name / "last.ckpt")["state_dict"] for name in runs]
    for state in states[1:]:
        assert all(torch.equal(state[key], value) for key, value in states[0].items())
    events = list((tmp_path / "with" / "tensorboard").glob("events*"))
    assert any(b"val_loss" in file.read_bytes() for file in events)


def test_a_fit_with_lightning_s_own_validation_trains_the_same(city: Path) -> None:
    states = []
    for scenes, frames in ((["scene-2"], 1), (["scene-2"], None)):
        module = module_of()
        data = DriveData([city], module.host, size=SIZE, val_scenes=scenes, val_frames=frames)
        limit = {} if frames else {"limit_val_batches": 0}
        pl.Trainer(**QUIET, max_steps=2, val_check_interval=1, **limit).fit(module, datamodule=data)
        states.append({name: p.detach().clone() for name, p in module.trained()})
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


@pytest.mark.slow
def test_validation_without_a_scene_held_out_is_refused(config: Path) -> None:
    with pytest.raises(InputError, match=r"validation\.every is set, but data\.val_scenes"):
        training.run(config, [*QUICK, "validation.every=1", "data.val_scenes=0"])


def test_a_first_stage_is_validated_on_whole_pictures(city: Path, tmp_path: Path, capsys: Any) -> None:
    network = {"block_out_channels": [8, 8], "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 4}
    values = {
        "stage": "autoencoder", "output": str(tmp_path / "first"), "autoencoder": {"network": network, "crop": [16, 32]},
        "data": {"roots": [str(city)], "size": list(SIZE), "val_scenes": ["scene-2"]}, "validation": {"every": 1},
        "train": {"steps": 2, "images": 2, "warmup": 0, "device": "cpu", "lr": 1e-3}, "logger": [],
    }  # fmt: skip
    path = tmp_path / "first.yaml"
    path.write_text(yaml.safe_dump(values))
    assert training.run(path) == 0
    assert sorted(losses(capsys.readouterr().out)) == [0, 1, 2]
    assert not (tmp_path / "first" / "tensorboard").exists()
    with pytest.raises(InputError, match=r"crop = \[17, 32\] must be multiples of 2"):
        training.run(path, ["autoencoder.crop=[17, 32]", f"output={tmp_path / 'other'}"])


@pytest.mark.slow
def test_noise_on_the_sphere_is_trained_and_validated(config: Path, city: Path, tmp_path: Path) -> None:
    assert training.run(config, [*QUICK, "train.noise=sphere", "validation={every: 2, frames: 1}"]) == 0
    assert training.run(config, [*QUICK, "train.noise=sphere", f"output={tmp_path / 'again'}", "data.workers=1"]) == 0
    states = [checkpoints.read(tmp_path / name / "last.ckpt")["state_dict"] for name in ("run", "again")]
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())
    module = module_of(noise="sphere")
    data = DriveData([city], module.host, size=SIZE)
    data.setup()
    with pytest.raises(InputError, match="cameras=True"):
        module._noise(torch.zeros(3, 4, 4, 7), Grid(1, 1, 3), next(iter(data.train_dataloader())).cameras)

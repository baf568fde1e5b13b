"""Training: runs from configs on a small dataset, resumed bit for bit, and what must happen when something goes wrong."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image

from drivegen import training
from drivegen.backbones.networks import load_model
from drivegen.catalog import registry
from drivegen.catalog.construct import construct_plugin
from drivegen.datasets import nuscenes
from drivegen.host.host import Host
from drivegen.plugin import Grid, Plugin, Signal
from drivegen.saved import model as models
from drivegen.saved.integrity import weight_files
from drivegen.scene import pictures
from drivegen.support.errors import CannotGoOn, InputError
from drivegen.training import checkpoint as checkpoints
from drivegen.training import config as configs
from drivegen.training.base import Diverged
from drivegen.training.build import build_first_stage, build_model
from drivegen.training.config import DropGroup, TrainConfig
from drivegen.training.datamodule import DriveData
from drivegen.training.first_stage.settings import AutoencoderConfig
from drivegen.training.module import DriveModule
from drivegen.training.order import Loader, Order
from drivegen.training.progress import Lines
from drivegen.training.runner import ModelStage
from tests.tiny_models import tiny_backbone
from tests.training import conftest
from tests.training.conftest import SIZE


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{path}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, item in enumerate(value) for k, v in leaves(item, f"{path}/{i}").items()}
    return {path: value}


def same_bits(a: Path, b: Path) -> None:
    """Weights, optimiser, schedule and moving average of two checkpoints are the same bits."""
    one, two = (checkpoints.read(path) for path in (a, b))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step"):
        x, y = leaves(one[part], part), leaves(two[part], part)
        assert x.keys() == y.keys()
        for key in x:
            assert torch.equal(x[key], y[key]) if isinstance(x[key], torch.Tensor) else x[key] == y[key], key


@pytest.fixture(scope="module")
def unbroken(city, base, tmp_path_factory) -> Path:
    """The config of a run, beside its folder ``run``: it went through without a break."""
    path = conftest.written(city, base, tmp_path_factory.mktemp("unbroken"))
    assert training.run(path) == 0
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_and_resumed_equals_unbroken(unbroken, config, tmp_path, monkeypatch, number, status, capsys):
    whole = unbroken.parent / "run"
    assert {p.name for p in whole.glob("*.ckpt")} == {"last.ckpt", "step-00000003.ckpt", "step-00000006.ckpt"}
    assert models.load(whole / "model").host.plugins.keys() == {"text", "boxes", "cross_view"}

    told = Lines.on_train_batch_end

    def interrupt(self, trainer, module, outputs, batch, batch_idx):
        told(self, trainer, module, outputs, batch, batch_idx)
        if trainer.global_step == 1 and batch_idx == 2:  # in the middle of a step of two batches
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Lines, "on_train_batch_end", interrupt)
    broken, handler = tmp_path / "broken", signal.getsignal(number)
    assert training.run(config, [f"output={broken}"], "auto") == status  # nothing to resume yet: a new run, and it says so
    assert "a new run begins" in capsys.readouterr().out
    assert signal.getsignal(number) is handler
    monkeypatch.undo()
    assert checkpoints.read(broken / "last.ckpt")["global_step"] == 2
    assert not (broken / "model").exists()
    assert training.run(config, [f"output={broken}"], "auto") == 0
    same_bits(whole / "last.ckpt", broken / "last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_first_preview_is_drawn_ends_after_a_step(config, tmp_path, monkeypatch, number, status):
    def draw(self: ModelStage) -> Any:
        os.kill(os.getpid(), number)
        return [[Image.new("RGB", (8, 8))]]

    monkeypatch.setattr(ModelStage, "draw", draw)
    handler = signal.getsignal(number)
    assert training.run(config, ["preview.every=1"]) == status  # in the middle of the step's two batches, not before it
    assert signal.getsignal(number) is handler
    assert checkpoints.read(tmp_path / "run" / "last.ckpt")["global_step"] == 1
    assert [p.name for p in (tmp_path / "run" / "previews").iterdir()] == ["step-00000000.png"]
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("where", [(DriveData, "setup"), (DriveModule, "on_fit_start"), (DriveModule, "configure_optimizers")])
def test_a_signal_before_the_first_step_ends_at_once(config, tmp_path, monkeypatch, where, number, status, capsys):
    def interrupted(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), number)
        pytest.fail("went on")

    monkeypatch.setattr(*where, interrupted)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    assert training.run(config) == status
    assert "stopped at once" in capsys.readouterr().out
    assert {n: signal.getsignal(n) for n in handlers} == handlers
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("first", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_ctrl_c_ends_in_the_middle_of_a_step(config, tmp_path, monkeypatch, first, status, capsys):
    step = DriveModule.training_step

    def interrupted(self: DriveModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == 2:
            for number in (first, signal.SIGTERM, signal.SIGINT):  # a second SIGTERM alone ends nothing
                os.kill(os.getpid(), number)
            pytest.fail("went on")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DriveModule, "training_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    assert training.run(config, ["train.checkpoint_every=1"]) == status
    assert "last checkpoint" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is handler
    assert checkpoints.read(tmp_path / "run" / "last.ckpt")["global_step"] == 2
    monkeypatch.undo()
    assert training.run(config, ["train.steps=3"], "auto") == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_model_is_written_leaves_none_and_resuming_writes_it(config, tmp_path, monkeypatch, number, status):
    settings, run = ["train.steps=1", "train.accumulate=1"], tmp_path / "run"
    write, remove, signals = models.save_own_plugin, shutil.rmtree, []

    def interrupted(*args: Any, **kwargs: Any) -> None:
        write(*args, **kwargs)
        assert list(run.glob(".model.*/model/plugins/*/model.safetensors"))
        signals.append(number)
        os.kill(os.getpid(), number)
        pytest.fail("went on")

    def disturbed(*args: Any, **kwargs: Any) -> None:
        for again in (signal.SIGTERM, signal.SIGINT) if signals else ():
            os.kill(os.getpid(), again)
        remove(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(models, "save_own_plugin", interrupted)
        patched.setattr(shutil, "rmtree", disturbed)
        handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
        assert training.run(config, settings) == status
    assert signals == [number]
    assert {n: signal.getsignal(n) for n in handlers} == handlers
    assert not list(run.glob("*model*")) + list(run.glob(".model*"))
    expected = training.export(run / "last.ckpt", tmp_path / "exported")
    assert training.run(config, settings, "auto") == 0
    files = weight_files(expected)
    assert files == weight_files(run / "model")
    assert all((run / "model" / name).read_bytes() == (expected / name).read_bytes() for name in files)


@pytest.mark.slow
def test_a_signal_in_the_last_step_ends_after_it(config, tmp_path, monkeypatch):
    def interrupted(*args: Any, **kwargs: Any) -> None:
        told(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGTERM)

    told, settings = Lines.on_train_batch_end, ["train.steps=1", "train.accumulate=1"]
    with monkeypatch.context() as patched:
        patched.setattr(Lines, "on_train_batch_end", interrupted)
        assert training.run(config, settings) == 143
    assert not (tmp_path / "run" / "model").exists()
    assert training.run(config, settings, "auto") == 0
    assert models.load(tmp_path / "run" / "model").about["steps"] == 1


@pytest.mark.slow
def test_resume_from_a_named_checkpoint(unbroken, tmp_path):
    whole, again = unbroken.parent / "run", tmp_path / "again"
    assert training.run(unbroken, [f"output={again}", "data.workers=1"], whole / "step-00000003.ckpt") == 0
    same_bits(whole / "last.ckpt", again / "last.ckpt")
    # A checkpoint can be made a model at any time: that of the last step is the model which the run wrote.
    written, exported = whole / "model", training.export(again / "last.ckpt", tmp_path / "exported")
    files = weight_files(written)
    assert files == weight_files(exported)
    assert all((written / name).read_bytes() == (exported / name).read_bytes() for name in files)


@pytest.mark.slow
def test_a_run_that_has_ended_is_made_longer(config, tmp_path):
    constant = "train.schedule=constant"
    assert training.run(config, [constant]) == 0
    longer = [constant, f"output={tmp_path / 'longer'}"]
    assert training.run(config, [*longer, "train.steps=2"]) == 0
    assert training.run(config, longer, "auto") == 0
    same_bits(tmp_path / "run" / "last.ckpt", tmp_path / "longer" / "last.ckpt")
    with pytest.raises(InputError, match=r"train\.steps"):  # a shorter one has already been run
        training.run(config, [*longer, "train.steps=3"], "auto")


class Sick(Plugin):
    """A plugin whose tokens are no numbers."""

    def attach(self, backbone: Any) -> None:
        self.token = torch.nn.Parameter(torch.full((backbone.token_width,), math.nan))

    def encode(self, arrays, keep):
        return Signal(self.token.expand(len(keep), 1, -1))


@pytest.mark.slow
def test_refused_before_work(config, city, tmp_path, monkeypatch):
    assert training.run(config, ["train.steps=1"]) == 0
    with pytest.raises(InputError, match="--resume auto"):
        training.run(config)
    with pytest.raises(InputError, match=r"train\.lr: 0\.0001 -> 0\.001"):
        training.run(config, ["train.steps=1", "train.lr=1e-3"], "auto")
    with pytest.raises(InputError, match="there is no checkpoint"):
        training.run(config, (), tmp_path / "none.ckpt")
    last = tmp_path / "run" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"last\.ckpt was refused"):
        training.run(config, ["train.steps=1"], "auto")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to the output folder"):
        training.run(config, [f"output={tmp_path / 'file' / 'x'}"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(registry._local, "sick", Sick)
    new = [f"output={tmp_path / 'new' / 'deep'}", f"data.cache={tmp_path / 'other'}"]
    for override, said in [
        ("plugins.nobody.kind=txet", "did you mean 'text'"),
        ("plugins.boxes.options.max_boxs=3", "did you mean 'max_boxes'"),
        ("data.val_scenes=[scene-9]", "scene-9"),
        ("data.roots=[/nowhere]", "/nowhere"),
        ("drop_groups=[{names: [sky], probability: 0.1}]", "sky"),
        ("sampling.stepz=3", "did you mean 'steps'"),
        ("model.base=nothing", "nothing"),
        ("train.device=cuda", "train.device"),
        ("plugins.new={kind: layout, options: {attends_to: [nobody]}}", "nobody"),
        ("plugins.new={kind: bev_map, options: {classes: [moat]}}", "moat"),
        ("plugins.new={kind: sick}", "the tokens of new are not finite for sample 's"),
        ("data.val_scenes=0", "preview.every"),
    ]:
        with pytest.raises(InputError, match=said):
            training.run(config, [*new, "preview.every=5", override])
        assert not list(tmp_path.glob("new/**/*")), override
        assert not list(tmp_path.glob("other/**/*.npz")), override  # nothing was computed yet
    assert not (tmp_path / "new").exists()


def test_options_of_plugins_are_refused_by_their_names():
    """As `test_refused_before_work` has it for one of them: a training constructs plugins in this way, before any network."""
    for kind, options, said in (
        ("boxes", {"frame": "side"}, "frame = 'side' is not one of lidar, camera"),
        ("boxes", {"max_boxes": "many"}, r"plugins\.new\.options\.max_boxes = 'many' must be a whole number"),
        ("boxes", {"masked": "maybe"}, "masked = 'maybe' must be true or false"),
        ("boxes", {"max_boxes": -3}, "max_boxes = -3 is out of range"),
        ("boxes", {"unit_m": 0}, "unit_m = 0"),
        ("boxes", {"hidden": [8]}, "hidden"),
        ("camera", {"normalised": "perhaps"}, "normalised"),
        ("camera", {"frequencies": 0}, "frequencies = 0 is out of range"),
        ("layout", {"channels": []}, r"plugins\.new\.options: .*channels"),
        ("layout", {"channels": ["a"]}, r"channels\[0\] = 'a'"),
        ("bev_map", {"channels": [8]}, r"plugins\.new\.options: .*channels"),
    ):
        with pytest.raises(InputError, match=said):
            construct_plugin(registry.load(kind), options, "plugins.new.options")


def test_a_second_run_into_the_same_folder_is_refused(config, tmp_path):
    from drivegen.support.locks import locked_folder

    with locked_folder(tmp_path / "run"), pytest.raises(InputError, match=f"process {os.getpid()}"):
        training.run(config)


class Poison(Plugin):
    """A plugin whose loss becomes NaN at the third step."""

    calls: ClassVar[int] = 0

    def attach(self, backbone: Any) -> None:
        self.scale = torch.nn.Parameter(torch.ones(()))

    def loss(self, pred, target, t, arrays):
        type(self).calls += 1
        return self.scale * (math.nan if self.calls == 3 else 0.0)


@pytest.mark.slow
def test_nan_stops_with_step_and_samples_and_keeps_the_last_checkpoint(config, tmp_path, monkeypatch):
    monkeypatch.setitem(registry._local, "poison", Poison)
    settings = ["plugins.poison.kind=poison", "train.accumulate=1", "train.checkpoint_every=2"]
    with pytest.raises(Diverged, match=r"nan at step 2, samples s[01]f[012]"):
        training.run(config, settings)
    assert checkpoints.read(tmp_path / "run" / "last.ckpt")["global_step"] == 2
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.slow
def test_nan_is_one_line_and_status_one_on_the_command_line(config, monkeypatch):
    from typer.testing import CliRunner

    from drivegen.cli.main import app

    monkeypatch.setitem(registry._local, "poison", Poison)
    monkeypatch.setattr(Poison, "calls", 2)
    done = CliRunner().invoke(app, ["train", str(config), "plugins.poison.kind=poison"])
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("error: the loss of poison is nan at step 0, samples s")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_bad_input_in_a_data_worker_is_said_in_its_own_words(config, city, tmp_path):
    root = Path(shutil.copytree(city, tmp_path / "city"))
    broken = nuscenes.open(root).frame("s1f1").cameras[0].image_path
    assert broken is not None
    broken.write_bytes(b"no picture")
    said = set()
    for workers, cache in ((0, "null"), (1, "null"), (1, tmp_path / "new")):
        settings = [f"output={tmp_path / 'out'}", f"data.roots=[{root}]", f"data.workers={workers}", f"data.cache={cache}"]
        with pytest.raises(InputError, match=broken.name) as caught:
            training.run(config, settings)
        said.add(str(caught.value))
    assert len(said) == 1
    assert "Traceback" not in said.pop()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error",
    [InputError("Caught: no\nsecond line"), FileNotFoundError(2, "No such file", "a.png"), FileNotFoundError("no frame"),
     EOFError("cut off"), ConnectionResetError(104, "Connection reset by peer")],
)  # fmt: skip
def test_errors_of_workers_are_as_those_of_the_process_itself(workers, error):
    class Fails(list):
        def __getitem__(self, index: int) -> Any:
            try:
                raise InputError("what it was at first")
            except InputError as before:
                raise error from before

    order = Order([1], images=1, seed=0)
    with pytest.raises(type(error)) as caught:
        next(iter(Loader(Fails([0]), order, list, workers)))
    assert str(caught.value) == str(error)


def test_a_batch_that_does_not_arrive_is_said_to_be_a_workers():
    class Lost(list):
        def __getitem__(self, index: int) -> Any:
            raise RuntimeError("received 0 items of ancdata")

    with pytest.raises(CannotGoOn, match=r"^DataLoader worker could not hand over .* too many files are open"):
        next(iter(Loader(Lost([0]), Order([1], images=1, seed=0), list)))


@pytest.mark.slow
def test_held_out_scenes_of_a_share_or_by_name(city):
    host = Host(tiny_backbone())
    for share, held in ((0, set()), (0.0, set()), (0.4, {"s2f0"}), (["scene-2"], {"s2f0"})):
        sources = DriveData([city], host, size=SIZE, val_scenes=share).open()
        assert {ref.token for ref in sources.val} == held
        assert len(sources.train) + len(sources.val) == 6
    for share in (1, 2, -0.5):
        with pytest.raises(InputError, match="val_scenes"):
            DriveData([city], host, size=SIZE, val_scenes=share).open()


@pytest.mark.slow
def test_only_what_is_chosen_trains_and_is_kept(config, base, tmp_path):
    settings = ["train.unet=false", "plugins.cross_view.train=false", "train.steps=2", "train.accumulate=1"]
    assert training.run(config, settings) == 0
    state = checkpoints.read(tmp_path / "run" / "last.ckpt")
    assert {name.split(".")[2] for name in state["state_dict"]} == {"boxes"}
    (ema,) = [v for k, v in state["callbacks"].items() if k.startswith("EMA")]
    assert ema["average"].keys() == state["state_dict"].keys()
    made = models.load(tmp_path / "run" / "model").host
    before = load_model(base / "unet", "UNet2DConditionModel").state_dict()
    assert all(torch.equal(v, before[k]) for k, v in made.backbone.unet.state_dict().items())
    # What is saved is the average, not the last step's weights.
    boxes = {f"host.plugins.boxes.{k}": v for k, v in made.plugin("boxes").state_dict().items()}
    assert all(torch.equal(boxes[k], v) for k, v in ema["average"].items())
    assert any(not torch.equal(boxes[k], v) for k, v in state["state_dict"].items())


@pytest.mark.slow
def test_a_new_plugin_on_a_saved_model(config, tmp_path):
    assert training.run(config, ["train.steps=1"]) == 0
    saved = tmp_path / "run" / "model"
    values = yaml.safe_load(config.read_text())
    values |= {
        "model": {"base": str(saved)},
        "plugins": {"lens": {"kind": "camera"}},
        "output": str(tmp_path / "more"),
        "drop_groups": [],
    }
    values["train"] |= {"unet": False, "steps": 2, "accumulate": 1}
    config.write_text(yaml.safe_dump(values))
    assert training.run(config) == 0
    old, new = models.load(saved).host, models.load(tmp_path / "more" / "model").host
    assert list(new.plugins) == [*old.plugins, "lens"]
    kept, now = old.state_dict(), new.state_dict()
    assert all(torch.equal(now[k], v) for k, v in kept.items())
    with pytest.raises(InputError, match="max_boxes"):
        training.run(config, [f"output={tmp_path / 'other'}", "plugins.boxes.options.max_boxes=9"])


def test_a_trainer_of_your_own(city, tmp_path):
    host = Host(tiny_backbone(), {"text": registry.load("text")(), "camera": registry.load("camera")()})
    before = {name: p.detach().clone() for name, p in host.named_parameters()}
    settings = TrainConfig(steps=3, lr=1e-2, warmup=0, precision="32")
    module = DriveModule(host, settings, drop={"text": 0.1, "camera": 0.1})
    data = DriveData([city], host, size=SIZE, images=6)
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(module, data)
    assert trainer.global_step == 2 * 3  # 4 frames of 3 views in pairs, 2 frames of 2 views together
    moved = {name for name, p in host.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all(name.startswith("plugins.camera.") for name in moved)


@pytest.mark.slow
def test_first_stage(city, tmp_path):
    values = {
        "stage": "autoencoder", "output": str(tmp_path / "first"),
        "autoencoder": {
            "network": {"block_out_channels": [8, 8, 16], "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 4},
            "crop": [16, 32],
        },
        "data": {"roots": [str(city)], "size": list(SIZE), "val_scenes": ["scene-2"]},
        "train": {"steps": 100, "images": 4, "lr": 5e-3, "warmup": 3, "ema": 0.5, "log_every": 100, "device": "cpu"},
        "preview": {"every": 100, "frames": 1},
    }  # fmt: skip
    path = tmp_path / "first.yaml"
    path.write_text(yaml.safe_dump(values))
    assert training.run(path) == 0
    made: Any = load_model(tmp_path / "first" / "vae", "AutoencoderKL").eval()
    module_data = training_images(city)
    with torch.no_grad():
        latents = made.encode(module_data).latent_dist.mean
        error = (made.decode(latents).sample - module_data).abs().mean()
    assert made.config.scaling_factor == 1
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.05
    assert latents.mean((0, 2, 3)).abs().max() < 0.05
    assert float(error) < float((module_data - module_data.mean((0, 2, 3), keepdim=True)).abs().mean())
    for step in (0, 100):
        sheet = Image.open(tmp_path / "first" / "previews" / f"step-{step:08d}.png")
        assert sheet.size == (3 * SIZE[1] + 4, 2 * SIZE[0] + 2)


def test_a_first_stage_starts_from_another_of_other_widths(tmp_path):
    network = {"block_out_channels": [8, 16], "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 4}
    first = build_first_stage(AutoencoderConfig(network=network), seed=1)
    first.save_pretrained(tmp_path / "first")
    same = build_first_stage(AutoencoderConfig(network=network, weights=str(tmp_path / "first")), seed=2)
    pixels = torch.rand(1, 3, 16, 16, generator=torch.manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.equal(same(pixels).sample, first(pixels).sample)
        wider = {**network, "latent_channels": 6}
        wide = build_first_stage(AutoencoderConfig(network=wider, weights=str(tmp_path / "first")), seed=2)
        # What the added channels say at first is left out: then the others say what they said.
        wide.quant_conv.weight[:, 4:6], wide.quant_conv.weight[:, 10:] = 0, 0
        wide.decoder.conv_in.weight[:, 4:] = 0
        mine, theirs = wide.encode(pixels).latent_dist, first.encode(pixels).latent_dist
        assert torch.allclose(mine.mean[:, :4], theirs.mean, atol=1e-6)
        assert torch.allclose(mine.logvar[:, :4], theirs.logvar, atol=1e-6)
        latents = torch.cat([theirs.mean, torch.zeros_like(theirs.mean[:, :2])], dim=1)
        assert torch.allclose(wide.decode(latents).sample, first.decode(theirs.mean).sample, atol=1e-6)


def training_images(city: Path) -> torch.Tensor:
    from drivegen.training.fill import to_unit
    from drivegen.training.frames import Sources, pixels_of

    sources = Sources([city], SIZE, val_scenes=["scene-2"])
    return to_unit(torch.cat([torch.from_numpy(pixels_of(sources.frame(ref))) for ref in sources.train]))


@pytest.mark.slow
def test_previews_are_of_scenes_that_are_not_trained_on_and_repeat(config, tmp_path):
    for name in ("a", "b"):
        overrides = [f"output={tmp_path / name}", "preview={every: 1, frames: 1}", "train.steps=1", "sampling={steps: 2}"]
        assert training.run(config, overrides) == 0
    sheets = [[np.asarray(Image.open(tmp_path / n / "previews" / f"step-{s:08d}.png")) for s in (0, 1)] for n in ("a", "b")]
    assert np.array_equal(sheets[0][0], sheets[1][0])
    assert np.array_equal(sheets[0][1], sheets[1][1])
    held = nuscenes.open(yaml.safe_load(config.read_text())["data"]["roots"][0]).frame("s2f0").resized(SIZE[1], SIZE[0])
    shown = sheets[0][0][: SIZE[0], : SIZE[1]]
    assert np.array_equal(shown, np.asarray(pictures.load_image(held.cameras[0])))
    with pytest.raises(InputError, match="val_scenes"):
        training.run(config, [f"output={tmp_path / 'c'}", "preview.every=1", "data.val_scenes=0.0"])


@pytest.mark.slow
def test_caches_hold_what_is_computed_and_are_used(city, tmp_path, monkeypatch):
    def batches(cache: Path | None) -> list[Any]:
        torch.manual_seed(0)
        host = Host(tiny_backbone(), {"text": registry.load("text")(), "layout": registry.load("layout")()})
        data = DriveData([city], host, size=SIZE, images=6, cache=cache)
        data.setup()
        module = DriveModule(host, TrainConfig(steps=1, sample_posterior=False, precision="32"))
        made = []
        for batch in data.train_dataloader():
            conditions = host.encode(batch.conditions.arrays, batch.conditions.grid)
            made.append(
                (
                    batch.conditions.samples,
                    module.latents(batch),
                    conditions.signals["text"].tokens,
                    conditions.signals["layout"].data,
                )
            )
        return made

    plain, filled = batches(None), batches(tmp_path / "cache")
    monkeypatch.setattr(nuscenes.Dataset, "frame", None)  # a second visit reads no frame at all
    again = batches(tmp_path / "cache")
    for (names, latents, tokens, layout), (names1, latents1, tokens1, layout1), other in zip(plain, filled, again, strict=True):
        assert names == names1 == other[0]
        torch.testing.assert_close(latents1, latents, atol=2e-3, rtol=2e-3)  # fp16 on disk
        torch.testing.assert_close(tokens1, tokens)
        assert torch.equal(layout1, layout)
        assert torch.equal(other[1], latents1)
        assert torch.equal(other[3], layout)
    victim = sorted((tmp_path / "cache").glob("latents-*/*.npz"))[0]
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(InputError, match=r"\.npz are damaged"):
        batches(tmp_path / "cache")


def test_order_visits_all_once_an_epoch_in_batches_of_equal_rigs():
    views = [6] * 7 + [3] * 5 + [8] * 2
    order = Order(views, images=12, seed=3)
    for epoch in range(3):
        batches = [order.batch(epoch * order.per_epoch + i) for i in range(order.per_epoch)]
        assert sorted(i for batch in batches for i in batch) == list(range(len(views)))
        for batch in batches:
            kinds = {views[i] for i in batch}
            assert len(kinds) == 1
            assert len(batch) == 1 or len(batch) * kinds.pop() <= 12
    assert [order.batch(i) for i in range(5)] != [order.batch(order.per_epoch + i) for i in range(5)]
    assert Order(views, 12, 3).batch(17) == order.batch(17)  # any position, without those before it
    halves = [Order(views, 12, 3, rank, 2) for rank in (0, 1)]
    seen = [tuple(h.batch(i)) for i in range(halves[0].per_epoch) for h in halves]
    assert len(set(seen)) == len(seen) >= order.per_epoch - 1


def test_min_snr_is_refused_where_it_would_never_train_the_first_sampling_step():
    from diffusers import DDPMScheduler

    backbone = tiny_backbone(prediction_type="v_prediction")
    backbone.scheduler = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    with pytest.raises(InputError, match="plain"):
        DriveModule(Host(backbone), TrainConfig(steps=1, weighting="min_snr"))


def test_drop_out_is_drawn_for_each_plugin_and_jointly_for_groups():
    host = Host(tiny_backbone(), {name: registry.load("camera")() for name in ("a", "b", "c", "d")})
    module = DriveModule(host, TrainConfig(steps=1), {"a": 1.0, "b": 0.5}, [DropGroup(names=("c", "d"), probability=0.5)])
    torch.manual_seed(0)
    keep = module.draw_keep(Grid(4000, 1, 6))
    assert not keep["a"].any()
    assert torch.equal(keep["c"], keep["d"])
    assert abs(float(keep["b"].float().mean()) - 0.5) < 0.04
    assert abs(float(keep["c"].float().mean()) - 0.5) < 0.04
    assert abs(float((keep["b"] & keep["c"]).float().mean()) - 0.25) < 0.04
    with pytest.raises(InputError, match="did you mean 'a'"):
        DriveModule(host, TrainConfig(steps=1), {"aa": 0.1})


@pytest.mark.parametrize(("same_t", "kind"), [(True, "shared"), (False, "independent")])
def test_time_and_noise_shared_by_a_scene_s_views(same_t, kind):
    host = Host(tiny_backbone(), {"c": registry.load("camera")()})
    module = DriveModule(host, TrainConfig(steps=1, same_t=same_t, noise=kind))
    grid = Grid(3, 1, 4)
    t, noise = module._timesteps(grid).view(3, 4), module._noise(torch.zeros(12, 4, 2, 2), grid).view(3, 4, -1)
    assert bool((t == t[:, :1]).all()) == same_t
    assert bool((noise == noise[:, :1]).all()) == (kind == "shared")
    assert not torch.equal(noise[0], noise[1])


def test_the_rate_warms_up_and_falls():
    module = DriveModule(
        Host(tiny_backbone(), {"c": registry.load("camera")()}), TrainConfig(steps=100, warmup=9, schedule="cosine")
    )
    rates = [module.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert all(a < b for a, b in itertools.pairwise(rates[:10]))
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))
    assert rates[100] == pytest.approx(0.0, abs=1e-9)


def test_a_checkpoint_that_is_cut_short_while_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    io = checkpoints.AtomicIO()
    io.save_checkpoint({"global_step": 1, "state_dict": {"a": torch.ones(3)}}, path)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*last\.ckpt: No space.*the checkpoint before is kept"):
        io.save_checkpoint({"global_step": 2, "state_dict": {"a": torch.zeros(3)}}, path)
    assert checkpoints.read(path)["global_step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_never_runs_code(tmp_path):
    import pickle

    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    for name, writer in (
        ("zip", lambda p: torch.save({"global_step": Payload()}, p)),
        ("raw", lambda p: p.write_bytes(pickle.dumps(Payload()))),
    ):
        writer(tmp_path / name)
        with pytest.raises(InputError, match="refused"):
            checkpoints.read(tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_the_same_config_makes_the_same_host(config):
    made = configs.load(config)
    one, two = (build_model(made).host.state_dict() for _ in range(2))
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    shutil.rmtree(made.output, ignore_errors=True)

"""Absurd sizes, counts and folders are refused with their place, before anything is written."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing import resource_sharer
from pathlib import Path
from typing import Any

import pytest
import torch

from drivegen import training
from drivegen.support.errors import CannotGoOn, InputError
from drivegen.training import checkpoint as checkpoints
from drivegen.training import config as configs
from drivegen.training.config import TrainConfig
from drivegen.training.frames import FrameDataset
from drivegen.training.loggers import make_loggers
from drivegen.training.order import Loader, Order

QUICK = ["train.accumulate=1", "train.unet=false", "drop_groups=[]", "data.cache=null"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    ["train.threads", "train.steps", "train.images", "train.accumulate", "train.warmup", "train.clip", "train.gamma",
     "train.checkpoint_every", "train.keep_checkpoints", "train.log_every", "train.seed", "data.workers", "data.max_frames",
     "preview.every", "preview.frames", "validation.every", "validation.frames", "save_shard_mb", "lora.rank", "lora.alpha"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["1000000000000000000000", "-1", "1e99"])
def test_every_number_has_bounds(config: Path, setting: str, value: str) -> None:
    with pytest.raises(InputError, match=setting.replace(".", r"\.")):
        configs.load(config, [f"{setting}={value}"])


@pytest.mark.parametrize("size", ["[0, 0]", "[-8, 8]", "[8, 1000000000]", "[8, 8, 8]"])
def test_sizes_have_bounds(config: Path, size: str) -> None:
    with pytest.raises(InputError, match=r"data\.size"):
        configs.load(config, [f"data.size={size}"])
    with pytest.raises(InputError, match=r"autoencoder\.crop"):
        configs.load(config, [f"autoencoder.crop={size}", "stage=autoencoder"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"steps": -1}, "steps"), ({"precision": "fp61"}, "precision"), ({"lr": float("nan")}, "lr"),
     ({"betas": (0.9, 1.5)}, "betas"), ({"threads": 10**8}, "threads"), ({"unet": "yes"}, "unet")],
)  # fmt: skip
def test_settings_made_in_python_are_checked_too(settings: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        TrainConfig(**{"steps": 1, **settings})


def test_threads_that_the_machine_has_not_are_refused(config: Path) -> None:
    with pytest.raises(InputError, match=r"train\.threads = 1024 on a machine of \d+ processors"):
        training.run(config, ["train.threads=1024"])


@pytest.mark.parametrize(
    "setting", ["output", "data.cache", "model.base", "model.vae", "data.version", "plugins.boxes.weights"]
)
@pytest.mark.parametrize("value", ["''", "'  '"])
def test_an_empty_path_is_not_the_present_folder(config: Path, setting: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"{setting} is empty".replace(".", r"\.")):
        configs.load(config, [f"{setting}={value}"])
    with pytest.raises(InputError, match=r"data\.roots\[0\] is empty"):
        configs.load(config, [f"data.roots=[{value}]"])


def test_folders_that_nobody_means_are_refused(config: Path, city: Path, tmp_path: Path, monkeypatch: Any) -> None:
    home = tmp_path / "home"
    (home / "run" / "model").mkdir(parents=True)
    (tmp_path / "a file").write_text("x")
    (tmp_path / "link").symlink_to(home)
    monkeypatch.setenv("HOME", str(home))
    before = sorted(map(str, tmp_path.rglob("*")))
    ours = (home, f"{home}/.", tmp_path / "link", tmp_path / "a file", city)
    for path in ("/", "'~'", *ours, "~no_such_user_here/x", "a" * 5000):
        for setting in ("output", "data.cache"):
            with pytest.raises(InputError, match=setting):
                training.run(config, [f"{setting}={path}"])
    for base in ("run/model", "run/model/../model"):
        with pytest.raises(InputError, match=r"model\.base = .* is what the end of this run would replace"):
            training.run(config, [f"model.base={home}/{base}", f"output={home}/run"])
    assert sorted(map(str, tmp_path.rglob("*"))) == before


@pytest.mark.slow
def test_a_tilde_is_the_home(config: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    assert training.run(config, [*QUICK, "output=~/mine", "train.steps=1", "logger=[]"]) == 0
    assert (tmp_path / "home" / "mine" / "last.ckpt").is_file()
    assert not (tmp_path / "~").exists()


def test_a_worker_that_is_killed_is_a_sentence_and_the_checkpoint_is_whole(
    config: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    read, parent = FrameDataset.__getitem__, os.getpid()

    def killed(self: FrameDataset, index: int) -> Any:
        if os.getpid() != parent and (tmp_path / "run" / "last.ckpt").is_file():
            os.kill(os.getpid(), 9)
        return read(self, index)

    monkeypatch.setattr(FrameDataset, "__getitem__", killed)
    begun = time.monotonic()
    with pytest.raises(CannotGoOn, match=r"^DataLoader worker .*the last checkpoint is kept") as caught:
        training.run(config, [*QUICK, "data.workers=1", "train.checkpoint_every=1", "train.steps=60", "logger=[]"])
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 60
    assert checkpoints.read(tmp_path / "run" / "last.ckpt")["global_step"] >= 1


def test_a_worker_that_is_killed_while_the_cache_is_filled(config: Path, tmp_path: Path, monkeypatch: Any) -> None:
    read, parent = FrameDataset.__getitem__, os.getpid()

    def killed(self: FrameDataset, index: int) -> Any:
        if os.getpid() != parent and index >= 2:
            os.kill(os.getpid(), 9)
        return read(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(FrameDataset, "__getitem__", killed)
        settings = [*QUICK[:-1], f"data.cache={tmp_path / 'cache'}", "data.workers=1", "train.steps=1", "logger=[]"]
        with pytest.raises(CannotGoOn, match=r"^DataLoader worker .*go on from it"):
            training.run(config, settings)
    assert training.run(config, settings) == 0


@pytest.mark.slow
def test_a_full_disk_while_the_model_is_written(config: Path, tmp_path: Path, monkeypatch: Any) -> None:
    sync = os.fsync

    def full(handle: int) -> None:
        if "model" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(28, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"cannot write .*model.*: No space left on device"):
            training.run(config, [*QUICK, "train.steps=1", "logger=[]"])
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"last.ckpt", "step-00000001.ckpt"}
    assert training.run(config, [*QUICK, "train.steps=1", "logger=[]"], "auto") == 0
    assert (tmp_path / "run" / "model" / "drivegen.json").is_file()


def test_wandb_that_is_not_installed_is_a_sentence(config: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed; run `pip install 'drivegen\[wandb\]'`"):
        training.run(config, ["logger=[tensorboard, wandb]"])
    with pytest.raises(InputError, match=r"logger\[0\] = 'tensorbord' .*did you mean 'tensorboard'"):
        configs.load(config, ["logger=[tensorbord]"])


def test_wandb_offline_needs_no_network_and_a_resumed_run_is_the_same_one(
    config: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    made = configs.load(config, ["logger=[wandb, tensorboard]"])
    one, two = (make_loggers(made, tmp_path) for _ in range(2))
    assert [type(logger).__name__ for logger in one] == ["WandbLogger", "TensorBoardLogger"]
    assert one[0].version == two[0].version


@pytest.mark.parametrize("silent", [signal.SIG_DFL, None])
def test_a_worker_that_ends_with_its_batch_on_the_way_is_a_sentence(silent: Any) -> None:
    class Ends(list[int]):
        def __getitem__(self, index: int) -> torch.Tensor:
            if index == 2:  # once its batches lie in the pipe: they are opened through a socket of the worker
                threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return torch.tensor([os.getpid(), index])

    handlers = []

    def read() -> None:
        for batch in Loader(Ends(range(8)), order, torch.stack, 1):
            handlers.append(signal.getsignal(signal.SIGCHLD))
            if silent is not None:  # torch's handler says it at any moment, or the broken socket does before it
                signal.signal(signal.SIGCHLD, silent)
            if batch[0, 1] == 0:
                _wait_for_end(int(batch[0, 0]))

    order = Order([1] * 8, images=1, seed=0)
    order.batch = lambda position: [position]  # type: ignore[method-assign]
    try:
        with pytest.raises(CannotGoOn, match=r"^DataLoader worker .*the last checkpoint is kept"):
            read()
    finally:
        signal.signal(signal.SIGCHLD, handlers[0])


@pytest.mark.parametrize("silent", [signal.SIG_DFL, None])
def test_a_worker_whose_socket_breaks_before_it_has_ended_is_told_of_once(silent: Any) -> None:
    class Ends(list[int]):
        def __getitem__(self, index: int) -> torch.Tensor:
            if index == 2:
                threading.Timer(0.5, ends).start()
            return torch.tensor([os.getpid(), index])

    def ends() -> None:
        resource_sharer.stop()
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    handlers, workers = [], []

    def read() -> None:
        for batch in Loader(Ends(range(8)), order, torch.stack, 1):
            handlers.append(signal.getsignal(signal.SIGCHLD))
            workers.append(int(batch[0, 0]))
            if silent is not None:
                signal.signal(signal.SIGCHLD, silent)
            time.sleep(1 if batch[0, 1] == 0 else 0)

    order = Order([1] * 8, images=1, seed=0)
    order.batch = lambda position: [position]  # type: ignore[method-assign]
    try:
        with pytest.raises(CannotGoOn, match=r"^DataLoader worker .*the last checkpoint is kept") as caught:
            read()
        _wait_for_end(workers[0])
        torch._C._error_if_any_worker_fails()  # as torch's handler does when the signal comes
        assert caught.value.__traceback__ is not None  # which has kept the workers' iterator alive until here
    finally:
        signal.signal(signal.SIGCHLD, handlers[0])


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), BrokenPipeError(32, "Broken pipe")])
def test_a_worker_s_broken_socket_is_not_taken_for_another_process_of_the_run(
    config: Path, monkeypatch: Any, error: OSError
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter._next_data", broken)
    monkeypatch.setattr("drivegen.training.order._wait_until_gone", lambda *_: None)  # the worker lives
    with pytest.raises(CannotGoOn, match=r"^DataLoader worker was ended from outside .*the last checkpoint is kept"):
        training.run(config, [*QUICK, "data.workers=1", "train.steps=1", "logger=[]"])


def _wait_for_end(pid: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return
        except OSError:  # its end is known already
            return
        time.sleep(0.02)

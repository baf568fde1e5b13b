"""Two processes on the CPU train what one process does with the joint batch; they begin, end, save and resume together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from drivegen import training
from drivegen.support.errors import InputError
from drivegen.training import checkpoint as checkpoints
from drivegen.training import config as configs
from drivegen.training.module import DriveModule
from drivegen.training.order import Order
from drivegen.training.processes import check_processes

HOUSE = Path(__file__).parents[2]

PROGRAM = """
import atexit, os, signal, sys
import torch
from drivegen.cli.main import main
from drivegen.training.module import DriveModule

objective = DriveModule.validation_loss.__wrapped__  # its noise depends on the frames' tokens alone

def step(self, batch, index):
    loss = objective(self, batch)
    told = os.environ.get("TELL_SECOND")
    if self.global_rank == 1 and self.global_step == 1 and told == "end":
        os.kill(os.getpid(), signal.SIGTERM)
    if self.global_rank == 1 and self.global_step == 1 and told == "diverge":
        loss = loss * float("nan")
    return self.checked(loss, batch.conditions.samples)

DriveModule.training_step = step
atexit.register(lambda: torch.distributed.is_initialized() and print("ends within its group"))
main()
"""
"""`drivegen train` in which nothing is drawn, and in which the second process may be told to end, or diverge.

A process that ends within its group is now and then aborted.
"""

FIXED = (
    "data.max_frames=2", "train.noise_offset=0", "train.accumulate=1", "train.schedule=constant", "train.warmup=0",
    "train.lr=1e-3", "validation.every=2", "drop_groups=[]", "logger=[]", "train.steps=3",
)  # fmt: skip


def train(folder: Path, config: Path, *words: str, tell: str = "", launcher: tuple[str, ...] = ()) -> tuple[int, str]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    known = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    path = os.pathsep.join(map(str, (HOUSE, HOUSE / "plugins")))
    env = {**known, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TELL_SECOND": tell}
    done = subprocess.run(
        [sys.executable, *launcher, str(program), "train", str(config), *FIXED, *words], env=env,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert "ends within its group" not in done.stdout
    return done.returncode, done.stdout + done.stderr


def close(a: Path, b: Path) -> None:
    """Weights, moving averages and what the objective remembers agree in two checkpoints."""
    one, two = (checkpoints.read(path) for path in (a, b))
    averages = [next(v["average"] for k, v in each["callbacks"].items() if k.startswith("EMA")) for each in (one, two)]
    for x, y in ((one["state_dict"], two["state_dict"]), averages, (one["objective"], two["objective"])):
        assert x.keys() == y.keys()
        whole = torch.cat([value.flatten() for value in y.values()])
        apart = torch.cat([(x[name] - y[name]).flatten() for name in y])
        assert float(apart.norm()) <= 1e-4 * float(whole.norm())


def measured(said: str) -> dict[int, float]:
    """What a run says of its held-out frames, by step."""
    lines = [line.split() for line in said.splitlines() if " val_loss " in line]
    return {int(words[1]): float(words[3]) for words in lines}


@pytest.mark.slow
def test_two_processes_train_what_one_does_with_the_joint_batch(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    objective = DriveModule.validation_loss.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        DriveModule, "training_step", lambda self, batch, index: self.checked(objective(self, batch), batch.conditions.samples)
    )
    # An objective with a teacher and an average that follows: both are each process's own, and the average is remembered.
    kind = ("objective.kind=lcm", "objective.options.solver_steps=20", "objective.options.decay=0.5")
    joint = tmp_path / "joint"
    assert training.run(config, [*FIXED, *kind, "train.images=6", f"output={joint}"]) == 0
    expected = measured(capsys.readouterr().out)
    # Lightning starts the second process; SIGTERM to that one alone ends both after the same step.
    both, run = (*kind, "train.images=3", "trainer.devices=2"), tmp_path / "run"
    status, said = train(tmp_path, config, *both, "trainer.strategy=ddp", tell="end")
    assert status == 143, said
    assert checkpoints.read(run / "last.ckpt")["global_step"] == 2
    with pytest.raises(InputError, match=r"was written by 2 processes, and trainer.devices × trainer.num_nodes is 1 here"):
        training.run(config, [*FIXED, *both, "trainer.devices=1"], "auto")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    status, told = train(tmp_path, config, *both, "--resume", "auto", launcher=torchrun)
    assert status == 0, told
    close(run / "last.ckpt", joint / "last.ckpt")
    assert measured(said) | measured(told) == pytest.approx(expected, rel=1e-3)
    assert sorted(expected) == [0, 2, 3]
    assert told.count("wrote ") == told.count("going on from") == 1, "one process alone writes and prints"
    assert (run / "model" / "drivegen.json").is_file()


@pytest.mark.slow
def test_one_that_diverges_stops_both(config: Path, tmp_path: Path) -> None:
    status, said = train(tmp_path, config, "train.images=3", "trainer.devices=2", "train.checkpoint_every=1", tell="diverge")
    assert status == 1, said
    assert "not finite in another process at step 1" in said
    assert checkpoints.read(tmp_path / "run" / "last.ckpt")["global_step"] == 1


def test_no_frame_comes_twice_in_an_epoch() -> None:
    orders = [Order([3] * 7 + [2] * 5, 4, seed=1, rank=rank, world=3) for rank in range(3)]
    for epoch in range(3):
        positions = range(epoch * orders[0].per_epoch, (epoch + 1) * orders[0].per_epoch)
        seen = [index for order in orders for position in positions for index in order.batch(position)]
        assert len(seen) == len(set(seen))
    with pytest.raises(InputError, match="2 frames make 1 batches of up to 6 images, too few for 2 processes"):
        Order([3, 3], 6, seed=0, rank=0, world=2)


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["trainer.num_nodes=2"], {}, "needs torchrun or SLURM"),
        (["trainer.devices=2"], {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4"}, "torchrun starts 4 processes, and .* is 2"),
        ([], {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}, "torchrun starts 2 processes, and .* is 1"),
        ([], {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "two"}, "does not say how many processes"),
        (["trainer.devices=2"], {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}, "SLURM starts 1 processes"),
    ],
)
def test_numbers_that_do_not_agree(
    words: list[str], environment: dict[str, str], said: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        check_processes(configs.load(config, words))

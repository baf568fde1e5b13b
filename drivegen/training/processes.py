"""Several processes of one training, a device each: how many, which one this is, and what one of them must tell the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from torch import distributed

from drivegen.support.errors import Diverged, InputError
from drivegen.training.config import Config

_PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: the first one draws previews meanwhile."""


def count(config: Config) -> int:
    """Return the number of processes of a run."""
    return config.trainer.devices * config.trainer.num_nodes


def rank(config: Config) -> int:
    """Return which process of a run this is, as torchrun, SLURM or Lightning say it; 0 writes all files."""
    return int(getattr(rank_zero_only, "rank", 0)) if count(config) > 1 else 0


def check_processes(config: Config) -> None:
    """Raise InputError where the number of processes does not fit the machine, the launcher or what is trained."""
    wanted, trainer = count(config), config.trainer
    for launcher, started in _started().items():
        if started != wanted:
            raise InputError(
                f"{launcher} starts {started} processes, and trainer.devices = {trainer.devices} with trainer.num_nodes ="
                f" {trainer.num_nodes} is {wanted}; make them agree"
            )
    if trainer.num_nodes > 1 and not _started():
        raise InputError("trainer.num_nodes above 1 needs torchrun or SLURM, which start a process per device on each machine")
    if wanted > 1 and config.stage != "model":
        raise InputError("a first stage trains on one device; leave trainer.devices and trainer.num_nodes at 1")
    cuda = config.train.device == "cuda" or (config.train.device == "auto" and torch.cuda.is_available())
    if cuda and trainer.devices > torch.cuda.device_count():
        raise InputError(f"trainer.devices = {trainer.devices}, and this machine has {torch.cuda.device_count()} GPUs")


def _started() -> dict[str, int]:
    """Return how many processes a launcher has started, by its name; none where Lightning starts them itself."""
    found = {}
    try:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            found["torchrun"] = int(os.environ["WORLD_SIZE"])
        elif "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive", None):
            found["SLURM"] = int(os.environ["SLURM_NTASKS"])
    except (KeyError, ValueError) as error:
        raise InputError(f"the launcher's environment does not say how many processes there are: {error}") from error
    return found


def strategy(config: Config) -> Any:
    """Return Lightning's strategy: one device, or a copy of the weights per process whose gradients are averaged."""
    if count(config) == 1 and config.trainer.strategy == "auto":
        return "auto"
    # A parameter that a step does not reach, as of a text encoder's unused end, must not stop the others' exchange.
    return DDPStrategy(find_unused_parameters=True, timeout=_PATIENCE)


@contextmanager
def leaving() -> Iterator[None]:
    """Leave the group of processes at the end of a run, whether it went well, was refused or diverged.

    A process that ends with its group still open may be aborted by the threads of gloo, and its launcher then ends the others,
    of which one may still be writing (pytorch issues 179291 and 190489). After any other exception an exchange may be under
    way, and leaving would wait for it.
    """
    try:
        yield
    except (InputError, Diverged):
        _leave()
        raise
    _leave()


def _leave() -> None:
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def greatest(value: float, device: torch.device) -> float:
    """Return the greatest of all processes' values; every process must call it.

    Args:
        value: this process's.
        device: where the processes exchange values.
    """
    return _reduced((value,), device, distributed.ReduceOp.MAX)[0]


def total(values: tuple[float, ...], device: torch.device) -> tuple[float, ...]:
    """Return the sums of all processes' values, one by one; every process must call it.

    Args:
        values: this process's.
        device: where the processes exchange values.
    """
    return _reduced(values, device, distributed.ReduceOp.SUM)


def _reduced(values: tuple[float, ...], device: torch.device, how: Any) -> tuple[float, ...]:
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return values
    exchanged = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(exchanged, how)
    return tuple(exchanged.tolist())

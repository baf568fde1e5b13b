"""Work between two training steps that does not change what the next ones draw."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def same_randomness() -> Iterator[None]:
    """Restore the generators of torch, numpy and Python after the block."""
    state = randomness()
    try:
        yield
    finally:
        set_randomness(state)


def randomness() -> tuple[Any, ...]:
    """Return the states of all generators that a training step may draw from."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), devices, np.random.get_state(), random.getstate()


def set_randomness(state: tuple[Any, ...]) -> None:
    """Restore states that `randomness` returned."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
    np.random.set_state(state[2])
    random.setstate(state[3])

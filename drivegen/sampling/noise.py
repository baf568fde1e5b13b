"""Noise from CPU generators, so that no view depends on the others, the batch or the device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from drivegen.support.values import whole

MAX_SEED = 2**63 - 1


def check_seed(seed: int) -> int:
    """Return the seed; raises InputError unless it is a whole number from 0 to 2⁶³ − 1."""
    return whole(seed, "seed", 0, MAX_SEED)


def camera_generators(seed: int, channels: Sequence[str], shared: bool = False) -> list[torch.Generator]:
    """Return a CPU generator for each camera, seeded from (seed, channel).

    Args:
        seed: 0 to 2⁶³ − 1.
        channels: of the cameras.
        shared: all generators are equal, so that the views share their noise.
    """
    check_seed(seed)
    return [generator_of(f"{seed}/{'' if shared else channel}") for channel in channels]


def generator_of(name: str) -> torch.Generator:
    """Return a CPU generator whose state depends on the name alone."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1)


def draw_noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    """Draw standard normal noise (N, C, h, w) in fp32 on the CPU, with one generator per row."""
    return torch.stack([torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators])

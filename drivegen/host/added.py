"""The vectors that a network is given besides tokens: those of the plugins, completed by the family's defaults."""

from __future__ import annotations

from torch import Tensor

from drivegen.backbones.family import Family
from drivegen.host.evaluation import Conditions
from drivegen.plugin import per_row
from drivegen.support.errors import InputError


def added_vectors(family: Family, conditions: Conditions, x: Tensor, factor: int) -> dict[str, Tensor]:
    """Collect the vectors (N, …) of the present plugins; at a scale s one is ``default + s · (vector − default)``.

    Args:
        family: of the network.
        conditions: of the batch.
        x: noisy latents (N, C, h, w).
        factor: pixels per latent.

    Raises InputError where two plugins give the same vector.
    """
    if not family.added:
        return {}
    given: dict[str, Tensor] = {}
    giver: dict[str, str] = {}
    for name in conditions.present():
        for key, value in conditions.signals[name].added.items():
            if key in giver:
                raise InputError(f"the plugins {giver[key]!r} and {name!r} both give the network's {key}; remove one of them")
            given[key], giver[key] = per_row(value, conditions.grid), name
    every = family.fill(given, x, factor)
    for key, name in giver.items():
        scale = conditions.scale(name)
        if scale != 1:
            default = family.fill({k: v for k, v in given.items() if k != key}, x, factor)[key]
            every[key] = default + scale * (every[key] - default)
    return every

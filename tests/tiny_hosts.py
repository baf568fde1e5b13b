"""Tiny random hosts with the first-party plugins, for tests of generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drivegen.catalog import registry
from drivegen.host.host import Host
from tests.tiny_models import randomize, tiny_backbone

ALL = ("text", "camera", "boxes", "bev_map", "cross_view", "layout")
SIZE = (64, 112)
"""(height, width) of a generated view, in pixels."""


def tiny_host(names: Sequence[str] = ALL, seed: int = 0, **backbone: Any) -> Host:
    """Build a host whose every parameter is random, so that each plugin has an effect."""
    host = Host(tiny_backbone(seed, **({"vae_factor": 8} | backbone)), {name: registry.load(name)() for name in names})
    for i, name in enumerate(names):
        randomize(host.plugin(name), seed * 100 + i)
    return host.eval().requires_grad_(False)

"""The procedural city: scenes with streets, traffic and weather, and what cameras see in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drivegen.world.city import CityScene, build
from drivegen.world.classes import CLASSES, DRIVABLE, VEHICLES

if TYPE_CHECKING:
    from drivegen.world.dataset import write
    from drivegen.world.stored import truth
    from drivegen.world.view import View

__all__ = ["CLASSES", "DRIVABLE", "VEHICLES", "CityScene", "View", "build", "truth", "write"]

_LAZY = {"View": "view", "truth": "stored", "write": "dataset"}


def __getattr__(name: str) -> Any:
    # Building a scene needs neither numba nor opencv: what does is imported on first use.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"drivegen.world.{_LAZY[name]}"), name)

"""drivegen: camera images of driving scenes under many conditions at once."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivegen.catalog.registry import register as register
    from drivegen.datasets import nuscenes as nuscenes
    from drivegen.pipeline.pipeline import Pipeline as Pipeline
    from drivegen.pipeline.settings import GenerationSettings as GenerationSettings
    from drivegen.pipeline.views import Views as Views
    from drivegen.saved.model import Model as Model
    from drivegen.support.errors import InputError as InputError

_WHERE = {
    "GenerationSettings": "drivegen.pipeline.settings",
    "Pipeline": "drivegen.pipeline.pipeline",
    "Views": "drivegen.pipeline.views",
    "Model": "drivegen.saved.model",
    "register": "drivegen.catalog.registry",
    "InputError": "drivegen.support.errors",
}
_ROOMS = (
    "catalog", "datasets", "edit", "plugin", "raster", "sampling", "saved", "scene", "testing", "training", "world",
)  # fmt: skip

__all__ = ["GenerationSettings", "InputError", "Model", "Pipeline", "Views", "nuscenes", "register"]


def __getattr__(name: str) -> Any:
    """Import a name when it is used: `import drivegen` itself takes no time."""
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name == "nuscenes":
        return importlib.import_module("drivegen.datasets.nuscenes")
    if name in _ROOMS:
        return importlib.import_module(f"drivegen.{name}")
    raise AttributeError(f"module 'drivegen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE, *_ROOMS, "nuscenes"})

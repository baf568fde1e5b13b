"""drivegen: camera images of driving scenes under many conditions at once."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivegen import nuscenes as nuscenes
    from drivegen.errors import InputError as InputError
    from drivegen.model import Model as Model
    from drivegen.pipeline import Pipeline as Pipeline
    from drivegen.registry import register as register
    from drivegen.views import Views as Views

_WHERE = {
    "Pipeline": "drivegen.pipeline",
    "Views": "drivegen.views",
    "Model": "drivegen.model",
    "register": "drivegen.registry",
    "InputError": "drivegen.errors",
}
_MODULES = (
    "geometry", "model", "nuscenes", "plugin", "raster", "registry", "sampling", "scene", "testing", "training", "world",
)  # fmt: skip

__all__ = ["InputError", "Model", "Pipeline", "Views", "nuscenes", "register"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, and only then: `import drivegen` itself takes no time."""
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"drivegen.{name}")
    raise AttributeError(f"module 'drivegen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE, *_MODULES})

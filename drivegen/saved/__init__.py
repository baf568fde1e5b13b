"""Models and plugins as folders: written, checked, described, shared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivegen.saved.model import Model, load, save
    from drivegen.saved.plugin_folder import load_plugin, save_plugin

__all__ = ["Model", "load", "load_plugin", "save", "save_plugin"]


def __getattr__(name: str) -> Any:
    # What a folder holds can be listed without torch: models are imported when they are asked for.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    where = "drivegen.saved.plugin_folder" if name.endswith("_plugin") else "drivegen.saved.model"
    return getattr(import_module(where), name)

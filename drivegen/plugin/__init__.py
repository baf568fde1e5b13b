"""All that the author of a plugin imports: the contract here, ready-made parts in the modules beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivegen.plugin.contract import (
        Arrays,
        Context,
        Denoiser,
        Grid,
        Now,
        Plugin,
        Residuals,
        Signal,
        ToX0,
        per_row,
        refuse_input,
        select_or_null,
    )

__all__ = [
    "Arrays",
    "Context",
    "Denoiser",
    "Grid",
    "Now",
    "Plugin",
    "Residuals",
    "Signal",
    "ToX0",
    "per_row",
    "refuse_input",
    "select_or_null",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # The names of hooks can be had without torch: the contract is imported when it is asked for.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("drivegen.plugin.contract"), name)

"""LoRA files: read in every common layout, added to the networks, removed again, written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivegen.lora.files import FILE, LoRA, find, read, save
    from drivegen.lora.inject import apply, remove

__all__ = ["FILE", "LoRA", "apply", "find", "read", "remove", "save"]

_IN_FILES = ("FILE", "LoRA", "find", "read", "save")


def __getattr__(name: str) -> Any:
    # A configuration is read without torch, and its settings are in this room.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"drivegen.lora.{'files' if name in _IN_FILES else 'inject'}"), name)

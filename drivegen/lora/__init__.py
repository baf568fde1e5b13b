"""LoRA files: read in every common layout, added to the networks, removed again, written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivegen.lora.apart import apply_apart, changed_layers
    from drivegen.lora.files import FILE, LoRA, find, read, save
    from drivegen.lora.inject import apply, remove
    from drivegen.lora.merge import fuse, merged

__all__ = [
    "FILE", "LoRA", "apply", "apply_apart", "changed_layers", "find", "fuse", "merged", "read", "remove", "save",
]  # fmt: skip

_PLACES = {
    **dict.fromkeys(("FILE", "LoRA", "find", "read", "save"), "files"), **dict.fromkeys(("apply", "remove"), "inject"),
    **dict.fromkeys(("apply_apart", "changed_layers"), "apart"), **dict.fromkeys(("fuse", "merged"), "merge"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    # A configuration is read without torch, and its settings are in this room.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"drivegen.lora.{_PLACES[name]}"), name)

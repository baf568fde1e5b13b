"""A config as plain values, as checkpoints and models store it, and how two of them differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from drivegen.training.config import Config


def to_dict(config: Config) -> dict[str, Any]:
    """Return the config as plain JSON values, defaults included."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    return plain(config)


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """List the settings that differ, as ``train.lr: 0.0001 -> 0.001``.

    Args:
        old: plain values.
        new: plain values.
        path: prefix of the settings' names.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]

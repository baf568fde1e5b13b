"""Schedulers of a model folder: diffusers' own classes, built from scheduler_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drivegen.support import weights
from drivegen.support.errors import InputError, reason


def scheduler_class(name: str) -> Any:
    """Look a scheduler class up among diffusers' own; raises InputError for any other name."""
    import diffusers

    cls = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if cls is None or not hasattr(cls, "set_timesteps"):
        raise InputError(f"{name!r} is not a scheduler of diffusers")
    return cls


def load_scheduler(folder: Path, index: Mapping[str, Any]) -> Any:
    """Build the scheduler of a model folder; raises InputError where it cannot be built as configured."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = weights.read_object(path)
    cls = scheduler_class(index["scheduler"][1])
    try:
        return cls.from_config(config)
    except Exception as error:  # an unknown schedule is a NotImplementedError, a wrong type whatever it leads to
        raise InputError(f"{path}: {cls.__name__} cannot be built as configured: {reason(error)}") from error

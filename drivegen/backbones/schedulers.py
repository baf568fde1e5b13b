"""Schedulers of a model folder: diffusers' own classes, built from scheduler_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drivegen.diffusion.training_facts import check_settings, training_facts
from drivegen.support import weights
from drivegen.support.errors import InputError, reason


def scheduler_class(name: str) -> Any:
    """Look a scheduler class up among diffusers' own; raises InputError for any other name."""
    import diffusers

    cls = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    try:
        known = cls is not None and hasattr(cls, "set_timesteps")
    except ImportError as error:  # diffusers has a stand-in for a class whose package is not installed
        raise InputError(f"the scheduler {name} cannot be used here: {reason(error)}") from error
    if not known:
        raise InputError(f"{name!r} is not a scheduler of diffusers")
    return cls


def load_scheduler(folder: Path, index: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Any:
    """Build the scheduler of a model folder, and check that its training facts are complete and supported.

    Args:
        folder: the model's folder; its ``scheduler/scheduler_config.json`` is read.
        index: its model_index.json, which names the class.
        changes: settings that replace the file's.

    Raises InputError that names the file and the setting.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    config = {**weights.read_object(path), **(changes or {})}
    try:
        cls = scheduler_class(index["scheduler"][1])
    except InputError as error:
        raise InputError(f"{folder / 'model_index.json'}: {error}") from error
    try:
        check_settings(cls.__name__, config)
        scheduler = cls.from_config(config)
        training_facts(scheduler)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # an unknown schedule is a NotImplementedError, a wrong type whatever it leads to
        raise InputError(f"{path}: {cls.__name__} cannot be built as configured: {reason(error)}") from error
    return scheduler

"""Plain values of foreign pickles: read with `weights_only`, so that no code of theirs runs."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from drivegen.support.errors import InputError


def read_values(path: Path) -> Any:
    """Read what `torch.save` wrote: tensors, numbers, texts, and lists and dictionaries of them.

    A `ParameterDict`, in which some files have their tensors, becomes a dictionary. Raises InputError for a damaged file, and
    for one with anything else in it.
    """
    try:
        with torch.serialization.safe_globals([nn.ParameterDict]):
            values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and EOF errors for damaged and hostile files alike
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch then says how to run what is in it
            said = "it holds objects, which are not made here, or is no file of torch"
        raise InputError(f"{path} was refused: it is not a file of plain tensors ({said})") from error
    try:
        return _plain(values)
    except RecursionError as error:
        raise InputError(f"{path} was refused: its values are nested too deeply") from error


def _plain(value: Any) -> Any:
    """Replace dictionaries of parameters by plain ones; none of their methods is called, since a file said what they hold."""
    if isinstance(value, nn.ParameterDict):
        value = vars(value).get("_parameters")
        return dict(value) if isinstance(value, dict) else {}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return value

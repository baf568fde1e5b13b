"""Pickles that any trainer can load: plain Python values and numpy arrays, the same bytes for the same values."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

PROTOCOL = 4
"""Read by Python 3.4 and later; arrays of protocol 5 are not read by the numpy of older trainers."""


def pickled(value: Any) -> bytes:
    """Return the pickle of a value made of dicts, lists, texts, numbers, None and arrays of numbers or texts.

    A pickle refers back to objects that it has seen, so that equal values in shared and in separate objects give other bytes.
    Here equal texts become one object and everything else an object of its own: the bytes depend on the values alone. Raises
    TypeError for anything else than plain values.
    """
    out = io.BytesIO()
    pickle.Pickler(out, PROTOCOL).dump(_plain(value, {}))
    return out.getvalue()


def _plain(value: Any, texts: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {_plain(key, texts): _plain(item, texts) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, texts) for item in value]
    if isinstance(value, str):
        return texts.setdefault(value, str(value))
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
        # The dtype of texts is an object per array; one of its own is made for each.
        return np.array(value, dtype=np.dtype(value.dtype.str), order="C")
    if isinstance(value, np.generic):
        return _plain(value.item(), texts)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise TypeError(f"{type(value).__name__} cannot go into a trainer's pickle")

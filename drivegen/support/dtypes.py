"""Number formats by their words: the same ones on the command line, in YAML and in Python. Needs no torch."""

from __future__ import annotations

from typing import Literal

from drivegen.support.errors import InputError, nearest

DType = Literal["float32", "bfloat16", "float16", "32", "fp32", "bf16", "fp16"]
"""Every word that is taken."""

DTYPES = ("float32", "bfloat16", "float16")
"""Number formats that networks compute in and weights are written in."""

SHORT_DTYPES = {"32": "float32", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Short words that are taken wherever the long ones are: the field's, and Lightning's."""


def dtype_word(word: object, others: str = "") -> str:
    """Return the long word of a number format; raises InputError for anything else.

    Args:
        word: one of `DTYPES` or `SHORT_DTYPES`.
        others: what else the caller takes, for the error.
    """
    found = SHORT_DTYPES.get(word, word) if isinstance(word, str) else ""
    if found not in DTYPES:
        close = nearest(str(word), [*DTYPES, *SHORT_DTYPES])
        raise InputError(f"no dtype {word!r:.80}; use {others}one of {', '.join(DTYPES)}{close}")
    return found

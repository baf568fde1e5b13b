"""Tokenizers of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drivegen.support.errors import InputError

TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
"""The classes that a folder may name."""


def load_tokenizer(folder: Path) -> Any:
    """Read a CLIP tokenizer from its folder, offline."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read the tokenizer in {folder}: {str(error).splitlines()[0]}") from error

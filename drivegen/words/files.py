"""Files of textual inversion (Gal et al. 2022): diffusers', AUTOMATIC1111's and ComfyUI's layouts read, diffusers' written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivegen.backbones.words import check_word
from drivegen.support import weights
from drivegen.support.errors import InputError
from drivegen.support.files import file_in
from drivegen.support.pickled import read_values

FILE = "learned_embeds.safetensors"
_FILES = (FILE, "learned_embeds.bin")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")

_MOST_WORDS = 1000
_BUNDLED = ("string_to_param.*", "emb_params", "clip_l", "clip_g")
"""What ends the names of tensors by which a LoRA's file brings words."""
_A1111, _COMFY, _DIFFUSERS = "AUTOMATIC1111", "ComfyUI", "diffusers"
_PAIRS = {("clip_l", "clip_g"): _COMFY, ("text_encoders_0", "text_encoders_1"): _DIFFUSERS}
"""What files of SDXL have for its two text encoders: kohya's and ComfyUI's, and diffusers' scripts', and whose layout it is."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """What a file teaches: vectors (n, D) by word, in fp32, and whose layout it has.

    named is whether the file says the word itself; in some layouts the file's name is the word. second are those of the same
    words for the second text encoder of SDXL; nothing in files for models of one.
    """

    words: Mapping[str, Tensor]
    layout: str
    named: bool = True
    second: Mapping[str, Tensor] = field(default_factory=dict)


def read(source: str | Path, word: str | None = None) -> Embedding:
    """Read a file of textual inversion, or a folder with one.

    Args:
        source: the file, or the folder.
        word: what prompts shall have for it; None = what the file says, or its name where it says nothing.

    Raises InputError for any other file, and for a word that is given to a file of several.
    """
    path = find(source)
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path} is no file of textual inversion; these end in {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"there is no file of textual inversion at {path}")
    values = weights.load_file(path) if weights.is_safetensors(path) else read_values(path)
    found = from_values(values, path.stem, str(path))
    if word is None:
        return found
    if len(found.words) != 1:
        raise InputError(f"{path} holds the words {', '.join(found.words)}; they cannot all be called {word!r:.80}")
    first, second = (dict(zip([check_word(word)] * len(of), of.values(), strict=True)) for of in (found.words, found.second))
    return Embedding(first, found.layout, second=second)


def find(source: str | Path) -> Path:
    """Return the file of textual inversion: the source itself, or the one in it where it is a folder."""
    return file_in(source, _FILES, "textual inversion")


def from_values(values: Any, stem: str, where: str) -> Embedding:
    """Find the words in what a file holds.

    Args:
        values: of the file.
        stem: its name without suffix, the word of those that do not say one.
        where: for errors.

    Raises InputError where it holds anything else, or words for another kind of model.
    """
    if isinstance(values, Tensor):
        return _checked({stem: values}, "a tensor alone", False, where)
    if not isinstance(values, Mapping) or not values:
        raise InputError(f"{where} is no file of textual inversion: it holds {type(values).__name__}")
    for first, second in _PAIRS:
        if second in values:
            if set(values) != {first, second}:
                raise InputError(
                    f"{where} has {second}, of SDXL's second text encoder; a file of those has {first} too, and no more"
                )
            both = [_checked({stem: values[key]}, _COMFY, False, f"{where}: {key}") for key in (first, second)]
            return Embedding(both[0].words, _PAIRS[first, second], False, both[1].words)
    if "string_to_param" in values:
        param, name = values["string_to_param"], values.get("name")
        if not isinstance(param, Mapping) or len(param) != 1:
            raise InputError(f"{where}: string_to_param must hold the vectors of one word")
        said = isinstance(name, str) and bool(name.strip())
        return _checked({str(name).strip() if said else stem: next(iter(param.values()))}, _A1111, said, where)
    for key in ("emb_params", "clip_l", "clip_h"):
        if key in values and all(isinstance(k, str) and "." not in k for k in values):
            return _checked({stem: values[key]}, _COMFY, False, where)
    if len(values) > _MOST_WORDS:
        raise InputError(f"{where} is no file of textual inversion: it has {len(values)} tensors, and words are few")
    return _checked(values, _DIFFUSERS, True, where)


def bundled(state: Mapping[str, Tensor], prefix: str, where: str) -> Embedding:
    """Find the words that a LoRA's file brings beside its layers.

    Args:
        state: the tensors of the file.
        prefix: what the names of these begin with.
        where: the file, for errors.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        ending = next((one for one in _BUNDLED if key.endswith(f".{one}")), None)
        word = key.removeprefix(prefix)[: -len(ending) - 1] if ending else ""
        if not word:
            raise InputError(f"{where}: {key!r:.120} is no vector of a word")
        assert ending is not None
        inner = {"*": value} if ending == _BUNDLED[0] else value
        parts.setdefault(word, {})[ending.removesuffix(".*")] = inner  # type: ignore[assignment]
    out: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}
    for word, values in parts.items():
        found = from_values(values, word, f"{where}: {prefix}{word}")
        out, second = {**out, **found.words}, {**second, **found.second}
    return Embedding(out, _COMFY, False, second)


def _checked(words: Mapping[Any, Any], layout: str, named: bool, where: str) -> Embedding:
    out: dict[str, Tensor] = {}
    for word, vectors in words.items():
        shown = f"{where}: {word!r:.80}"
        fits = isinstance(vectors, Tensor) and vectors.is_floating_point() and vectors.ndim in (1, 2) and vectors.numel()
        if not fits or (isinstance(word, str) and word.endswith((".weight", ".bias", ".alpha"))):
            held = f"a tensor of shape {tuple(vectors.shape)}" if isinstance(vectors, Tensor) else type(vectors).__name__
            raise InputError(f"{shown} is {held}; a textual inversion has a word's vectors (n, D) there")
        try:
            out[check_word(word)] = vectors.detach().float().reshape(-1, vectors.shape[-1]).clone()
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    weights.check_finite(out, where)
    return Embedding(out, layout, named)


def save(words: Mapping[str, Tensor], folder: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write words in diffusers' layout, which other programs read too; returns the file.

    Args:
        words: vectors (n, D) by word.
        folder: gets the file, `FILE`.
        dtype: number format of the vectors; None keeps theirs.
    """
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {check_word(word): vectors.detach().to(dtype or vectors.dtype, copy=True) for word, vectors in words.items()}
    weights.save_state(state, path)
    return path

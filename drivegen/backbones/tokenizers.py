"""Tokenizers of a model folder, and whether one gives what the text encoder beside it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drivegen.support import weights
from drivegen.support.errors import InputError, reason

TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
"""The classes that a folder may name."""

MAX_FILE_BYTES = 64 * 2**20
"""Largest vocabulary file that is read; CLIP's, of 49,408 words, is of about 4 MB."""

_PADDINGS = (1, 8, 16, 32, 64, 128)
"""Embeddings may have more rows than there are words, up to a multiple of one of these."""


def load_tokenizer(folder: Path) -> Any:
    """Read a CLIP tokenizer from its folder, offline; raises InputError where its vocabulary is missing or damaged."""
    from transformers import CLIPTokenizer

    _check_files(folder)
    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # tokenizers raises bare exceptions for files that are cut or of another form
        raise InputError(f"cannot read the tokenizer in {folder}: {reason(error)}") from error


def _check_files(folder: Path) -> None:
    """Refuse a folder without a vocabulary: transformers would make one of two words from nothing."""
    whole, words, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if not whole.is_file() and not (words.is_file() and merges.is_file()):
        raise InputError(f"cannot read the tokenizer in {folder}: it needs tokenizer.json, or vocab.json and merges.txt")
    for path in (whole, words, merges):
        if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MB, which no vocabulary of CLIP is")
    if whole.is_file():
        model = weights.read_object(whole).get("model")
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
            raise InputError(f"{whole} holds no vocabulary with its merges")
        _check_merges(whole, model["vocab"], len(model["merges"]))
    else:
        try:
            lines = merges.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {merges}: {reason(error)}") from error
        count = sum(bool(line.strip()) and not line.startswith("#version") for line in lines)
        _check_merges(merges, weights.read_object(words), count)


def _check_merges(path: Path, vocabulary: dict[str, Any], merges: int) -> None:
    """Refuse a list of merges that was cut: each word of several characters is made by one, and would never come out."""
    made = sum(len(word.removesuffix("</w>")) > 1 and not word.startswith("<|") for word in vocabulary)
    if made > merges:
        raise InputError(f"{path} has {merges} merges for {made} words of several characters; the file was cut")


def check_tokenizer(tokenizer: Any, text_encoder: Any) -> None:
    """Compare a tokenizer with the text encoder that reads its ids; raises InputError where they do not belong together."""
    config, size = text_encoder.config, int(text_encoder.get_input_embeddings().num_embeddings)
    words, positions = len(tokenizer), int(config.max_position_embeddings)
    if not any(-(-words // m) * m == size for m in _PADDINGS):
        raise InputError(f"the tokenizer has {words} words and the text encoder {size}; they are of different models")
    length = tokenizer.model_max_length
    if isinstance(length, (int, float)) and length > 10**9:  # what transformers says where the tokenizer states none
        tokenizer.model_max_length = positions
    elif not isinstance(length, int) or not 3 <= length <= positions:
        raise InputError(
            f"the tokenizer's model_max_length is {length!r}, and the text encoder has {positions} positions; give 3 or more"
        )
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
    for name, value in ids.items():
        if not isinstance(value, int) or not 0 <= value < size:
            raise InputError(f"the tokenizer's {name} is {value!r}, which is none of the text encoder's {size} words")
    # Configurations of Stable Diffusion say 2, and transformers then takes the highest id.
    if getattr(config, "eos_token_id", 2) not in (2, ids["eos_token_id"]):
        raise InputError(
            f"the tokenizer ends a prompt with {ids['eos_token_id']}, and the text encoder looks for eos_token_id "
            f"{config.eos_token_id}; they are of different models"
        )
    night, day = (tokenizer(word)["input_ids"] for word in ("night", "day"))
    if night == day or night[0] != ids["bos_token_id"] or night[-1] != ids["eos_token_id"]:
        raise InputError("the tokenizer gives every prompt the same words, or none that begin and end it; it is damaged")

"""A prompt as one text tower reads it: ids and weights in the data workers, states and pooled text in the encoder."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from drivegen.plugin.clip_layers import before_last_layers, final_norm
from drivegen.plugin.prompt_weights import MAX_CHARACTERS, Special, chunks, parse
from drivegen.support.errors import InputError

LONGEST = 77
"""Ids of a prompt that CLIP reads, its two ends among them."""


@dataclass(frozen=True, eq=False)
class PromptReader:
    """What data workers need of a text tower: no weights.

    Args:
        tokenizer: of the tower.
        table: words beside the tokenizer's; None = none.
    """

    tokenizer: Any
    table: Any = None

    @property
    def length(self) -> int:
        """Ids of a prompt, or of a chunk of it."""
        return min(int(self.tokenizer.model_max_length), LONGEST)

    def read(self, prompt: str, weighted: bool, warn: bool = True) -> dict[str, np.ndarray]:
        """Give ids (S,) of a prompt, and weights (S,) where it has such: S is a multiple of a chunk's length then.

        Args:
            prompt: the text.
            weighted: whether it is read with weights, however long it is.
            warn: whether to say what does not fit of one without.
        """
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the prompt {prompt!r:.80} has half of a surrogate pair; write the letter itself") from error
        if not weighted:
            return {"ids": self.ids(prompt, warn)}
        tokenizer = self.tokenizer
        special = Special(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        ids, weights = chunks(parse(prompt), self._pieces, special, self.length)
        return {"ids": np.array(ids, dtype=np.int64), "weights": np.array(weights, dtype=np.float32)}

    def ids(self, prompt: str, warn: bool = True) -> np.ndarray:
        """Return the (S,) ids of a prompt, padded; warns with the text that does not fit, unless `warn` is False."""
        length, tokenizer, named = self.length, self.tokenizer, f"the prompt {prompt!r:.60}"
        if len(prompt) > MAX_CHARACTERS:  # far more than fits, and slow to take apart
            if warn:
                dropped = f"all after the first {MAX_CHARACTERS} are dropped"
                warnings.warn(f"{named} has {len(prompt)} characters; {dropped}", stacklevel=2)
            prompt = " ".join(prompt.split())[:MAX_CHARACTERS]
        whole = [tokenizer.bos_token_id, *self._pieces(prompt), tokenizer.eos_token_id]
        if len(whole) > length and warn:
            cut = whole[length - 1 : -1]
            lost = tokenizer.decode(cut) if self.table is None else self.table.decode(tokenizer, cut)
            warnings.warn(f"{named} has {len(whole)} tokens and {length} fit; dropped: {lost!r}", stacklevel=2)
        # Cut and filled by hand: asked for either, a tokenizer keeps it as a setting, which threads would take from each other.
        ids = whole if len(whole) <= length else [*whole[: length - 1], whole[-1]]
        return np.array([*ids, *[tokenizer.pad_token_id] * (length - len(ids))], dtype=np.int64)

    def check(self, ids: Tensor) -> None:
        """Raise InputError for ids of a word that has been taken out since the prompt was read."""
        ours = set(ids[ids < 0].tolist())
        if ours and (self.table is None or not self.table.knows(ours)):
            raise InputError("the prompt was read with a word that has been taken out since; give it again")

    def filled(self, key: str, array: np.ndarray, length: int) -> np.ndarray:
        """Fill ids, or weights with 1, up to a length: with empty chunks on their right.

        Args:
            key: what the array is, "ids" or "weights".
            array: (S,).
            length: a multiple of a chunk's.
        """
        if key == "ids" and len(array) < length:
            empty = self.ids("")
            return np.concatenate([array, *[empty] * ((length - len(array)) // len(empty))])
        if key == "weights":
            return np.concatenate([array, np.ones(length - len(array), dtype=np.float32)])
        return array

    def _pieces(self, text: str) -> list[int]:
        """Return the ids of a text, without its two ends."""
        if self.table is not None and len(self.table):
            found: list[int] = self.table.tokenize(self.tokenizer, text)
        else:
            found = self.tokenizer(text, truncation=False, add_special_tokens=False, verbose=False)["input_ids"]
        return found


def text_states(tower: Any, ids: Tensor, skipped: int = 0) -> Tensor:
    """Run a tower's encoder on ids (B, S): the states (B, S, D) that the network attends to.

    Args:
        tower: a `backbones.text_tower.TextTower`.
        ids: of the prompts.
        skipped: how many of the layers that the network was trained with are left out.
    """
    if tower.penultimate:
        return before_last_layers(tower.encoder, 1 + skipped, ids)
    if skipped:
        return final_norm(tower.encoder)(before_last_layers(tower.encoder, skipped, ids))
    states: Tensor = tower.encoder(ids).last_hidden_state
    return states


def pooled_text(tower: Any, ids: Tensor) -> Tensor:
    """Run a tower's encoder on ids (B, S): its one vector of each prompt (B, D), projected where it has a projection."""
    found = tower.encoder(ids)
    pooled: Tensor = found.text_embeds if hasattr(found, "text_embeds") else found.pooler_output
    return pooled

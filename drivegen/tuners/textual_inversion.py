"""Textual inversion: a new word whose vectors are all that is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.backbones.words import WordTable, check_word
from drivegen.plugin.tuner import Site, Tuner, own_layers
from drivegen.support import weights
from drivegen.support.errors import InputError

FILE = "learned_embeds.safetensors"
MOST_VECTORS = 75
"""As many ids as CLIP reads between a prompt's two ends."""


class Vectors(nn.Module):
    """Vectors (n, D) for the ids of one word, at a text encoder's embedding, whose own rows stay as they are.

    Args:
        word: the word.
        start: the vectors that it begins with.
        words: the table that says which ids are the word's.
    """

    def __init__(self, word: str, start: Tensor, words: WordTable) -> None:
        super().__init__()
        self.word, self.vectors = word.lower(), nn.Parameter(start.clone())
        self.__dict__["table"] = words

    def before(self, ids: Tensor) -> Tensor:
        """Replace the word's ids (B, S), which the embedding has no rows for."""
        return torch.where(torch.isin(ids, self._own(ids)), 0, ids)

    def forward(self, ids: Tensor, y: Tensor, site: Site) -> Tensor:
        """Put the word's vectors among what the embedding gives.

        Args:
            ids: (B, S), the word's among them.
            y: vectors (B, S, D).
            site: the embedding.
        """
        own = self._own(ids)
        found = ids[..., None] == own
        if not bool(found.any()):
            # Where it trains, a batch without the word has a gradient, too: zero.
            return y + 0 * self.vectors.sum() if torch.is_grad_enabled() and self.vectors.requires_grad else y
        here = self.vectors.to(y.dtype)[found.int().argmax(-1)]
        return torch.where(found.any(-1, keepdim=True), here, y)

    def _own(self, ids: Tensor) -> Tensor:
        return torch.tensor(self.__dict__["table"].ids[self.word], device=ids.device)


class TextualInversion(Tuner):
    """A new word of the prompt, as vectors that the text encoder is given (Gal et al. 2022); saved as diffusers does.

    Args:
        word: what prompts say, such as ``<tanker>``; the tokenizer must not know it as one word.
        initial: text whose tokens' vectors it begins with, over again where there are more vectors.
        vectors: how many it has.
    """

    def __init__(self, word: str, initial: str, vectors: int = 1) -> None:
        super().__init__()
        if not 1 <= vectors <= MOST_VECTORS:
            raise InputError(f"vectors = {vectors} is out of range; from 1 to {MOST_VECTORS} fit into a prompt")
        check_word(word)
        self.word, self.initial = word, initial
        self.words = {word: vectors}

    def attach(self, backbone: Any) -> None:
        """Begin with the vectors of the initial text; raises InputError where it has no tokens."""
        if backbone.text_encoder is None or backbone.text_encoder_2 is not None:
            raise InputError("textual_inversion teaches the one text encoder of Stable Diffusion 1.x and 2.x, and this is SDXL")
        embedding, encoder = backbone.text_encoder.get_input_embeddings(), backbone.text_encoder
        known = backbone.tokenizer(self.word, add_special_tokens=False, verbose=False)["input_ids"]
        if len(known) == 1 and known[0] != backbone.tokenizer.unk_token_id:
            raise InputError(f"word = {self.word!r} is one of the tokenizer's own; choose a new one, such as <{self.word}>")
        ids = backbone.tokenizer(self.initial, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise InputError(f"initial = {self.initial!r} has no tokens; name something like {self.word}, such as 'truck'")
        rows = torch.tensor([ids[i % len(ids)] for i in range(self.words[self.word])], device=embedding.weight.device)
        start = embedding.weight.detach()[rows].float()
        name = next(name for name, layer in own_layers(encoder) if layer is embedding)
        self.change("text_encoder", name, lambda _, layer: Vectors(self.word, start, backbone.words.table))

    @property
    def vectors(self) -> nn.Parameter:
        """The word's vectors (n, D)."""
        (change,) = self.changes.values()
        found: Any = change
        return found.vectors

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> Path:
        """Write `FILE`: the word's vectors under its name, as diffusers' ``load_textual_inversion`` reads them.

        Args:
            folder: a new one.
            dtype: number format of the vectors; None keeps theirs.
        """
        value = self.vectors.detach()
        folder.mkdir(parents=True, exist_ok=True)
        weights.save_state({self.word: value if dtype is None else value.to(dtype)}, folder / FILE)
        return folder / FILE

    def load(self, source: Path) -> None:
        """Take the vectors of a file of diffusers' layout with this word."""
        path = source / FILE if source.is_dir() else source
        state = weights.load_file(path)
        if self.word not in state or len(state) != 1:
            raise InputError(f"{path} holds {', '.join(state) or 'nothing'}, and the word is {self.word} here")
        value = state[self.word].float().reshape(-1, state[self.word].shape[-1])
        if value.shape != self.vectors.shape:
            its, ours = tuple(value.shape), tuple(self.vectors.shape)
            raise InputError(f"{path}: the vectors of {self.word} are of shape {its}, and {ours} is expected here")
        with torch.no_grad():
            self.vectors.copy_(value)

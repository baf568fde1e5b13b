"""Words that a text encoder was taught beside its tokenizer's: textual inversion (Gal et al. 2022).

They live in a table of their own. Neither the tokenizer nor the embedding of its words changes, so prompts without these words
give the very same states, and nothing of them lands in a saved model's `text_encoder/` or `tokenizer/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.support.errors import InputError, nearest
from drivegen.support.weights import unwrapped

LONGEST = 100
"""Characters of a word."""


class WordTable:
    """Which words there are, and their ids: one per vector, below 0, where no id of a tokenizer is.

    Ids are given to no other word again, so that those of a prompt mean what they meant when it was read; a word that comes
    back has those that it had. It is plain data, which data workers have too.
    """

    def __init__(self) -> None:
        self.words: dict[str, str] = {}
        """Each word as it was written, by what prompts are compared with: CLIP's tokenizer has no capitals."""
        self.ids: dict[str, tuple[int, ...]] = {}
        self._next = -1
        self._given: dict[tuple[str, int], tuple[int, ...]] = {}

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and word.lower() in self.words

    def __len__(self) -> int:
        return len(self.words)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words.values())

    def add(self, word: str, vectors: int) -> tuple[int, ...]:
        """Give a word its ids; raises InputError for one that no prompt can hold, and for one that is there.

        Args:
            word: as prompts have it.
            vectors: how many it is made of.
        """
        check_word(word)
        if word in self:
            raise InputError(
                f"there is a word {self.words[word.lower()]!r} already; give this one another name, or take that out"
            )
        if (word.lower(), vectors) not in self._given:
            self._given[word.lower(), vectors] = tuple(range(self._next, self._next - vectors, -1))
            self._next -= vectors
        ids = self._given[word.lower(), vectors]
        self.words[word.lower()], self.ids[word.lower()] = word, ids
        return ids

    def remove(self, word: str) -> None:
        """Forget a word; raises InputError where it is not there."""
        if word not in self:
            there = ", ".join(self) or "none"
            raise InputError(f"there is no word {word!r:.80} beside the tokenizer's; there are {there}{nearest(word, self)}")
        del self.words[word.lower()], self.ids[word.lower()]

    def knows(self, ids: Iterable[int]) -> bool:
        """Whether all of these ids are those of words that are there."""
        return set(ids) <= {number for numbers in self.ids.values() for number in numbers}

    def parts(self, text: str) -> list[tuple[str, tuple[int, ...]]]:
        """Take a text apart: pieces without these words, each with the ids of the word that follows it, the last with none.

        The longest word that fits counts. One that begins or ends with a letter or digit is none inside of another word.
        """
        if not self.words:
            return [(text, ())]
        ways = sorted(self.words, key=len, reverse=True)
        found = re.compile("|".join(map(_alone, ways)), re.IGNORECASE)
        out, position = [], 0
        for match in found.finditer(text):
            ids = self.ids.get(match[0].lower())
            if ids is None:  # letters whose small forms differ in number, such as İ
                continue
            out.append((text[position : match.start()], ids))
            position = match.end()
        return [*out, (text[position:], ())]

    def tokenize(self, tokenizer: Any, text: str) -> list[int]:
        """Return the ids of a text, without a beginning and an end, of both the tokenizer's words and these.

        Args:
            tokenizer: that of the model.
            text: of any length.
        """
        out: list[int] = []
        for piece, ids in self.parts(text):
            if piece or not ids:
                out += tokenizer(piece, truncation=False, add_special_tokens=False, verbose=False)["input_ids"]
            out += ids
        return out

    def decode(self, tokenizer: Any, ids: Iterable[int]) -> str:
        """Return the text of ids, of a word that is not whole too.

        Args:
            tokenizer: that of the model.
            ids: of `tokenize`.
        """
        whose = {number: self.words[word] for word, numbers in self.ids.items() for number in numbers}
        out: list[str] = []
        run: list[int] = []
        for number in (*ids, None):
            if number is not None and number not in whose:
                run.append(number)
                continue
            out += [str(tokenizer.decode(run))] if run else []
            run = []
            if number is not None and (not out or out[-1] != whose[number]):
                out.append(whose[number])
        return " ".join(out)


def check_word(word: object) -> str:
    """Return a word; raises InputError for what no prompt can hold."""
    if not isinstance(word, str) or not word.strip() or word != word.strip():
        raise InputError(f"{word!r:.80} is no word for prompts: give a text that neither begins nor ends with a space")
    if len(word) > LONGEST or not word.isprintable():
        raise InputError(f"the word {word!r:.80} must have at most {LONGEST} characters, all of them printable")
    return word


def _alone(word: str) -> str:
    before, after = (r"\b" if re.fullmatch(r"\w", end) else "" for end in (word[0], word[-1]))
    return before + re.escape(word) + after


class Words(nn.Module):
    """The vectors of a table's words, and their way into a text encoder; a tuner may have the vectors of some of them.

    A hook on the encoder's embeddings looks up what the tokenizer's ids do not cover; without words there is no hook.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = WordTable()
        self.vectors = nn.ParameterList()
        self._order: list[str] = []
        self._handle: Any = None

    def __contains__(self, word: object) -> bool:
        return word in self.table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, word: str) -> nn.Parameter:
        """Return a word's vectors (n, D)."""
        if word.lower() not in self._order:
            raise InputError(f"there is no word {word!r:.80} beside the tokenizer's{nearest(word, self.table)}")
        found: nn.Parameter = self.vectors[self._order.index(word.lower())]
        return found

    def add(self, text_encoder: Any, words: Mapping[str, Tensor], trainable: bool = False) -> None:
        """Teach words to a text encoder: all of them, or none where one cannot be.

        Args:
            text_encoder: transformers' CLIP text model.
            words: the vectors (n, D) of each.
            trainable: whether they learn.

        Raises InputError for a word that is there already and for vectors of another width.
        """
        encoder = unwrapped(text_encoder)
        table = encoder.get_input_embeddings().weight
        width, most = table.shape[1], int(encoder.config.max_position_embeddings) - 2
        for word, vectors in words.items():
            if vectors.ndim != 2 or not 1 <= len(vectors) <= most:
                raise InputError(f"{word!r:.80} is of shape {tuple(vectors.shape)}; needed are 1 to {most} vectors")
            if vectors.shape[1] != width:
                raise InputError(
                    f"the word {word!r:.80} was learned for another text encoder: its vectors have {vectors.shape[1]} numbers, "
                    f"and here they have {width}"
                )
        added: list[str] = []
        try:
            for word, vectors in words.items():
                self.table.add(word, len(vectors))
                added.append(word)
        except InputError:
            for word in added:
                self.table.remove(word)
            raise
        for word, vectors in words.items():
            own = vectors.detach().to(table.device if table.device.type != "meta" else "cpu", torch.float32, copy=True)
            self.vectors.append(nn.Parameter(own, requires_grad=trainable))
            self._order.append(word.lower())
        if words and self._handle is None:
            owner = next(m for m in encoder.modules() if encoder.get_input_embeddings() in list(m.children()))
            self._handle = owner.register_forward_pre_hook(_Lookup(self), with_kwargs=True)

    def remove(self, words: Iterable[str] | None = None) -> None:
        """Forget some words, or all of them (None); without any left the text encoder is as it was, hooks included."""
        for word in list(self._order) if words is None else list(words):
            if word in self.table and word.lower() not in self._order:
                raise InputError(f"the word {word!r:.80} is a tuner's; take that out")
            self.table.remove(word)
            index = self._order.index(word.lower())
            del self._order[index]
            left = [p for i, p in enumerate(self.vectors) if i != index]
            self.vectors = nn.ParameterList(left)
        if not self._order and self._handle is not None:
            self._handle.remove()
            self._handle = None

    def of_tuners(self) -> list[int]:
        """Return the ids of the words whose vectors a tuner has."""
        return [number for word, numbers in self.table.ids.items() if word not in self._order for number in numbers]

    def rows(self, ids: Tensor) -> Tensor:
        """Return the vectors (M, D) of ids (M,) below 0; raises InputError for those of a word that was taken out."""
        where = {number: (i, n) for i, word in enumerate(self._order) for n, number in enumerate(self.table.ids[word])}
        try:
            found = [where[number] for number in ids.tolist()]
        except KeyError as error:
            raise InputError("the prompt was read with a word that has been taken out since; give it again") from error
        return torch.stack([self.vectors[i][n] for i, n in found])


class _Lookup:
    """Pre-hook on a CLIP text model's embeddings that puts vectors in the places of ids below 0."""

    def __init__(self, words: Words) -> None:
        self.words = words

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is None or kwargs.get("inputs_embeds") is not None:
            return None
        ours = (ids < 0) & ~torch.isin(ids, torch.tensor(self.words.of_tuners(), device=ids.device, dtype=ids.dtype))
        if not bool(ours.any()):
            return None
        states = module.token_embedding(ids.masked_fill(ours, 0))
        vectors = self.words.rows(ids[ours]).to(states.device, states.dtype)
        states = states.index_put((ours.to(states.device),), vectors)
        return args, {**kwargs, "input_ids": ids, "inputs_embeds": states} if not args else {**kwargs, "inputs_embeds": states}

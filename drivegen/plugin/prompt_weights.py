"""Prompts with weights, `(word:1.3)`, `((word))`, `[word]`, and of any length, as the field's interfaces read them.

The algorithm is the first one of AUTOMATIC1111's web interface (`docs/decisions/prompt-weights.md`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drivegen.support.errors import InputError

MAX_CHARACTERS = 8000
"""A longer prompt is a mistake: it would be some thirty chunks."""

MAX_WEIGHT = 100.0

_BRACKET = 1.1
_PIECE = re.compile(r"\\[()\[\]\\]|\\|[()\[\]]|:\s*([+-]?[.\d]+)\s*\)|:|[^\\()\[\]:]+")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


@dataclass(frozen=True)
class Part:
    """A piece of a prompt and its weight; a break ends the current chunk."""

    text: str
    weight: float = 1.0
    ends_chunk: bool = False


def parse(prompt: str) -> list[Part]:
    """Parse a prompt: `(x)` is times 1.1, `(x:1.3)` times 1.3, `[x]` divided by 1.1; nested ones multiply.

    A bracket or backslash after a backslash is the character itself; the word BREAK begins a new chunk; an unclosed bracket
    extends to the end. Raises InputError for a prompt that is too long and a weight that is no number within ±100.
    """
    if len(prompt) > MAX_CHARACTERS:
        raise InputError(f"the prompt has {len(prompt)} characters; with weights at most {MAX_CHARACTERS} are read")
    texts: list[tuple[str, bool]] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        for i in range(opened[bracket].pop(), len(weights)):
            weights[i] *= factor

    for found in _PIECE.finditer(prompt):
        piece = found[0]
        if piece in opened:
            opened[piece].append(len(texts))
        elif found[1] is not None and opened["("]:
            close("(", _number(found[1]))
        elif piece == ")" and opened["("]:
            close("(", _BRACKET)
        elif piece == "]" and opened["["]:
            close("[", 1 / _BRACKET)
        else:
            new = _written(piece)
            texts += new
            weights += [1.0] * len(new)
    for bracket, factor in (("(", _BRACKET), ("[", 1 / _BRACKET)):
        while opened[bracket]:
            close(bracket, factor)
    return _joined(texts, weights) or [Part("")]


def _written(piece: str) -> list[tuple[str, bool]]:
    """Return the plain text of a piece: escaped characters without backslash, words with the breaks between them."""
    if piece.startswith("\\"):
        return [(piece[1:], False)] if len(piece) > 1 else []
    words = _BREAK.split(piece)
    return [pair for i, word in enumerate(words) for pair in ([("", True)] if i else []) + ([(word, False)] if word else [])]


def _number(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not abs(weight) <= MAX_WEIGHT:
        raise InputError(f"the weight {text[:40]!r} in a prompt must be a number from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
    return weight


def _joined(texts: Sequence[tuple[str, bool]], weights: Sequence[float]) -> list[Part]:
    """Join neighbours of one weight, so that a word which an escape divides is one for the tokenizer."""
    out: list[Part] = []
    for (text, ends), weight in zip(texts, weights, strict=True):
        if not abs(weight) <= MAX_WEIGHT:
            raise InputError(f"brackets in a prompt multiply to the weight {weight:g}; at most {MAX_WEIGHT:g} is allowed")
        if out and not ends and not out[-1].ends_chunk and out[-1].weight == weight:
            out[-1] = Part(out[-1].text + text, weight)
        else:
            out.append(Part(text, weight, ends))
    return out


def words(prompt: str) -> str:
    """Return a prompt's words without weights, brackets and breaks."""
    return "".join(" " if part.ends_chunk else part.text for part in parse(prompt))


@dataclass(frozen=True)
class Special:
    """Ids of a tokenizer that begin, end and fill a chunk."""

    begin: int
    end: int
    fill: int


def chunks(
    parts: Sequence[Part], tokenize: Callable[[str], Sequence[int]], special: Special, length: int
) -> tuple[list[int], list[float]]:
    """Split a prompt into chunks of `length` ids each, with begin and end: ids and weights of the whole row.

    Args:
        parts: of `parse`.
        tokenize: gives the ids of a text, without begin and end.
        special: the ids of begin, end and padding.
        length: L, ids of a chunk, so L − 2 of the prompt.
    """
    rows: list[tuple[list[int], list[float]]] = [([], [])]
    for part in parts:
        if part.ends_chunk:
            rows.append(([], []))
            continue
        for token in tokenize(part.text):
            if len(rows[-1][0]) == length - 2:
                rows.append(([], []))
            rows[-1][0].append(token)
            rows[-1][1].append(part.weight)
    if len(rows) > 1 and not rows[-1][0]:
        rows.pop()
    ids: list[int] = []
    weights: list[float] = []
    for tokens, each in rows:
        room = length - 2 - len(tokens)
        ids += [special.begin, *tokens, special.end, *[special.fill] * room]
        weights += [1.0, *each, 1.0, *[1.0] * room]
    return ids, weights


def weigh(states: Tensor, weights: Tensor) -> Tensor:
    """Multiply states (M, L, D) of M chunks by the weights (M, L) of their tokens, and restore each chunk's mean."""
    exact = states.float()
    changed = exact * weights[..., None]
    before, after = (x.mean(dim=(1, 2), keepdim=True) for x in (exact, changed))
    return torch.where(after == 0, changed, changed * (before / after)).to(states.dtype)

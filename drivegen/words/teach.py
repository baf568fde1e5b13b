"""Words taught to the text encoders of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.support.errors import InputError


def teach(backbone: Backbone, words: Mapping[str, Tensor], second: Mapping[str, Tensor] | None = None) -> None:
    """Teach words to a model's text encoders: all of them, or none where one cannot be.

    Args:
        backbone: whose text encoders learn them.
        words: the vectors (n, D) of each.
        second: those of the same words for a second text encoder; None for none.

    Raises InputError where one is there already or has another width, and where words are for one text encoder and the model
    has two, or the other way round. A refiner has the second one alone.
    """
    second, towers = second or {}, {tower.is_second: tower for tower in backbone.texts}
    kind = f"this one is of {backbone.family.name}"
    if not towers:
        raise InputError(f"words of a textual inversion are for models with text encoders, and {kind}")
    lacking = [word for word in words if word not in second]
    if True in towers and lacking:
        one = f"the word {lacking[0]!r:.80} is for models of one text encoder, as Stable Diffusion 1.x and 2.x"
        raise InputError(f"{one}, and {kind}, whose words have vectors of both (clip_l, clip_g)")
    if True not in towers and second:
        what = f"the word {next(iter(second))!r:.80} is for SDXL: it has vectors of two text encoders (clip_l, clip_g)"
        raise InputError(f"{what}, and {kind}")
    if False in towers:
        backbone.words.add(towers[False].encoder, words)
    if True in towers:
        try:
            backbone.words_2.add(towers[True].encoder, second)
        except InputError:
            backbone.words.remove(words if False in towers else ())
            raise


def forget(backbone: Backbone, words: Iterable[str]) -> None:
    """Take words that were taught out of every text encoder; raises InputError for one that is not there."""
    for word in words:
        there = [table for table in (backbone.words, backbone.words_2) if word in table]
        for table in there or [backbone.words]:  # which says that there is none
            table.remove([word])


def known(backbone: Backbone) -> dict[str, int]:
    """Return how many vectors each word has that the text encoders were taught, by tuners too."""
    tables = (backbone.words_2.table, backbone.words.table)
    return {word: len(table.ids[word.lower()]) for table in tables for word in table}

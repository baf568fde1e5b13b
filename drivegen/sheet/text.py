"""Text on sheets, in Pillow's own font: a missing character is shown as a question mark, and a text that is too long ends in an
ellipsis.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drivegen.sheet.colours import RGB, TEXT

MOST_CHARACTERS = 2000
"""More of a text is not looked at: no sheet has room for it, and measuring takes time."""

MISSING = "?"
"""Replaces a character that the font lacks, which would be drawn as an empty box."""


@lru_cache(maxsize=32)
def font(size: int) -> Any:
    """Return Pillow's own font: it needs no font file, so a sheet looks the same on every machine."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def _has(character: str) -> bool:
    """Tell whether the font has a picture of a character."""
    if character.isascii():
        return character.isprintable()
    return _picture(character) != _picture("\uffff")


@lru_cache(maxsize=4096)
def _shown(character: str) -> str:
    """Return a character, or its letters without accents, a hyphen for a dash, a space, or the sign for what is missing."""
    if _has(character):
        return character
    if character.isspace():
        return " "
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    if plain and all(map(_has, plain)):
        return plain
    return "-" if unicodedata.category(character) == "Pd" else MISSING


def _picture(character: str) -> tuple[Any, bytes]:
    mask = font(20).getmask(character)
    return mask.size, bytes(mask)


def drawable(text: str) -> str:
    """Return one line of text as it can be drawn."""
    whole = unicodedata.normalize("NFC", text[:MOST_CHARACTERS])  # a letter and its accent may come as two
    out = "".join(_shown(letter) for letter in whole if not unicodedata.combining(letter) or _has(letter))
    return out if len(text) <= MOST_CHARACTERS else f"{out}…"


def text_width(text: str, size: int) -> int:
    """Return the width of a line of text in pixels."""
    return int(np.ceil(font(size).getlength(drawable(text))))


def fitted(text: str, size: int, width: int, more: bool = False) -> str:
    """Return as much of a line as there is room for; an ellipsis ends what does not fit.

    Args:
        text: the line.
        size: of the font.
        width: pixels that it may take.
        more: whether text comes after the line, so that it ends with an ellipsis in any case.
    """
    text = drawable(text)
    if not more and text_width(text, size) <= width:
        return text
    fits, longer = 0, len(text) + 1  # a search by halves: the width grows with the text
    while longer - fits > 1:
        middle = (fits + longer) // 2
        fits, longer = (middle, longer) if text_width(f"{text[:middle]}…", size) <= width else (fits, middle)
    return f"{text[:fits].rstrip(' ,.')}…"


def wrapped(text: str, size: int, width: int, lines: int) -> list[str]:
    """Break text into at most `lines` lines of at most `width` pixels; an ellipsis ends what does not fit.

    Args:
        text: what is broken at its spaces.
        size: of the font.
        width: of a line in pixels.
        lines: most of them.
    """
    out: list[str] = []
    words = drawable(text).split()
    while words and len(out) < lines:
        line = words.pop(0)
        while words and text_width(f"{line} {words[0]}", size) <= width:
            line += f" {words.pop(0)}"
        out.append(line)
    return [fitted(line, size, width, bool(words) and line is out[-1]) for line in out]


def write(
    picture: Image.Image, position: tuple[float, float], text: str, size: int, colour: RGB = TEXT, anchor: str = "la",
    width: int | None = None,
) -> None:  # fmt: skip
    """Write one line of text.

    Args:
        picture: what it is written on.
        position: (x, y) in pixels.
        text: the line.
        size: of the font.
        colour: of the text.
        anchor: which point of the text is at the position, as in Pillow.
        width: pixels that it may take; None = as many as it needs.
    """
    line = drawable(text) if width is None else fitted(text, size, width)
    ImageDraw.Draw(picture).text(position, line, font=font(size), fill=colour, anchor=anchor)

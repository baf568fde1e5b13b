"""Text from files, made safe to show: none of its control characters reaches a terminal."""

from __future__ import annotations

import unicodedata

_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories that steer a terminal or a line's direction instead of being seen: control, format, surrogate, separators."""

_KEPT = "\n\t\u200c\u200d"
"""Line ends, tabs, and the joiners that words and emoji are written with: they steer nothing."""


def printable(text: str, most: int = 10_000) -> str:
    r"""Return text with every invisible character written as its escape (``\x1b``), and cut to `most` characters.

    Line ends, tabs and joiners of letters stay.
    """
    cut = text if len(text) <= most else f"{text[:most]}… ({len(text) - most} characters more)"
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join(c if c in _KEPT or unicodedata.category(c) not in _UNSEEN else _escaped(c) for c in cut)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()

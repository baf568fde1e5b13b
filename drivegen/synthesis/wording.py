"""The description of an edited scene."""

from __future__ import annotations

import re

from drivegen.synthesis.recipe import Variant

TIMES = ("day", "daytime", "dusk", "dawn", "night", "morning", "evening", "noon")
WEATHERS = (
    "clear", "sunny", "sun", "overcast", "cloudy", "rain", "rainy", "light rain", "heavy rain", "fog", "foggy", "snow", "snowy"
)  # fmt: skip
"""What counts as a word of time or weather where it stands alone between commas or stops."""


def described(description: str, variant: Variant) -> str:
    """Return the description of a variant's frame, from that of the source's.

    Time and weather come first, each the variant's or else the source's own, and are taken out of the rest: ``A street, day``
    with weather "rain" is ``Day, rain. A street``.
    """
    if variant.prompt is not None:
        return variant.prompt.replace("{description}", description)
    if variant.time is None and variant.weather is None:
        return description
    said: dict[str, str] = {}
    rest = []
    for sentence in re.split(r"(?<=[.!?])\s+", description.strip()):
        stop = sentence[-1] if sentence.endswith((".", "!", "?")) else ""
        kept = []
        for part in (part.strip() for part in sentence.removesuffix(stop).split(",")):
            kind = "time" if part.lower() in TIMES else "weather" if part.lower() in WEATHERS else ""
            if kind:
                said.setdefault(kind, part.lower())
            elif part:
                kept.append(part)
        if kept:
            rest.append(_capitalised(", ".join(kept)) + stop)
    first = (variant.time or said.get("time"), variant.weather or said.get("weather"))
    return " ".join([_capitalised(", ".join(word for word in first if word)) + ".", *rest])


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]

"""A scene's description in many wordings, so that a model learns what is said and not how it is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from drivegen.world.describe import Facts, listed, plain

TIMES = {
    "day": ("day", "daytime", "daylight", "morning", "noon", "afternoon", "broad daylight"),
    "dusk": ("dusk", "evening", "sunset", "twilight", "low sun"),
    "night": ("night", "nighttime", "late night", "dark", "darkness", "difficult lighting, night"),
}
WEATHERS = {
    "clear": ("clear", "clear sky", "dry", "fine weather", "no clouds"),
    "overcast": ("overcast", "cloudy", "grey sky", "clouds"),
    "rain": ("rain", "rainy", "raining", "wet road", "heavy rain", "after rain, wet street"),
    "fog": ("fog", "foggy", "mist", "misty", "poor visibility, fog"),
}
SUNNY = ("sunny", "sunshine", "bright sun")
"""Of a clear day, beside the words for clear."""
STREETS = {
    "Junction": ("junction", "intersection", "crossroads", "at an intersection", "arrive at intersection"),
    "Two-way street": ("two-way street", "street", "road", "two-way road", "driving down a street"),
    "One-way street": ("one-way street", "street", "road", "one-way road", "driving down a one-way street"),
}
THINGS = {
    "parked cars": ("parked cars", "many parked cars", "parked vehicles", "cars parked along the street"),
    "dense traffic": ("dense traffic", "heavy traffic", "high traffic", "busy street", "many cars"),
    "cars": ("cars", "moving cars", "oncoming car", "a few cars", "following a car"),
    "a crossing": ("a crossing", "crosswalk", "ped crossing", "zebra crossing"),
    "a car park": ("a car park", "parking lot", "parking lots"),
    "pedestrians": ("pedestrians", "peds", "people walking", "several pedestrians", "peds on sidewalk"),
    "a pedestrian": ("a pedestrian", "ped", "a person", "someone on foot"),
    "a truck": ("a truck", "parked truck", "truck"),
    "trucks": ("trucks", "several trucks", "parked trucks"),
    "a bus": ("a bus", "bus", "bus ahead", "a city bus"),
    "a bicycle": ("a bicycle", "bicycle", "bicyclist", "a cyclist"),
    "a motorcycle": ("a motorcycle", "motorcycle", "a motorbike", "motorcyclist"),
    "barriers": ("barriers", "barrier", "road works"),
    "traffic cones": ("traffic cones", "cones", "many traffic cones"),
    "a construction vehicle": ("a construction vehicle", "construction vehicle", "an excavator", "construction"),
}
CITIES = (
    "San Francisco",
    "Boston",
    "Singapore",
    "Pittsburgh",
    "Las Vegas",
    "El Camino Real",
    "Seaport",
    "Queenstown",
    "Holland Village",
)
"""A place's name says nothing of what is seen: it is put in so that it is learned to say nothing."""

ASIDES = (
    "traffic light", "traffic lights", "turn left", "turn right", "lane change", "stop sign", "slope", "flags", "left", "right",
)  # fmt: skip
"""What annotators note beside what is said here; it is put in so that it is learned to say nothing else."""
LOGS = ("Log", "PandaSet", "Scene", "Drive")
"""What recordings are called, before their number."""

LONGEST = 95
"""Characters of a wording, as annotators' are short: what is too much is left out, and not cut off by a text encoder, which
reads so many tokens and would lose the hour where it comes last.
"""  # fmt: skip

_LONGEST_LOG = "PandaSet 000, Holland Village, traffic lights"
"""The most that stands in a log's line beside street, hour, weather and things."""

_ASIDE = 0.35
"""How often there is an aside among keywords."""

_UNSAID = 0.3
"""How often a dataset leaves out what goes without saying: that it is day, that it is clear."""


def varied(said: Facts, rng: np.random.Generator) -> str:
    """Say the same as the plain sentence in other words, another order or another dataset's manner.

    One in four is the plain sentence. The others choose among synonyms, may leave out some of the things, that it is day and
    that it is clear, stay within LONGEST characters, and are written as a sentence, as nuScenes' annotators wrote (keywords,
    the hour last or first) or as PandaSet is described here (`…, San Francisco, day, …`).

    Args:
        said: what there is to say.
        rng: draws the wording; the same state gives the same one.
    """
    style = int(rng.integers(4))
    if style == 0:
        return plain(said)
    time, weather = _conditions(said, rng)
    street = _synonym(STREETS, said.street, rng)
    beside = {1: f"{said.where} with  and . ", 2: max(ASIDES, key=len), 3: _LONGEST_LOG}[style]
    room = LONGEST - len(", ".join((street, beside, time, weather)))
    kept = _fitting([_synonym(THINGS, thing, rng) for thing in said.things if rng.uniform() < 0.8], room, rng)
    writers: Sequence[Callable[[], str]] = (
        lambda: _sentence(street, said.where, kept, time, weather, rng),
        lambda: _keywords(street, kept, time, weather, rng),
        lambda: _log_line(street, kept, time, weather, rng),
    )
    return writers[style - 1]()


def _conditions(said: Facts, rng: np.random.Generator) -> tuple[str, str]:
    """Draw the words for time and weather; empty where they go unsaid."""
    words = WEATHERS[said.weather]
    if said.weather == "clear" and said.time_of_day == "day":
        words = (*words, *SUNNY)
    elif said.weather == "clear" and said.time_of_day == "night":
        words = tuple(word for word in words if "clouds" not in word)
    time = str(rng.choice(TIMES[said.time_of_day]))
    weather = str(rng.choice(words))
    if said.time_of_day == "day" and rng.uniform() < _UNSAID:
        time = ""
    if said.weather == "clear" and rng.uniform() < _UNSAID:
        weather = ""
    return time, weather


def _sentence(street: str, where: str, things: tuple[str, ...], time: str, weather: str, rng: np.random.Generator) -> str:
    conditions = listed(tuple(_shuffled([word for word in (time, weather) if word], rng)))
    body = f"{street} {where}{listed(things, ' with ')}"
    if not conditions:
        return f"{_capital(body)}."
    first, second = (conditions, body) if rng.uniform() < 0.5 else (body, conditions)
    return f"{_capital(first)}. {_capital(second)}."


def _keywords(street: str, things: tuple[str, ...], time: str, weather: str, rng: np.random.Generator) -> str:
    conditions = [word for word in (time, weather) if word]
    rest = _keywords_of(street, things, rng)
    words = [*conditions, *rest] if rng.uniform() < 0.6 else [*rest, *conditions]
    return _capital(", ".join(words))


def _log_line(street: str, things: tuple[str, ...], time: str, weather: str, rng: np.random.Generator) -> str:
    words = [str(rng.choice(CITIES)), *(word for word in (time, weather) if word), *_keywords_of(street, things, rng)]
    return f"{rng.choice(LOGS)} {int(rng.integers(1000)):03d}, {', '.join(words)}" if rng.uniform() < 0.5 else ", ".join(words)


def _fitting(things: list[str], room: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Choose things for which there is room, in characters; those that are said first are as likely to go as the others."""
    kept = []
    for i in rng.permutation(len(things)).tolist():
        needed = len(things[i]) + len(" and ")
        if needed <= room:
            room -= needed
            kept.append(i)
    return tuple(things[i] for i in sorted(kept))


def _keywords_of(street: str, things: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    aside = [str(rng.choice(ASIDES))] if rng.uniform() < _ASIDE else []
    return _shuffled([street, *things, *aside], rng)


def _synonym(table: Mapping[str, tuple[str, ...]], word: str, rng: np.random.Generator) -> str:
    return str(rng.choice(table.get(word, (word,))))


def _shuffled(words: list[str], rng: np.random.Generator) -> list[str]:
    return [words[i] for i in rng.permutation(len(words))]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

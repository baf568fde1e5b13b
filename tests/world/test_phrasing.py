"""Descriptions in many wordings say the same as the plain ones, and nothing else changes with them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from drivegen import world
from drivegen.support.errors import InputError
from drivegen.world import phrasing
from drivegen.world.describe import Facts, plain

SAID = Facts("night", "rain", "Junction", "in a suburb", ("parked cars", "a bus", "pedestrians"))


def test_the_scene_is_the_same_in_every_wording() -> None:
    for index in range(6):
        one, other = (world.build(3, index, 2, (64, 112), wording) for wording in ("plain", "varied"))
        assert one.conditions == other.conditions
        for a, b in zip(one.scene.frames, other.scene.frames, strict=True):
            assert a.token == b.token
            assert [box.token for box in a.boxes] == [box.token for box in b.boxes]
            assert all(np.array_equal(x.K_image, y.K_image) for x, y in zip(a.cameras, b.cameras, strict=True))
        again = world.build(3, index, 2, (64, 112), "varied")
        assert again.scene.description == other.scene.description


def test_a_dark_wet_street_is_never_described_as_another() -> None:
    rng = np.random.default_rng(0)
    night, rain = _pattern(phrasing.TIMES["night"]), _pattern(phrasing.WEATHERS["rain"])
    others = _pattern(
        w for key, words in (phrasing.TIMES | phrasing.WEATHERS).items() if key not in ("night", "rain") for w in words
    )
    texts = {phrasing.varied(SAID, rng) for _ in range(400)}
    assert len(texts) > 250
    for text in texts:
        assert night.search(text), text
        assert rain.search(text), text
        assert not others.search(text), text


def test_the_longest_scene_is_told_in_few_words_that_keep_hour_and_weather() -> None:
    """So that a text encoder of few tokens reads them, wherever they stand."""
    rng = np.random.default_rng(2)
    crowd = Facts("dusk", "fog", "Two-way street", "between terraced houses", tuple(phrasing.THINGS))
    texts = [text for text in (phrasing.varied(crowd, rng) for _ in range(600)) if text != plain(crowd)]
    assert max(map(len, texts)) <= phrasing.LONGEST
    dusk, fog = _pattern(phrasing.TIMES["dusk"]), _pattern(phrasing.WEATHERS["fog"])
    assert all(dusk.search(text) and fog.search(text) for text in texts)
    for words in phrasing.THINGS.values():
        assert any(word in text for word in words for text in texts), "each of them is said now and then"


def test_only_day_and_clear_go_unsaid() -> None:
    rng = np.random.default_rng(1)
    day = Facts("day", "clear", "Junction", "in a park", ())
    texts = [phrasing.varied(day, rng) for _ in range(400)]
    said = _pattern(phrasing.TIMES["day"])
    assert 0.1 < np.mean([not said.search(text) for text in texts]) < 0.35
    assert not any(_pattern([*phrasing.TIMES["night"], *phrasing.TIMES["dusk"]]).search(text) for text in texts)
    assert 0.15 < np.mean([text == plain(day) for text in texts]) < 0.35


def test_an_unknown_wording_is_named() -> None:
    with pytest.raises(InputError, match=r"'vared'; there are plain and varied \(did you mean 'varied'"):
        world.build(0, 0, wording="vared")


def _pattern(words) -> re.Pattern[str]:  # type: ignore[no-untyped-def]
    return re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)

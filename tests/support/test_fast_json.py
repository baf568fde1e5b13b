"""What `json.loads` returns or raises, sooner."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest

from drivegen.support import fast_json

TEXTS = (
    '{"a": [1, -0, 2.5, 1e5, true, null], "a": "é\\u0000\\ud83d\\ude00"}', "18446744073709551616", "-9223372036854775809",
    "1e400", "[NaN, -Infinity]", '"\\ud800"', "[1,]", "{'a': 1}", "01", "1.", "", "[", '"\t"', "\ufeff1",
    "[" * 5000 + "]" * 5000,
)  # fmt: skip


def outcome(loads: Callable[[Any], Any], text: str | bytes) -> str:
    try:
        return repr(loads(text))
    except (ValueError, RecursionError) as error:
        return f"{type(error).__name__} {error}"


@pytest.mark.parametrize("text", TEXTS)
def test_values_and_errors_are_those_of_json(text: str) -> None:
    assert outcome(fast_json.loads, text) == outcome(json.loads, text)
    for encoding in ("utf-8", "utf-16"):
        data = text.encode(encoding)
        assert outcome(fast_json.loads, data) == outcome(json.loads, data)


def test_invalid_utf8_is_refused_as_by_json() -> None:
    assert outcome(fast_json.loads, b'["\xff"]') == outcome(json.loads, b'["\xff"]')


def test_every_bit_of_a_number_is_the_same() -> None:
    chance = random.Random(0)
    numbers = [struct.unpack("d", chance.randbytes(8))[0] for _ in range(3000)]
    texts = [form % number for number in numbers if abs(number) < 1e300 for form in ("%r", "%.25g")]
    assert [fast_json.loads(text) for text in texts] == [json.loads(text) for text in texts]

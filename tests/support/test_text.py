"""Text of files, shown: nothing in it steers a terminal, whatever message it is in."""

from __future__ import annotations

import pickle

import pytest

from drivegen.support.errors import Diverged, InputError
from drivegen.support.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"), ("\x1b[31mred", "\\x1b[31mred"), ("a\u202eb", "a\\u202eb"), ("\x9b1m", "\\x9b1m"),
        ("\ud800", "\\ud800"), ("naïve 车 🚗", "naïve 车 🚗"), ("two\nlines", "two\nlines"), ("car\rriage", "car\\rriage"),
        ("می\u200cروم", "می\u200cروم"), ("x" * 12, "x" * 10 + "… (2 characters more)"),
    ],
)  # fmt: skip
def test_what_is_not_seen_is_escaped(text: str, shown: str) -> None:
    assert printable(text, 10 if set(text) == {"x"} else 100) == shown


@pytest.mark.parametrize("kind", [InputError, Diverged])
def test_messages_are_printable_and_survive_a_process_boundary(kind: type[Exception]) -> None:
    error = kind("scene 'a\x1b]0;b\x07'")
    assert str(error) == "scene 'a\\x1b]0;b\\x07'"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)

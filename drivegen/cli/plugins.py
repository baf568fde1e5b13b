"""Work on a plugin by its kind: its promises checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drivegen.cli.screen import Screen
from drivegen.pipeline.spelling import read_inputs
from drivegen.support.errors import InputError
from drivegen.support.strict_yaml import parse


def check(
    screen: Screen, kind: str, options: Sequence[str], given: Sequence[str], beside: Sequence[str], data: Path | None
) -> int:
    """Run the battery on a plugin, print what each check found, and return how many promises are broken.

    Args:
        screen: where to print.
        kind: the plugin's kind.
        options: its options, KEY=VALUE.
        given: what a caller gives it, KIND=VALUE or KIND.KEY=VALUE.
        beside: kinds that stand before it.
        data: a dataset whose frames are taken.
    """
    from drivegen.testing.checking import LOOK, case_of, run_checks

    case = case_of(kind, read_options(options), _given(kind, given), beside, data)
    broken = count = 0
    last = ""
    for outcome in run_checks(case):
        count += 1
        if not outcome.broken:
            screen.line(("ok      ", "green"), outcome.check)
            continue
        broken += 1
        screen.line(("broken  ", "red"), outcome.check, ": as above" if outcome.broken == last else "")
        if outcome.broken == last:
            continue
        last = outcome.broken
        screen.line(f"        {outcome.broken}")
        if outcome.place:
            screen.line(f"        at {outcome.place}")
        screen.line(f"        look at {LOOK[outcome.check]}")
    of = "two built-in frames" if data is None else f"two frames of {data}"
    screen.line(f"{kind}: {count - broken} of {count} promises hold, on {of}")
    return broken


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE options of a plugin; values are YAML, as in a configuration."""
    out: dict[str, Any] = {}
    for text in words:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"--options {text!r:.80} must be KEY=VALUE, such as width=0.5")
        if key in out:
            raise InputError(f"--options names {key!r} twice")
        out[key] = parse(value, f"--options {key}")
    return out


def _given(kind: str, words: Sequence[str]) -> Any:
    given = read_inputs(words)
    for name in given:
        if name != kind:
            raise InputError(f"--input is given for {name!r}; the plugin under test is {kind!r}")
    return given.get(kind)

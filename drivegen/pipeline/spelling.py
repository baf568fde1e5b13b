"""How a generation's options are written on the command line: from words to values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from drivegen.support.errors import InputError
from drivegen.support.values import LONGEST_SIDE, fractions, number


def read_scales(given: Sequence[str]) -> dict[str, float]:
    """Read PLUGIN=X options."""
    return _by_plugin("--scale", given, "PLUGIN=X with a number X of 0 or above, such as boxes=1.5", _at_least_zero)


def read_guidance(given: Sequence[str]) -> float | dict[str, float] | None:
    """Read one number, or PLUGIN=W options; None where there is none."""
    if len(given) == 1 and "=" not in given[0]:
        try:
            return float(given[0])
        except ValueError:
            raise InputError(f"--guidance {given[0]!r} must be a number, or PLUGIN=W such as text=3") from None
    form = "PLUGIN=W with a number W of 0 or above (or one number for all)"
    return _by_plugin("--guidance", given, form, _at_least_zero) or None


def read_ranges(given: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Read PLUGIN=START:END options."""
    found = _by_plugin("--range", given, "PLUGIN=START:END, such as layout=0:0.6", _ends)
    return {name: fractions(ends, f"range of {name!r}") for name, ends in found.items()}


def read_guidance_range(text: str) -> tuple[float, float]:
    """Read START:END."""
    try:
        return _ends(text)
    except ValueError:
        raise InputError(f"--guidance-range {text!r:.80} must be START:END, such as 0.2:1") from None


def _ends(text: str) -> tuple[float, float]:
    start, end = (float(part) for part in text.split(":"))
    return start, end


def read_inputs(given: Sequence[str]) -> dict[str, Any]:
    """Read PLUGIN=VALUE options, and PLUGIN.KEY=VALUE ones, for several values by name or by camera."""
    out: dict[str, Any] = {}
    for text in given:
        place, _, value = text.partition("=")
        name, dot, key = place.partition(".")
        if not name or not value or (dot and not key):
            raise InputError(f"--input {text!r} must be PLUGIN=VALUE or PLUGIN.KEY=VALUE, such as image_prompt=photo.jpg")
        if name in out and not (dot and isinstance(out[name], dict) and key not in out[name]):
            raise InputError(f"--input names {place!r} twice; give each once, and keys to all or none of a plugin's")
        if dot:
            out.setdefault(name, {})[key] = value
        else:
            out[name] = value
    return out


def read_regions(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read PLUGIN=CAMERA[:MASK] options: a mask file is white where the plugin acts; without one it is the whole picture."""
    from drivegen.scene.pictures import user_image

    out: dict[str, dict[str, Any]] = {}
    for text in given:
        name, _, rest = text.partition("=")
        channel, colon, file = rest.partition(":")
        if not name or not channel or (colon and not file):
            form = "PLUGIN=CAMERA:MASK, or PLUGIN=CAMERA for all of its picture, such as layout=CAM_FRONT:mask.png"
            raise InputError(f"--region {text!r} must be {form}")
        views = out.setdefault(name, {})
        if channel in views:
            raise InputError(f"--region names {channel!r} of {name!r} twice")
        views[channel] = user_image(Path(file), f"--region {name}={channel}", "L") if colon else True
    return out


def read_mask(given: Sequence[str], option: str = "--mask") -> dict[str, Any]:
    """Read CAMERA[:MASK] options: a mask file's white parts, or without one the whole picture; `option` is for errors."""
    from drivegen.scene.pictures import user_image

    out: dict[str, Any] = {}
    for text in given:
        channel, colon, file = text.partition(":")
        if not channel or (colon and not file):
            form = "CAMERA:MASK, or CAMERA for all of its picture, such as CAM_FRONT:mask.png"
            raise InputError(f"{option} {text!r} must be {form}")
        if channel in out:
            raise InputError(f"{option} names {channel!r} twice; give one mask that has both parts white")
        out[channel] = user_image(Path(file), f"{option} {channel}", "L") if colon else True
    return out


def read_sampler_options(given: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE options, whose values are numbers, true, false or text."""
    from drivegen.support.strict_yaml import parse

    def value(text: str) -> Any:
        found = parse(text, "--sampler-option")
        if not isinstance(found, (bool, int, float, str)):
            raise InputError(text)
        return found

    form = "NAME=VALUE with a number, a text, true or false, such as eta=0.3"
    return _by_plugin("--sampler-option", given, form, value)


def read_reuse(text: str) -> dict[str, int]:
    """Read N[:DEPTH]."""
    interval, colon, depth = text.partition(":")
    parts = [interval, depth] if colon else [interval]
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise InputError(f"--reuse {text!r:.80} must be N or N:DEPTH, whole numbers, such as 3:0")
    return dict(zip(("interval", "depth"), map(int, parts), strict=False))


def read_timesteps(text: str) -> list[int]:
    """Read T,T,…"""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--timesteps {text!r:.80} must be whole numbers with commas between, such as 999,750,500,250"
        ) from None


def read_size(text: str) -> tuple[int, int]:
    """Read HEIGHTxWIDTH."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise InputError(f"--size {text!r:.80} must be HEIGHTxWIDTH in pixels, such as 224x400")
    if any(len(part) > 9 or int(part) > LONGEST_SIDE for part in parts):
        raise InputError(f"--size {text!r:.80} is too large; each side may have at most {LONGEST_SIDE} pixels")
    return int(parts[0]), int(parts[1])


def _at_least_zero(text: str) -> float:
    return number(float(text), "", 0)


def _by_plugin(option: str, given: Sequence[str], form: str, read: Callable[[str], Any]) -> dict[str, Any]:
    """Read PLUGIN=VALUE options, each plugin once."""
    out: dict[str, Any] = {}
    for text in given:
        name, _, value = text.partition("=")
        if not name or not value:
            raise InputError(f"{option} {text!r} must be {form}")
        try:
            found = read(value)
        except ValueError:  # InputError is one
            raise InputError(f"{option} {text!r} must be {form}") from None
        if name in out:
            raise InputError(f"{option} names {name!r} twice")
        out[name] = found
    return out

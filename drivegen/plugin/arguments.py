"""A plugin's constructor arguments by name, which are saved as JSON: others are refused at construction."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

from drivegen.support.errors import InputError


def named_arguments(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return all arguments of a constructor call by name, defaults included.

    Raises InputError for a value that is none of JSON's, and for positional-only arguments: a saved plugin is constructed from
    names and values.
    """
    call = inspect.signature(cls).bind(*args, **kwargs)
    call.apply_defaults()
    named = dict(call.arguments)
    for parameter in call.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= named.pop(parameter.name)
        elif parameter.kind is parameter.VAR_POSITIONAL and not named[parameter.name]:
            del named[parameter.name]
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise InputError(f"{cls.__name__}: argument {parameter.name} has no name to be saved under; take it by name")
    for name, value in named.items():
        check_json(value, f"{cls.__name__}: argument {name}")
    return copy.deepcopy(named)  # what a constructor does to its lists and dicts is not recorded


def check_json(value: Any, what: str, above: tuple[int, ...] = ()) -> None:
    """Raise InputError that begins with `what` unless a value is one of JSON's (tuples count as lists).

    Args:
        value: the value, checked to any depth.
        what: its name in the error, ``Class: argument name``.
        above: ids of the containers that hold it, to find circles.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{what} is {value}, which JSON does not have; give a finite number, or None")
        return
    if id(value) in above:
        raise InputError(f"{what} holds itself, which JSON cannot")
    inside = (*above, id(value))
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_json(item, f"{what}[{index}]", inside)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{what} has the key {key!r}, a {type(key).__name__}; in JSON keys are text")
            check_json(item, f"{what}[{key!r}]", inside)
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise InputError(f"{what} is a {kind}, which config.json cannot hold; {_instead(value)}")


def _instead(value: Any) -> str:
    """Say what to give in place of a value that JSON does not have."""
    if hasattr(value, "tolist"):
        return "give value.tolist()"
    if hasattr(value, "__fspath__"):
        return "give str(path)"
    if isinstance(value, (set, frozenset)):
        return "give a sorted list"
    return "give numbers, text, true or false, None, lists, or dicts with text as keys"


def needs_arguments(cls: type) -> bool:
    """Tell whether a class cannot be constructed without arguments."""
    parameters = list(inspect.signature(cls).parameters.values())
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_ONLY)
    return any(p.default is p.empty and p.kind in named for p in parameters)

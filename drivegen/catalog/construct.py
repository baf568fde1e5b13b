"""Objects constructed from a class of this program and a user's settings: settings that the class cannot take are refused."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from drivegen.support import strict_yaml
from drivegen.support.errors import InputError, nearest

T = TypeVar("T")


def construct(cls: Any, settings: Mapping[str, Any], where: str) -> Any:
    """Construct an object, with lists as tuples; raises InputError, beginning with `where`, for a setting that is unknown or
    refused.

    A setting is unknown unless the constructor names it, even if the constructor takes and ignores further arguments.

    Args:
        cls: the class.
        settings: its arguments as plain values.
        where: names the settings in the error.
    """
    named, _ = _parameters(cls)
    _refuse_unknown(cls, named, settings, where)
    with refusing(cls, where):
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})


def construct_plugin(cls: type[T], settings: Mapping[str, Any], where: str) -> T:
    """Make a plugin, or a sampler, from plain values, each of the type that its constructor's annotation says.

    Raises InputError naming where, the setting, its value and what is expected; a class path is refused at any depth.
    """
    named, more = _parameters(cls)
    try:
        strict_yaml.refuse_code(settings, f"{where}.")
        if not more:
            _refuse_unknown(cls, named, settings, where)
        arguments = strict_yaml.arguments(cls.__init__, settings, where)
    except RecursionError as error:
        raise InputError(f"{where} are nested too deeply") from error
    with refusing(cls, where):
        return cls(**arguments)


@contextmanager
def refusing(cls: type, where: str) -> Iterator[None]:
    """Turn an error of a class's constructor into an InputError that names the settings."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except Exception as error:  # a wrong value raises anything, wherever the class first makes use of it
        raise InputError(f"{where}: {cls.__name__} refuses these settings: {type(error).__name__}: {error}") from error


def _parameters(cls: Any) -> tuple[list[str], bool]:
    """Return the names that a constructor takes, and whether it takes others too."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    named = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _refuse_unknown(cls: type, named: list[str], settings: Mapping[str, Any], where: str) -> None:
    for key, value in settings.items():
        if key not in named:
            takes = ", ".join(named) or "none"
            raise InputError(f"{where}.{key} = {value!r} is unknown{nearest(key, named)}; {cls.__name__} takes {takes}")

"""YAML read strictly into typed dataclasses: unknown keys, wrong types and values out of range are refused, no code is run."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from drivegen.support.errors import InputError, nearest
from drivegen.support.interpolation import resolve
from drivegen.support.yaml_values import MAX_CHARACTERS, MAX_DEPTH, parse

__all__ = ["arguments", "build", "check", "parse", "read", "refuse_code", "tuples"]

T = TypeVar("T")
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_CODE_KEYS = ("_target_", "class_path", "__class__")


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file, apply ``dotted.key=value`` overrides, and resolve ``${a.b}`` interpolations."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"cannot read the config {path}: it is a folder or a device, not a file")
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a ValueError: not UTF-8, or a NUL in the path
        raise InputError(f"cannot read the config {path}: {getattr(error, 'strerror', None) or error}") from error
    tree = parse(text, str(path))
    if not isinstance(tree, dict):
        raise InputError(f"{path} must be a mapping of settings, and is {type(tree).__name__}")
    for override in overrides:
        _override(tree, override)
    refuse_code(tree, "")
    values = resolve(tree, str(path))
    _refuse_infinite(values, "")
    return values


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys, shown = name.strip().split("."), _shown(override)
    if not equals or not all(keys) or not name.isprintable() or len(keys) > MAX_DEPTH:
        raise InputError(f"override {shown} is not of the form key=value, such as train.lr=1e-4")
    for key in keys[:-1]:
        if tree.get(key) is None:
            tree[key] = {}
        tree = tree[key]
        if not isinstance(tree, dict):
            raise InputError(f"override {shown}: {key!r} is a value, not a group of settings")
    tree[keys[-1]] = parse(text, f"override {shown}")


def refuse_code(value: Any, path: str) -> None:
    """Raise InputError for a key that names a class to construct, at any depth; `path` is prefixed to it in the error."""
    for key, item in _items(value):
        if key in _CODE_KEYS:
            raise InputError(f"{path}{key} names code to run ({_shown(item)}), which settings cannot; use `kind:`")
        refuse_code(item, f"{path}{key}.")


def _refuse_infinite(value: Any, path: str) -> None:
    """Refuse NaN and infinity at any depth: no setting takes them, and JSON, in which settings are saved, has none."""
    for key, item in _items(value):
        if isinstance(item, float) and not math.isfinite(item):
            raise InputError(f"{path}{key} = {item} must be finite")
        _refuse_infinite(item, f"{path}{key}.")


_PRINTER = reprlib.Repr()
_PRINTER.maxstring = _PRINTER.maxother = _PRINTER.maxlong = 100


def _shown(value: Any) -> str:
    """Write a value for an error, shortened: what a user gave may be a megabyte."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"a number of {value.bit_length()} bits"  # Python refuses to write thousands of digits
    return _PRINTER.repr(value)


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, (list, tuple)) else ()


def build(cls: type[T], values: Any, path: str = "") -> T:
    """Make a dataclass from plain values; raises InputError naming path, value and what is allowed.

    A field's ``metadata`` may hold ``ge``, ``gt``, ``le``, ``lt`` bounds of a number, or of each number of a list.
    """
    where = path or "the config"
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be a group of settings, and is {_shown(values)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            name = str(key)[:80]
            raise InputError(f"unknown setting {_join(path, name)}{nearest(name, fields)}; {where} takes {', '.join(fields)}")
    made: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            made[name] = _value(hints[name], values[name], _join(path, name))
            _in_range(made[name], field.metadata, _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{_join(path, name)} is missing; {where} needs it")
    try:
        return cls(**made)
    except InputError as error:
        raise InputError(f"{path}: {error}" if path else str(error)) from error


def check(made: Any) -> None:
    """Raise InputError, as `build` does, for a field of a dataclass made in Python that is not of its type or range.

    A numpy number becomes the plain one.
    """
    hints = typing.get_type_hints(type(made))
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if type(value).__module__ == "numpy" and not getattr(value, "shape", None):
            value = value.item()
            object.__setattr__(made, field.name, value)
        _in_range(_value(hints[field.name], value, field.name), field.metadata, field.name)


def arguments(call: Callable[..., Any], values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return keyword arguments checked against a callable's annotations; lists become tuples where the annotation says so.

    An argument without an annotation, or with one that plain values cannot match, is passed on unchanged.

    Args:
        call: the function or class.
        values: its arguments by name, as plain values.
        path: prefix of the argument's name in errors.

    Raises InputError naming path and value.
    """
    try:
        hints = typing.get_type_hints(call)
    except Exception:  # names that are imported for type checkers alone, or whatever else an annotation may hold
        hints = {}
    parameters = inspect.signature(call).parameters
    checked = dict(values)
    for name, value in values.items():
        if name not in hints or name not in parameters or _holds_dataclass(hints[name]):
            continue
        parameter = parameters[name]
        if _same(tuples(value), tuples(parameter.default)):
            checked[name] = parameter.default  # whatever its annotation says: None for an `int`, say
        elif parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):  # these say what each of several is
            checked[name] = _value(hints[name], value, _join(path, name))
    return checked


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)


def _holds_dataclass(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or any(map(_holds_dataclass, get_args(kind)))


def tuples(value: Any) -> Any:
    """Replace lists by tuples, at every depth."""
    return tuple(map(tuples, value)) if isinstance(value, (list, tuple)) else value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _in_range(value: Any, bounds: Mapping[str, Any], path: str) -> None:
    if not isinstance(value, (int, float)):
        for i, item in enumerate(value if isinstance(value, tuple) else ()):
            _in_range(item, bounds, f"{path}[{i}]")
        return
    signs = {"ge": (">=", value >= bounds.get("ge", value)), "le": ("<=", value <= bounds.get("le", value))}
    signs |= {"gt": (">", "gt" not in bounds or value > bounds["gt"]), "lt": ("<", "lt" not in bounds or value < bounds["lt"])}
    if not all(ok for _, ok in signs.values()):
        allowed = " and ".join(f"{signs[k][0]} {v:g}" for k, v in bounds.items())
        raise InputError(f"{path} = {value if isinstance(value, int) else f'{value:g}'} is out of range; allowed: {allowed}")


def _value(kind: Any, value: Any, path: str) -> Any:
    origin, args = get_origin(kind) or kind, get_args(kind)
    if isinstance(value, int) and value.bit_length() > 128:
        raise InputError(f"{path} is {_shown(value)}, too large for any setting")
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _union(args, value, path)
    if origin is Literal:
        if isinstance(value, int) and not isinstance(value, bool) and str(value) in args:
            value = str(value)  # YAML reads 32 as a number where "32" is meant
        if not any(_same(value, arg) for arg in args):
            text = ", ".join(map(str, args))
            raise InputError(f"{path} = {_shown(value)} is not one of {text}{nearest(str(value), map(str, args))}")
        return value
    if dataclasses.is_dataclass(kind):
        return build(kind, value, path)  # type: ignore[arg-type]
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise InputError(f"{path} must be a group of settings, and is {_shown(value)}")
        return {k: _value(args[1] if args else Any, v, _join(path, k)) for k, v in value.items()}
    if origin is tuple:
        return _tuple(args or (Any, ...), value, path)
    if origin in (list, Sequence):
        items = _tuple((args[0] if args else Any, ...), value, path)
        return list(items) if origin is list else items
    return _plain(kind, value, path)


def _union(args: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in args:
        return None
    rest = [a for a in args if a is not type(None)]
    if len(rest) == 1:
        return _value(rest[0], value, path)
    made = []
    for kind in rest:
        with contextlib.suppress(InputError):
            made.append(_value(kind, value, path))
    if made:  # 1 stays a whole number where it may be one, whatever else it may be
        return next((m for m in made if type(m) is type(value)), made[0])
    names = " or ".join(getattr(get_origin(a) or a, "__name__", str(a)) for a in rest)
    raise InputError(f"{path} = {_shown(value)} must be {names}")


def _tuple(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{path} = {_shown(value)} must be a list")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_value(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if len(value) != len(args):
        raise InputError(f"{path} = {_shown(list(value))} must have {len(args)} values")
    return tuple(_value(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(args, value, strict=True)))


def _plain(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(kind, type) or kind not in _WORDS:
        return value
    if kind is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # `1e-4` in quotes
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{path} = {_shown(value)} must be {_WORDS[kind]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path} = {value} must be finite")
    return value

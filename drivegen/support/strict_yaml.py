"""YAML read strictly into typed dataclasses: every key known, every value of its type and range, nothing that runs code."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from drivegen.support.errors import InputError, nearest

T = TypeVar("T")
MAX_CHARACTERS = 1_000_000
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_CODE_KEYS = ("_target_", "class_path", "__class__")


def _refused(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses anchors, tags and duplicate keys, and reads ``1e-4`` as the number that it is."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refused("anchors and aliases are not allowed; write the value out", event)
        tag = getattr(event, "tag", None)
        if tag and ("python" in tag or not tag.startswith("tag:yaml.org,2002:")):
            raise _refused(f"the tag {tag!r} is not allowed", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refused(f"the key {key!r} is not a name", key_node)
            if key in seen:
                raise _refused(f"the key {key!r} comes twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse(text: str, where: str) -> Any:
    """Parse YAML text into plain values; raises InputError with line and column."""
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{where} has {len(text):,} characters; a config has at most {MAX_CHARACTERS:,}")
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise InputError(f"{where}{at}: {getattr(error, 'problem', None) or error}") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply") from error


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file, put ``dotted.key=value`` overrides in, and resolve ``${a.b}`` interpolations to other keys."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the config {path}: {getattr(error, 'strerror', None) or error}") from error
    tree = parse(text, str(path))
    if not isinstance(tree, dict):
        raise InputError(f"{path} must be a mapping of settings, and is {type(tree).__name__}")
    for override in overrides:
        _override(tree, override)
    refuse_code(tree, "")
    _refuse_resolvers(tree, "")
    return _resolve(tree, str(path))


def _override(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"override {override!r} is not of the form key=value, such as train.lr=1e-4")
    for key in keys[:-1]:
        if tree.get(key) is None:
            tree[key] = {}
        tree = tree[key]
        if not isinstance(tree, dict):
            raise InputError(f"override {override!r}: {key!r} is a value, not a group of settings")
    tree[keys[-1]] = parse(text, f"override {override!r}")


def refuse_code(value: Any, path: str) -> None:
    """Raise InputError for a key that names a class to make, at any depth; path is what stands before the key."""
    for key, item in _items(value):
        if key in _CODE_KEYS:
            raise InputError(f"{path}{key} names code to run ({item!r}), which settings cannot; use `kind:`")
        refuse_code(item, f"{path}{key}.")


def _refuse_resolvers(value: Any, path: str) -> None:
    """Refuse interpolations that call a resolver (they read the environment)."""
    for key, item in _items(value):
        _refuse_resolvers(item, f"{path}{key}.")
    if isinstance(value, str) and "${" in value and re.search(r"\$\{[^}]*:", value):
        raise InputError(f"{path[:-1]} = {value!r} calls a resolver; only ${{other.key}} is allowed, environment access is off")


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, (list, tuple)) else ()


def _resolve(tree: dict[str, Any], where: str) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(tree), resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        reason = "its interpolations go in a circle" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise InputError(f"{where}: {reason}") from error
    return resolved


def build(cls: type[T], values: Any, path: str = "") -> T:
    """Make a dataclass from plain values; raises InputError naming path, value and what is allowed.

    A field's ``metadata`` may hold ``ge``, ``gt``, ``le``, ``lt`` bounds.
    """
    where = path or "the config"
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be a group of settings, and is {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise InputError(f"unknown setting {_join(path, key)}{nearest(key, fields)}; {where} takes {', '.join(fields)}")
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


def arguments(call: Callable[..., Any], values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return named arguments, each of the type that the callable's annotation gives it, lists made tuples where it says so.

    What has no annotation, or one that plain values cannot be, is passed on. Raises InputError naming path and value.
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
    if not isinstance(value, (int, float)) or not bounds:
        return
    signs = {"ge": (">=", value >= bounds.get("ge", value)), "le": ("<=", value <= bounds.get("le", value))}
    signs |= {"gt": (">", "gt" not in bounds or value > bounds["gt"]), "lt": ("<", "lt" not in bounds or value < bounds["lt"])}
    if not all(ok for _, ok in signs.values()):
        allowed = " and ".join(f"{signs[k][0]} {v:g}" for k, v in bounds.items())
        raise InputError(f"{path} = {value:g} is out of range; allowed: {allowed}")


def _value(kind: Any, value: Any, path: str) -> Any:
    origin, args = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _union(args, value, path)
    if origin is Literal:
        if isinstance(value, int) and not isinstance(value, bool) and str(value) in args:
            value = str(value)  # YAML reads 32 as a number where "32" is meant
        if not any(_same(value, arg) for arg in args):
            text = ", ".join(map(str, args))
            raise InputError(f"{path} = {value!r} is not one of {text}{nearest(str(value), map(str, args))}")
        return value
    if dataclasses.is_dataclass(kind):
        return build(kind, value, path)  # type: ignore[arg-type]
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise InputError(f"{path} must be a group of settings, and is {value!r}")
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
    raise InputError(f"{path} = {value!r} must be {names}")


def _tuple(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{path} = {value!r} must be a list")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_value(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if len(value) != len(args):
        raise InputError(f"{path} = {list(value)!r} must have {len(args)} values")
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
        raise InputError(f"{path} = {value!r} must be {_WORDS[kind]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path} = {value} must be finite")
    return value

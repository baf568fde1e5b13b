"""Digests of values: data by their contents, code by its source and the variables that it refers to."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import inspect
import json
import logging
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from drivegen.catalog.source_closure import HOUSE, installed, locate, source_closure
from drivegen.datasets import SceneSource
from drivegen.datasets.base import stat_digest

_LIBRARIES = sys.stdlib_module_names | {"torch", "numpy"} - {"__main__"}
MAX_PARTS = 1_000_000
"""A value of more parts than this is not looked through."""


class Unreadable(Exception):
    """A value's digest cannot be computed; the message says which value and why."""


def value_digest(*values: Any) -> str:
    """Return hexadecimal digits that change when one of the values does.

    Data count by their contents, files by name, size and time, functions and classes by their source, the sources that these
    import (`catalog.source_closure`), and the variables that they refer to; code of other installed packages counts by its
    name. Raises Unreadable for code without source, such as a class typed at a prompt, and for objects that hold more than
    data.
    """
    walk = _Walk(values)
    for value in values:
        walk.feed(value)
    return walk.total.hexdigest()[:16]


class _Walk:
    """One pass over values, each looked at once."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.total = hashlib.sha256()
        self.seen: dict[int, tuple[int, Any]] = {}
        classes = [base for value in values for base in (value if isinstance(value, type) else type(value)).__mro__]
        functions = [getattr(value, "__module__", None) or "" for value in values]
        self.own = {HOUSE} | {name.split(".")[0] for name in (*functions, *(cls.__module__ for cls in classes))} - _LIBRARIES

    def say(self, *texts: object) -> None:
        """Add texts and numbers."""
        for text in texts:
            self.total.update(repr(text).encode("utf-8", "surrogatepass") + b"\x1f")

    def feed(self, value: Any) -> None:
        """Add one value."""
        if value is None or value is Ellipsis or isinstance(value, (bool, int, float, complex, str, bytes, range)):
            self.say(type(value).__name__, value)
        elif id(value) in self.seen:  # a circle, or the same again
            self.say("again", self.seen[id(value)][0])
        elif len(self.seen) >= MAX_PARTS:
            raise Unreadable("it holds too many values to look through")
        else:
            self.seen[id(value)] = len(self.seen), value  # kept, so that no other value gets its id
            self.say(type(value).__qualname__)
            self._feed(value)

    def _feed(self, value: Any) -> None:
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype != object:
            self.say(value.dtype.str, value.shape)
            self.total.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().view(-1)
            self.say(str(value.dtype), tuple(value.shape))
            self.total.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
        elif isinstance(value, Image.Image):
            self.say(value.mode, value.size)
            self.total.update(value.tobytes())
        elif isinstance(value, Path):
            self.say(str(value), stat_digest([value]))
        elif isinstance(value, SceneSource):
            self.say(str(value.root), value.version)
        elif isinstance(value, Mapping):
            for key in sorted(value, key=repr):
                self.feed(key)
                self.feed(value[key])
        elif isinstance(value, (set, frozenset)):
            self._each(sorted(value, key=repr))
        elif isinstance(value, (list, tuple)):
            self._each(value)
        elif isinstance(value, nn.Module):
            self._each((type(value), dict(value.state_dict()), value.training))
        elif hasattr(value, "get_vocab"):
            self.say(*tokenizer_parts(value))
        else:
            self._code(value)

    def _code(self, value: Any) -> None:
        if isinstance(value, (types.ModuleType, logging.Logger)):
            self.say(getattr(value, "__name__", None) or getattr(value, "name", ""))
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._each((value.__self__, value.__func__))
        elif isinstance(value, (types.BuiltinFunctionType, np.ufunc, torch.dtype, torch.device)):
            self.say(str(getattr(value, "__module__", "")), getattr(value, "__qualname__", repr(value)))
        elif isinstance(value, (staticmethod, classmethod)) or hasattr(value, "__wrapped__"):
            self.feed(value.__wrapped__)
        elif isinstance(value, property):
            self._each((value.fget, value.fset))
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        """Add an object of any other class by what pickle would keep of it; nothing is pickled."""
        try:
            made = value.__reduce_ex__(4)
        except Exception as error:  # whatever a class does to say that it is more than data
            raise Unreadable(f"it holds a {type(value).__module__}.{type(value).__qualname__}") from error
        parts = (made,) if isinstance(made, str) else made
        self._each([list(part) if isinstance(part, Iterator) else part for part in parts])

    def _each(self, values: Any) -> None:
        self.say(len(values))
        for value in values:
            self.feed(value)

    def _foreign(self, module: str) -> bool:
        """Tell whether a module is of Python itself or of another installed package: its name says enough."""
        top = module.split(".")[0]
        if top in self.own:
            return False
        path = locate(top) if top not in _LIBRARIES else None
        return top in _LIBRARIES or (path is not None and installed(path))

    def _class(self, cls: type) -> None:
        for base in cls.__mro__:
            self.say(base.__module__, base.__qualname__)
            if self._foreign(base.__module__):
                continue
            if file_with(base) is not None:
                self._files(base.__module__)
                continue
            for key, member in sorted(vars(base).items()):
                if not key.startswith(("__", "_abc_")) or isinstance(member, types.FunctionType):
                    self.say(key)
                    self.feed(member)

    def _function(self, function: types.FunctionType) -> None:
        module, code = function.__module__ or "", function.__code__
        self.say(module, function.__qualname__)
        if self._foreign(module):
            return
        path = locate(module)
        in_file = path is not None and Path(code.co_filename) == path
        if in_file:
            self._files(module)
        try:
            self.say(inspect.getsource(function))
        except (OSError, TypeError, IndexError) as error:
            raise Unreadable(f"the source of {function.__qualname__} cannot be read") from error
        self._each((function.__defaults__, function.__kwdefaults__))
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self.say(name)
            with contextlib.suppress(ValueError):  # not yet bound
                self.feed(cell.cell_contents)
        for name in sorted(set(_names(code)) & function.__globals__.keys()):
            value = function.__globals__[name]
            code_too = isinstance(value, (type, types.FunctionType))
            if not (in_file and code_too and locate(value.__module__ or "") is not None):  # else the files say it
                self.say(name)
                self.feed(value)

    def _files(self, module: str) -> None:
        """Add the source files of a module and of all that it imports within drivegen and its own package."""
        for name, path in sorted(source_closure([module]).items()):
            self.say(name, hashlib.sha256(path.read_bytes()).hexdigest())


def file_with(cls: type) -> Path | None:
    """Return the source file that defines a class; None for one of a notebook or a prompt, or created at run time."""
    path = locate(cls.__module__)
    if path is None or path.suffix != ".py":
        return path
    return path if cls.__name__ in _classes(path, path.stat().st_mtime_ns) else None


@functools.lru_cache(maxsize=256)
def _classes(path: Path, changed: int) -> frozenset[str]:
    try:
        return frozenset(node.name for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.ClassDef))
    except (OSError, SyntaxError, ValueError):
        return frozenset()


def _names(code: types.CodeType) -> Iterator[str]:
    """Names of the global variables that code, and what is defined inside of it, may refer to."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def tokenizer_parts(tokenizer: Any) -> tuple[str, ...]:
    """Return everything that a tokenizer's ids depend on: words and their merges, length, special tokens, sides."""
    fast: Any = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(fast.to_str()) if hasattr(fast, "to_str") else {}
    called_with = ("truncation", "padding")  # these are of the last call
    rules = json.dumps({key: value for key, value in rules.items() if key not in called_with}, sort_keys=True)
    settings = [getattr(tokenizer, name, None) for name in ("model_max_length", "padding_side", "truncation_side")]
    special = getattr(tokenizer, "special_tokens_map", {})
    words = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return type(tokenizer).__name__, words, rules, repr(settings), repr(sorted((k, str(v)) for k, v in special.items()))

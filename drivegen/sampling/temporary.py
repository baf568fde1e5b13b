"""Layers whose forward is replaced during one generation; copies made meanwhile are of the original layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

from torch import nn

_FORWARD = "_temporary_forward"
_CHANGING = Lock()


@contextmanager
def temporary_forward(modules: Iterable[Any], make: Callable[[Any], Callable[..., Any]]) -> Iterator[None]:
    """Replace the forward of modules within the block, except where it was replaced already.

    The class of each module is exchanged for a subclass that copies and pickles as the original class: a network copied inside
    a callback consists of plain layers, independent of the originals.

    Args:
        modules: the layers.
        make: returns the new forward of a module, which may call the old one, ``module.forward``.
    """
    before: list[tuple[Any, Any]] = []
    try:
        with _CHANGING:  # two models that compute at once may share a network
            for module in modules:
                if "forward" not in vars(module) and _FORWARD not in vars(module):
                    cls: Any = type(module)
                    forward = make(module)
                    before.append((module, cls))
                    vars(module)[_FORWARD] = forward
                    module.__class__ = _subclass(cls)
        yield
    finally:
        with _CHANGING:
            for module, cls in before:
                module.__class__ = cls
                vars(module).pop(_FORWARD, None)


def _new(cls: Any) -> Any:
    return cls.__new__(cls)


@cache
def _subclass(cls: Any) -> type[nn.Module]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        other = vars(self).get(_FORWARD)
        # Another thread may have taken it away since the call began.
        return cls.forward(self, *args, **kwargs) if other is None else other(*args, **kwargs)

    def reduce(self: Any, protocol: Any) -> Any:
        parts: Any = cls.__reduce_ex__(self, protocol)
        _, _, state, *rest = parts
        return (_new, (cls,), {name: value for name, value in state.items() if name != _FORWARD}, *rest)

    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), {"forward": forward, "__reduce_ex__": reduce, **names})

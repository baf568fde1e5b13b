"""Layers whose forward is replaced during one generation; copies made meanwhile are of the original layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import nn

_FORWARD = "_temporary_forward"


@contextmanager
def temporary_forward(modules: Iterable[Any], make: Callable[[Any], Callable[..., Any]]) -> Iterator[None]:
    """Replace the forward of modules within the block, except where it was replaced already.

    The class of each module is exchanged for a subclass that copies and pickles as the original class: a network copied inside
    a callback consists of plain layers, independent of the originals.

    Args:
        modules: the layers.
        make: returns the new forward of a module, which may call the old one, ``module.forward``.
    """
    changed = [module for module in modules if "forward" not in vars(module) and not hasattr(module, _FORWARD)]
    forwards = [make(module) for module in changed]
    before = [type(module) for module in changed]
    try:
        for module, forward in zip(changed, forwards, strict=True):
            vars(module)[_FORWARD] = forward
            module.__class__ = _subclass(module.__class__)
        yield
    finally:
        for module, cls in zip(changed, before, strict=True):
            module.__class__ = cls
            vars(module).pop(_FORWARD, None)


def _new(cls: Any) -> Any:
    return cls.__new__(cls)


@cache
def _subclass(cls: Any) -> type[nn.Module]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return vars(self)[_FORWARD](*args, **kwargs)

    def reduce(self: Any, protocol: Any) -> Any:
        parts: Any = cls.__reduce_ex__(self, protocol)
        _, _, state, *rest = parts
        return (_new, (cls,), {name: value for name, value in state.items() if name != _FORWARD}, *rest)

    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), {"forward": forward, "__reduce_ex__": reduce, **names})

"""Instance names of plugins: what a module of torch can hold a plugin under."""

from __future__ import annotations

from drivegen.support.errors import InputError


def check_name(name: str) -> str:
    """Return a plugin's instance name; raises InputError for no identifier, and for what torch's modules call their own."""
    from torch import nn  # configurations are read without it until they name a plugin

    if not name.isidentifier():
        raise InputError(f"plugin name {name!r} must be an identifier (letters, digits, underscores)")
    if hasattr(nn.ModuleDict(), name):
        raise InputError(f"plugin name {name!r} is taken by torch's modules; use another, such as {name + '_plugin'!r}")
    return name

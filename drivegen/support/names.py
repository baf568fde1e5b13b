"""Names with a second use: a plugin's instance name becomes an attribute of torch's modules, a token a file's name."""

from __future__ import annotations

import os
import re

from drivegen.support.errors import InputError


def check_name(name: str, what: str = "plugin") -> str:
    """Return the instance name of a plugin, or of what else; raises InputError unless it is an identifier that torch's modules
    do not use.
    """
    from torch import nn  # configurations are read without it until they name a plugin

    if not isinstance(name, str) or not name.isidentifier():
        raise InputError(f"{what} name {name!r} must be an identifier (letters, digits, underscores)")
    if hasattr(nn.ModuleDict(), name):
        raise InputError(f"{what} name {name!r} is taken by torch's modules; use another, such as {name + '_' + what!r}")
    return name


def check_file_name(name: str, what: str) -> str:
    """Return a name that is safe as a file's; raises InputError for one that could lead out of its folder or is too long."""
    if not re.fullmatch(r"[\w.\- ]+", name) or name.strip(". ") == "":
        raise InputError(f"{what} {name!r} cannot name a file: letters, digits, dots, dashes and underscores can")
    if len(os.fsencode(name)) > 200:
        raise InputError(f"{what} {name[:40]!r}… is too long for a file's name; 200 bytes are allowed")
    return name

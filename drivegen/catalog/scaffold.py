"""A new condition's package, from templates: one module, its entry point, a test, a training configuration, a page."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

from drivegen.catalog import registry
from drivegen.support.errors import InputError, nearest
from drivegen.support.files import replacing, write_atomically
from drivegen.support.names import check_name

TEMPLATES = Path(__file__).parents[1] / "assets" / "new_plugin"

WAYS = ("tokens", "residuals", "tap", "raster")
"""How a condition enters, a template each."""

_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_]{0,98}[A-Za-z0-9])?")
"""What is an identifier, and within a distribution's name too."""


def new_package(name: str, way: str, folder: Path | None = None) -> Path:
    """Write the package of a new condition, and return its folder.

    Args:
        name: the kind under which it will be installed, also its instance name.
        way: how it enters, one of `WAYS`.
        folder: where to write, a folder that is not there yet or empty; None = ``drivegen-NAME`` in the working directory.

    Raises InputError for a name that cannot be used or is taken, and for a folder that holds something.
    """
    if way not in WAYS:
        raise InputError(f"--kind {way!r} is no way for a condition to enter{nearest(way, WAYS)}; there are {', '.join(WAYS)}")
    module = f"drivegen_{_checked(name).lower()}"
    if name in (taken := registry.kinds()):
        raise InputError(f"plugin kind {name!r} is taken by {taken[name].origin}; choose another name")
    if find_spec(module) is not None:
        raise InputError(f"a module {module!r} is installed already; choose another name than {name!r}")
    distribution = f"drivegen-{name.lower().replace('_', '-')}"
    folder = Path(distribution) if folder is None else folder
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise InputError(f"{folder} is there already; nothing is written over: give another folder with --out")
    words = {"kind": name, "module": module, "distribution": distribution, "Class": _class_name(name, way)}
    files = {
        f"{module}.py": f"{way}.py", f"tests/test_{name.lower()}.py": "test.py", "pyproject.toml": "pyproject.toml",
        "train.yaml": "train.yaml", "README.md": "README.md",
    }  # fmt: skip
    texts = {path: _filled(_template(template), words) for path, template in files.items()}
    with replacing(folder) as new:
        (new / "tests").mkdir()
        for path, text in texts.items():
            write_atomically(new / path, text.encode())
    return folder


def _checked(name: str) -> str:
    """Return a name that a kind, a module, a class and a distribution can be called; raises InputError otherwise."""
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise InputError(f"plugin name {name!r} is a word of Python's own; use another, such as {name + '_plugin'!r}")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"plugin name {name[:100]!r} must be letters of a to z, digits and underscores, a letter first and no underscore "
            "last, at most 100 of them, such as ego_plan"
        )
    return check_name(name)


def _class_name(name: str, way: str) -> str:
    """Return the class's name, in capitals, and none that the template uses for something else."""
    camel = "".join(part[0].upper() + part[1:] for part in name.split("_") if part)
    return f"{camel}Condition" if re.search(rf"\b{camel}\b", _template(f"{way}.py") + _template("test.py")) else camel


def _template(name: str) -> str:
    return (TEMPLATES / f"{name}.template").read_text(encoding="utf-8")


def _filled(text: str, words: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: words[match[1]], text)

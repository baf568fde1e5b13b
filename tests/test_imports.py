"""Imports point downward only: read from the source, lazy ones inside functions too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
ROOTS = {"drivegen": HOUSE / "drivegen", "drivegen_plugins": HOUSE / "plugins" / "drivegen_plugins"}

LEVELS = (
    ("",),  # the package itself: names its parts and imports them when they are asked for
    ("errors", "hooks", "attention", "source", "stopping"),
    ("geometry", "fourier", "names"),
    ("cameras",),
    ("scene",),
    ("raster", "nuscenes", "plugin", "weights", "strict_yaml", "runtime", "regions"),
    ("world", "registry", "tokens", "regions", "references", "control", "pictured", "data", "config", "inspect_model", "sheet"),
    ("backbone", "construct", "listing", "views"),
    ("host", "card"),
    ("sampling", "lora"),
    ("model", "testing"),
    ("extensions",),
    ("training.cache", "training.order", "training.noise", "training.ema", "training.folder", "training.fast"),
    ("training.base", "training.fill"),
    ("datamodule",),
    ("module",),
    ("pipeline", "manifest", "convert"),
    ("training", "evaluate"),
    ("cli_show", "cli_generate"),
    ("cli",),
)
"""Rooms from the ground up. A module may import what lies on a line above its own, and its own room."""

FOR_PLUGINS = {"attention", "control", "errors", "fourier", "geometry", "pictured", "plugin", "raster", "references", "scene"}
"""What a first-party plugin may import: no more than any third party's."""


def sources() -> dict[str, Path]:
    found = {}
    for package, root in ROOTS.items():
        for path in sorted(root.rglob("*.py")):
            parts = (package, *path.relative_to(root).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = sources()


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what can run; names under TYPE_CHECKING are for readers and type checkers."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from running(other)
        else:
            yield from running(child)


def imported(module: str) -> set[str]:
    """Modules of ours that a module imports anywhere."""
    found = set()
    for node in running(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: a relative import; write the whole name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name.split(".")[0] in ROOTS}


def room(module: str) -> str:
    """The entry of LEVELS that a module of drivegen belongs to: its own, or its package's."""
    inner = module.removeprefix("drivegen").removeprefix(".")
    entries = {name for level in LEVELS for name in level}
    return inner if inner in entries else inner.split(".")[0]


def level(module: str) -> int:
    for number, names in enumerate(LEVELS):
        if room(module) in names:
            return number
    raise AssertionError(f"{module} has no level; give it one in LEVELS, as low as its imports allow")


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] == "drivegen"])
def test_imports_point_downward(module: str) -> None:
    for other in imported(module):
        assert other.split(".")[0] == "drivegen", f"{module} knows a plugin by name: {other}"
        same = room(other) == room(module)
        assert same or level(other) < level(module), f"{module} (level {level(module)}) imports {other} (level {level(other)})"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("drivegen_plugins.")])
def test_plugins_know_the_contract_alone(module: str) -> None:
    for other in imported(module) - {module}:
        assert other.startswith("drivegen."), f"{module} imports the plugin {other}"
        assert room(other) in FOR_PLUGINS, f"{module} imports {other}; plugins may import {', '.join(sorted(FOR_PLUGINS))}"


def loaded(code: str) -> set[str]:
    """Heavy packages that are in memory after some code, in a process of its own."""
    heavy = ("torch", "diffusers", "transformers", "pytorch_lightning", "nuscenes", "cv2", "numba")
    end = f"import sys; print('loaded:', *[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{end}"], capture_output=True, text=True, check=True, timeout=180)
    return set(done.stdout.rsplit("loaded:", 1)[1].split())


def test_importing_drivegen_and_help_are_light() -> None:
    help_screen = "import sys, contextlib, drivegen\nsys.argv = ['drivegen', '--help']\nfrom drivegen.cli import main"
    assert loaded(f"{help_screen}\nwith contextlib.suppress(SystemExit):\n    main()") == set()


def test_scenes_need_no_network_library() -> None:
    names = ("scene", "geometry", "raster", "nuscenes", "world", "register")
    assert "torch" not in loaded("import drivegen\n" + "\n".join(f"drivegen.{name}" for name in names))


def test_what_is_asked_for_is_there() -> None:
    import drivegen

    for name in dir(drivegen):
        assert getattr(drivegen, name) is not None or name.startswith("_"), name
    with pytest.raises(AttributeError, match="Pipelin"):
        drivegen.Pipelin

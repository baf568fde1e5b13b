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

FOUNDATIONS = {"support": set(), "scene": {"support"}, "diffusion": {"support"}}
"""What stands on the ground: rooms that know neither a dataset nor a family of models, and all that they may import."""

FOR_PLUGINS = {"plugin", "raster", "scene", "support"}
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
    """The folder of drivegen that a module is in; the package itself, which names its parts, has none."""
    return [*module.split("."), ""][1]


def rooms() -> dict[str, set[str]]:
    """Each room, and the other rooms that it imports."""
    arrows: dict[str, set[str]] = {}
    for module in MODULES:
        if module.startswith("drivegen."):
            arrows.setdefault(room(module), set()).update(room(other) for other in imported(module) if other != "drivegen")
    return {name: others - {name} for name, others in arrows.items()}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """A circle among arrows, or nothing: what stands on others that are gone goes too, and a circle is what stays."""
    left = {name: set(others) for name, others in arrows.items()}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    if not left:
        return []
    path = [next(iter(sorted(left)))]
    while path.count(path[-1]) == 1:
        path.append(next(iter(sorted(left[path[-1]] & left.keys()))))
    return path[path.index(path[-1]) :]


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_rooms_make_no_circle() -> None:
    found = circle(rooms())
    assert not found, f"rooms import each other in a circle: {' → '.join(found)}"


def test_modules_make_no_circle() -> None:
    found = circle({module: imported(module) - {module} for module in MODULES})
    assert not found, f"modules import each other in a circle: {' → '.join(found)}"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FOUNDATIONS if name in rooms()])
def test_foundations_stand_by_themselves(name: str) -> None:
    assert rooms()[name] <= FOUNDATIONS[name], (
        f"{name}/ is a foundation; it imports {sorted(rooms()[name] - FOUNDATIONS[name])}"
    )


def test_no_room_knows_a_plugin() -> None:
    for module in MODULES:
        if module.split(".")[0] == "drivegen":
            known = [other for other in imported(module) if other.split(".")[0] == "drivegen_plugins"]
            assert not known, f"{module} knows a plugin by name: {known}"


def test_the_package_root_is_empty() -> None:
    assert [path.name for path in (HOUSE / "drivegen").glob("*.py")] == ["__init__.py"], "a module belongs into a room"


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
    help_screen = "import sys, contextlib, drivegen\nsys.argv = ['drivegen', '--help']\nfrom drivegen.cli.main import main"
    assert loaded(f"{help_screen}\nwith contextlib.suppress(SystemExit):\n    main()") == set()


def test_scenes_need_no_network_library() -> None:
    names = ("scene", "raster", "nuscenes", "world", "register")
    assert "torch" not in loaded("import drivegen\n" + "\n".join(f"drivegen.{name}" for name in names))


def test_what_is_asked_for_is_there() -> None:
    import drivegen

    for name in dir(drivegen):
        assert getattr(drivegen, name) is not None or name.startswith("_"), name
    with pytest.raises(AttributeError, match="Pipelin"):
        drivegen.Pipelin

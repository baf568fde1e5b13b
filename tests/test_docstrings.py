"""Docstrings of everything public: present, parameters as a list from three on, and "per" where a thing is counted."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("drivegen", "plugins", "bench")
FEWEST = 3
"""From so many parameters on a docstring lists them."""
FOREIGN = re.compile(
    r"forward|setup|(load_)?state_dict|load_checkpoint|configure_optimizers|transfer_batch_to_device|on_(fit|train|validation"
    r"|save|load|exception)\w*"
)
"""Hooks whose bases are torch's and Lightning's, which document them."""
THINGS = "token weight file mask scale alpha seed generator line number folder evaluation product"
UNITS = (
    "view plugin network camera frame step row token box channel layer side picture image batch core generation chunk second"
)
MANY = "images tokens weights scenes seconds evaluations pixels pictures operations FLOPs once twice"
PER = re.compile(
    rf"\b(?:(?:one|an?|two|three|\d+) (?:{'|'.join(THINGS.split())})s?|{'|'.join(MANY.split())}|[\d.]+ s)"
    rf" an? (?:{'|'.join(UNITS.split())})\b"
)
"""A thing and "a" before what it is counted by reads like a riddle."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def sources() -> dict[str, ast.Module]:
    """Parse every module, by its path in the repository."""
    paths = (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_bytes()) for path in paths}


def public(body: list[ast.stmt], inside: ast.ClassDef | None = None) -> Iterator[tuple[ast.ClassDef | None, ast.AST]]:
    """Yield the public classes and functions of a body with the class that holds each; constructors are among them."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield inside, node
            yield from public(node.body, node)
        elif isinstance(node, Function) and (not node.name.startswith("_") or (inside and node.name == "__init__")):
            yield inside, node


def parameters(function: Function) -> list[str]:
    """Name a function's parameters without self and cls."""
    found = function.args
    named = [each.arg for each in (*found.posonlyargs, *found.args, *found.kwonlyargs)]
    more = [each.arg for each in (found.vararg, found.kwarg) if each is not None]
    return [*(named[1:] if named[:1] in (["self"], ["cls"]) else named), *more]


def listed(docstring: str) -> list[str]:
    """Name what the ``Args:`` list of a docstring documents; one line may name several, ``x, y: …``."""
    _, _, below = docstring.partition("Args:\n")
    rows = re.findall(r"^    (\w+(?:, \w+)*): ", below, re.MULTILINE)
    return [name for row in rows for name in row.split(", ")]


def is_command(function: Function) -> bool:
    """Tell a function of the command line, whose options each have a help text."""
    return any(re.search(r"command|guarded", ast.unparse(decorator)) for decorator in function.decorator_list)


def is_overload(function: Function) -> bool:
    """Tell a declaration for type checkers, or the setter of a property."""
    return any(re.search(r"overload|setter", ast.unparse(decorator)) for decorator in function.decorator_list)


def documented_methods(modules: dict[str, ast.Module]) -> dict[str, tuple[set[str], list[str]]]:
    """Map each class name to its documented methods and the names of its bases."""
    found: dict[str, tuple[set[str], list[str]]] = {}
    for tree in modules.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                methods = {each.name for each in node.body if isinstance(each, Function) and ast.get_docstring(each)}
                bases = [re.split(r"[.\[]", ast.unparse(base).removeprefix("pl."))[0] for base in node.bases]
                found.setdefault(node.name, (set(), []))
                found[node.name][0].update(methods)
                found[node.name][1].extend(bases)
    return found


def inherits(name: str, method: str, classes: dict[str, tuple[set[str], list[str]]]) -> bool:
    """Tell whether a base of a class documents a method."""
    bases = classes[name][1] if name in classes else []
    return any(base in classes and (method in classes[base][0] or inherits(base, method, classes)) for base in bases)


def test_public_functions_and_classes_have_docstrings() -> None:
    modules = sources()
    classes = documented_methods(modules)
    missing = []
    for path, tree in modules.items():
        for inside, node in public(tree.body):
            if ast.get_docstring(node) or node.name == "__init__" or (isinstance(node, Function) and is_overload(node)):
                continue
            if inside and (inherits(inside.name, node.name, classes) or (inside.bases and FOREIGN.fullmatch(node.name))):
                continue
            missing.append(f"{path}:{node.lineno} {f'{inside.name}.' if inside else ''}{node.name}")
    assert not missing, "without a docstring: " + "; ".join(missing)


def test_docstrings_list_three_parameters_or_more() -> None:
    problems = []
    for path, tree in sources().items():
        for inside, node in public(tree.body):
            if not isinstance(node, Function) or is_command(node) or is_overload(node):
                continue
            own = ast.get_docstring(node)
            docstring = (own or "") + (ast.get_docstring(inside) or "" if node.name == "__init__" and inside else "")
            names = parameters(node)
            if not docstring or len(names) < FEWEST:
                continue
            absent = [name for name in names if name not in listed(docstring)]
            unknown = [name for name in listed(own or "") if name not in names]
            what = f"{path}:{node.lineno} {f'{inside.name}.' if inside else ''}{node.name}"
            problems += [f"{what} does not list {', '.join(absent)}"] if absent else []
            problems += [f"{what} lists {', '.join(unknown)}, which it does not take"] if unknown else []
    assert not problems, "Args: " + "; ".join(problems)


def test_what_is_counted_is_counted_per_unit() -> None:
    texts = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    texts += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.yaml"), ROOT / "README.md"]
    found = [
        f"{path.relative_to(ROOT)}:{number} {match[0]!r}"
        for path in sorted(texts)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in PER.finditer(line)
    ]
    assert not found, "write per: " + "; ".join(found)


def test_the_pattern_knows_what_it_is_for() -> None:
    for wrong in (
        "one token a view",
        "a weight a plugin",
        "a file a network",
        "a mask a plugin",
        "27 s a step",
        "twice a step",
    ):
        assert PER.search(wrong), wrong
    for right in ("one token per view", "a mask of a plugin", "give the plugin a view", "tokens of a picture"):
        assert not PER.search(right), right

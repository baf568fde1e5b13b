"""YAML text as plain values: names, text, numbers, true, false, null, groups and lists; the rest of the language is refused."""

from __future__ import annotations

import re
from typing import Any

import yaml

from drivegen.support.errors import InputError

MAX_CHARACTERS = 100_000
MAX_DEPTH = 40
MAX_DIGITS = 40
"""Digits of a number; the largest that a setting takes, a seed, has 19."""

_SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    "float": (r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
              r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+0123456789."),
}  # fmt: skip
"""What a word without quotes may be besides text, and its first characters. Dates, base-60 numbers (1:30), octal numbers (010)
and merge keys (<<) are not among them: they surprise who writes a version, an hour or a token."""

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses anchors, tags, duplicate keys and depth, and reads ``1e-4`` as the number that it is."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # its own, not SafeLoader's
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refused("anchors and aliases are not allowed; write the value out", event)
        if tag := getattr(event, "tag", None):
            raise _refused(f"the tag {tag.replace('tag:yaml.org,2002:', '!!')!r} is not allowed; write the plain value", event)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _refused(f"nested more than {MAX_DEPTH} deep", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refused(f"the key {key!r} is not a name", key_node)
            if key == "<<":
                raise _refused("merge keys (<<) are not allowed; write the settings out", key_node)
            if key in seen:
                raise _refused(f"the key {key[:80]!r} comes twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def number(self, node: Any) -> int | float:
        """Read a number that a plain word was found to be."""
        text = node.value.replace("_", "")
        if sum(character.isdigit() for character in text) > MAX_DIGITS:
            raise _refused(f"a number of more than {MAX_DIGITS} digits", node)
        if node.tag.endswith("int"):
            return int(text, 16 if "x" in text else 10)
        lowered = text.lower().lstrip("+")
        return float(lowered.replace(".inf", "inf").replace(".nan", "nan"))

    def text(self, node: Any) -> str:
        """Read a text without characters that neither a screen nor a file name can hold."""
        if found := _UNPRINTABLE.search(node.value):
            raise _refused(f"the character {found.group()!r} is not allowed in text", node)
        return str(node.value)


for _name, (_pattern, _first) in _SCALARS.items():
    _characters = [*_first.replace("\0", ""), *([""] if "\0" in _first else [])]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), _characters)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.text)


def _refused(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def parse(text: str, where: str) -> Any:
    """Parse YAML text into plain values; raises InputError with line and column."""
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{where} has more than {MAX_CHARACTERS:,} characters, too many for a config")
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{where}, line {line}: the character {chr(int(error.character))!r} is not allowed") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise InputError(f"{where}{at}: {getattr(error, 'problem', None) or error}") from error
    except (RecursionError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        # What PyYAML's scanner and constructors raise where they trust their input.
        raise InputError(f"{where} cannot be read as YAML: {type(error).__name__}: {str(error)[:200]}") from error

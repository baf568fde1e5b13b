"""YAML that would run code, fill memory or end in a traceback is refused in a sentence with its place, and at once."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest

from drivegen.support import strict_yaml
from drivegen.support.errors import InputError


def read(path: Path, text: str, *overrides: str) -> object:
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return strict_yaml.read(path, overrides)


DOUBLING = [
    "a0: xx\n" + "\n".join(f"a{i + 1}: ${{a{i}}}${{a{i}}}" for i in range(40)),
    "a0: [x]\n" + "\n".join(f"a{i + 1}: ['${{a{i}}}', '${{a{i}}}']" for i in range(40)),
    "a0: {x: 1}\n" + "\n".join(f"a{i + 1}: {{p: '${{a{i}}}', q: '${{a{i}}}'}}" for i in range(40)),
    "a: '" + "${" * 50_000 + "'",
    "a: '" + "${" * 40_000 + "}" * 15_000 + "'",
    "a: '" + "${b" * 20_000 + "}" * 20_000 + "'",
    "a: '" + "${x:" * 20_000 + "'",
    f"b: {'y' * 100}\na: '{'${b}' * 20_000}'",
    "a: ${b}\nb: ${c}\nc: ${a}",
    "a: {b: '${a}'}",
    "a: ['${a}']",
    "a: ${.a}",
    "a: " + "[" * 40_000,
    "a: " + "{a: " * 20_000,
    "x: " + "9" * 90_000,
]


@pytest.mark.slow
@pytest.mark.parametrize("text", DOUBLING, ids=range(len(DOUBLING)))
def test_what_grows_or_goes_in_circles_is_refused_at_once(tmp_path: Path, text: str) -> None:
    begun = time.process_time()
    with pytest.raises(InputError, match=r"c\.yaml"):
        read(tmp_path / "c.yaml", text)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    "value",
    ["!!int abc", "!!int 1", "!!map [1]", "!!seq {a: 1}", "!!float x", "!!timestamp 2001-01-01", "!!binary '='", "!!set {a}",
     "!!omap [a]", "!!pairs [1]", "!!null x", "!!bool x", "!!str [1]", "! x", "!x y", "!<tag:yaml.org,2002:int> z",
     "!!python/name:os.system", "&a 1", "*a", "{<<: {a: 1}}", "{<<: [1]}", "9" * 5000, "-" + "9" * 50, "1." + "9" * 5000,
     "[" * 50 + "]" * 50, "{1: 2}", "{null: 2}", "{[1]: 2}", r'"\0"', r'"\ud800"', r'"\x1b[31m"', "\x00",
     "\x1b", "\ufffe", "@x", "`x", "%x", "'open", r'"\q"', "a\n---\nb", "{a: 1, a: 2}", "[1, 2"],
)  # fmt: skip
def test_what_is_no_plain_value_is_refused_with_its_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError, match=r"c\.yaml, line [2-5]"):
        read(tmp_path / "c.yaml", f"a: 1\nb:\n  c: {value}\n")


@pytest.mark.parametrize("value", ["1e999", ".inf", "-.inf", ".nan", "[1, .nan]", "{d: -1e400}"])
def test_no_number_is_infinite(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError, match=r"b\.c.* must be finite"):
        read(tmp_path / "c.yaml", f"b:\n  c: {value}\n")


@pytest.mark.parametrize(
    ("written", "value"),
    [("2001-99-99", "2001-99-99"), ("2001-01-01", "2001-01-01"), ("1:30", "1:30"), ("010", "010"), ("1e5", 1e5), ("+1", 1),
     ("-1_000", -1000), ("0x1F", 31), (".5", 0.5), ("5.", 5.0), ("._", "._"), ("-", "-"), ("=", "="), ("~", None), ("", None),
     ("on", True), ("NO", False), ("'1'", "1"), ("v1.0-mini", "v1.0-mini"), ("[1, [a]]", [1, ["a"]]), ("Zürich", "Zürich")],
)  # fmt: skip
def test_plain_values_are_what_they_look_like(tmp_path: Path, written: str, value: object) -> None:
    if written == "-":
        written = "'-'"
    found = read(tmp_path / "c.yaml", f"a: {written}\n")
    assert found == {"a": value}
    assert type(found["a"]) is type(value)  # type: ignore[index]


def test_interpolations_name_settings_from_the_root_beside_and_above(tmp_path: Path) -> None:
    text = r"""
a: {n: 3, name: runs, list: [x, {y: 7}], flag: true}
b: {whole: "${a.n}", text: "${a.name}/${a.n}-${a.flag}", near: "${.whole}", above: "${..a.name}", group: "${a}"}
c: ["${a.list.0}", "${a.list[1].y}", "${b.group.list[0]}", "\\${kept}"]
d: name
"""
    found = read(tmp_path / "c.yaml", text, "a.n=4")
    group = {"n": 4, "name": "runs", "list": ["x", {"y": 7}], "flag": True}
    assert found == {
        "a": group, "b": {"whole": 4, "text": "runs/4-True", "near": 4, "above": "runs", "group": group},
        "c": ["x", 7, "x", "${kept}"], "d": "name",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["nowhere", "a.b.c", "", ".", "..", "a.", "a[0]", "l[7]", "l[99999999999999]", "l.x", "oc.env:HOME"]
)
def test_what_an_interpolation_does_not_find_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"c\.yaml: z: "):
        read(tmp_path / "c.yaml", f"a: {{b: 1}}\nl: [1]\nz: '${{{name}}}'\n")


@pytest.mark.parametrize(
    "override",
    [
        "a=" + "9" * 5000,
        "a=!!int x",
        "a=*b",
        "a=[1",
        "a.b=1",
        "=1",
        "a..b=1",
        "a",
        ".".join("x" * 100) + "=1",
        "a=\udcff",
        "a\x1b=1",
    ],
)
def test_overrides_are_read_as_strictly(tmp_path: Path, override: str) -> None:
    with pytest.raises(InputError, match="override"):
        read(tmp_path / "c.yaml", "a: 1\n", override)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("/dev/zero"), tmp_path / "a\0b"):
        with pytest.raises(InputError, match="cannot read the config"):
            strict_yaml.read(path)


def test_mutations_end_in_values_or_in_a_sentence(tmp_path: Path) -> None:
    text = "output: runs/${a.b}\na: {b: 1, c: [1.5, 'x', null]}\nd:\n  - e: true\n    f: \"g\"\n"
    pieces = [
        "!!",
        "&a ",
        "*a",
        "${",
        "}",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "<<",
        "\t",
        '"',
        "'",
        "%",
        "1e9",
        "0x",
        "\\",
        "|",
        ">",
        "?",
        "\0",
    ]
    rng = random.Random(4)
    for _ in range(200):
        mutated = list(text)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(mutated))
            mutated[at : at + rng.randrange(3)] = rng.choice(pieces)
        with contextlib.suppress(InputError):
            assert isinstance(read(tmp_path / "c.yaml", "".join(mutated)), dict)

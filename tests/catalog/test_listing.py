"""What is told of plugins that are not imported: the same that importing them would tell, or that it is not known."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drivegen.catalog import listing, registry
from drivegen.support.errors import InputError
from tests.catalog.test_registry import install

BODY = "    '''The hour.'''\n    def encode(self, arrays, keep): ...\n"
CLOCK = f"from drivegen.plugin import Plugin\nclass Clock(Plugin):\n{BODY}"
GOOD = {
    "re-exported": {"__init__.py": "from third.clock import Clock", "clock.py": CLOCK},
    "re-exported from beside": {"__init__.py": "from .clock import Clock as Clock", "clock.py": CLOCK},
    "through two packages": {
        "__init__.py": "from .inner import Clock", "inner/__init__.py": "from ..clock import Hour as Clock",
        "clock.py": CLOCK.replace("Clock", "Hour"),
    },
    "starred": {"__init__.py": "from .other import *\nfrom .clock import *", "clock.py": CLOCK, "other.py": "x = 1"},
    "under try": {"__init__.py": f"try:\n    import no_such\nexcept ImportError:\n    no_such = None\n{CLOCK}"},
    "in a try": {
        "__init__.py": "try:\n    from .fast import Clock\nexcept ImportError:\n    from .clock import Clock",
        "clock.py": CLOCK,
    },
    "under if": {"__init__.py": "import sys\nif sys.version_info > (3,):\n    from .clock import Clock", "clock.py": CLOCK},
    "assigned": {"__init__.py": f"{CLOCK.replace('Clock', 'Hour')}\nClock = Hour"},
    "by its module": {"__init__.py": f"import drivegen.plugin as p\nclass Clock(p.Plugin):\n{BODY}"},
    "of a family": {
        "__init__.py": "from . import clock\nclass Clock(clock.Clock):\n    '''The hour.'''", "clock.py": CLOCK,
    },
    "beside a mixin": {"__init__.py": CLOCK.replace("(Plugin)", "(Plugin, object)")},
}  # fmt: skip
BAD = {
    "a name that the contract lacks": ("from drivegen.plugin import Plugin, Signl\n", "imports 'Signl' from 'drivegen.plugin'"),
    "a module that drivegen lacks": ("from drivegen.plugins import Plugin\n", "imports 'drivegen.plugins', which is not there"),
    "a module that it lacks itself": ("from third.missing import x\n", "line 1 imports 'third.missing', which is not there"),
    "a name that it lacks itself": ("from .other import y\n", "line 1 imports 'y' from 'third.other'"),
    "a module of another package": ("import yaml.nothing\n", "line 1 imports 'yaml.nothing', which is not there"),
}  # fmt: skip
NO_PLUGIN = {
    "of nothing": "class Clock: pass", "of object": "class Clock(object): pass",
    "a torch module": "from torch import nn\nclass Clock(nn.Module): pass", "a function": "def Clock(): pass",
    "a module": "import drivegen.plugin as Clock",
}  # fmt: skip


@pytest.fixture
def third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Give a function that installs a package `third` with a plugin `clock`, and returns what is listed of it."""

    def listed(sources: dict[str, str]) -> listing.Listed:
        install(tmp_path, "third", "clock", "third:Clock", sources)
        monkeypatch.syspath_prepend(tmp_path)
        before = set(sys.modules)
        (found,) = (entry for entry in listing.listed() if entry.kind == "clock")
        assert set(sys.modules) == before
        return found

    yield listed
    for name in [name for name in sys.modules if name.split(".")[0] == "third"]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.slow
@pytest.mark.parametrize("sources", GOOD.values(), ids=GOOD)
def test_classes_are_found_where_imports_find_them(third, sources: dict[str, str]) -> None:
    found = third(sources)
    assert (found.problem, found.unchecked) == ("", "")
    assert (found.summary, found.hooks) == ("The hour.", ("encode",))
    assert registry.load("clock").__doc__ == "The hour."


@pytest.mark.slow
@pytest.mark.parametrize(("first", "said"), BAD.values(), ids=BAD)
def test_an_import_that_fails_is_named(third, first: str, said: str) -> None:
    found = third({"__init__.py": first + CLOCK, "other.py": "x = 1"})
    assert said in found.problem
    with pytest.raises(InputError, match="cannot be imported"):
        registry.load("clock")


def test_an_import_that_fails_in_what_comes_along_is_named(third) -> None:
    found = third(
        {"__init__.py": "from .clock import Clock", "clock.py": f"from .other import y\n{CLOCK}", "other.py": "x = 1"}
    )
    assert "clock.py, line 1 imports 'y' from 'third.other'" in found.problem
    with pytest.raises(InputError, match="cannot be imported"):
        registry.load("clock")


@pytest.mark.slow
@pytest.mark.parametrize("source", NO_PLUGIN.values(), ids=NO_PLUGIN)
def test_what_is_no_plugin_is_disabled(third, source: str) -> None:
    assert third({"__init__.py": source}).problem
    with pytest.raises(InputError, match=r"is not a drivegen\.plugin\.Plugin"):
        registry.load("clock")


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        "from drivegen.plugin import Plugin\nClock = type('Clock', (Plugin,), {})",
        "from drivegen.plugin import Plugin\nglobals()['Clock'] = type('Clock', (Plugin,), {})",
        "def __getattr__(name):\n    from drivegen.plugin import Plugin\n    return type(name, (Plugin,), {})",
        "import drivegen.plugin\ndef base():\n    return drivegen.plugin.Plugin\nclass Clock(base()): pass",
    ],
)
def test_what_only_running_tells_is_not_checked(third, source: str) -> None:
    found = third({"__init__.py": source})
    assert not found.problem
    assert "known only when it runs" in found.unchecked
    assert registry.load("clock")
    from drivegen.cli.main import app

    shown = CliRunner().invoke(app, ["plugins"]).output
    assert "not checked" in shown
    assert "disabled" not in shown

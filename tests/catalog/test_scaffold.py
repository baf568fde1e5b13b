"""Packages of new conditions: each kind keeps every promise as it is written, and nothing is written over."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drivegen.catalog.scaffold import WAYS, new_package
from drivegen.cli.main import app
from drivegen.sampling import Sampling
from drivegen.saved import model
from drivegen.support.errors import InputError
from drivegen.testing import CHECKS
from drivegen.training import config
from tests.catalog.test_registry import install
from tests.tiny_hosts import SIZE, tiny_host


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a package's folder importable, with the metadata that installing it would write."""
    with open(folder / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    ((kind, target),) = project["entry-points"]["drivegen.plugins"].items()
    install(folder, project["name"].replace("-", "_"), kind, target, {})
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture(params=[pytest.param(way, marks=[] if way == "tap" else pytest.mark.slow) for way in WAYS])
def package(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    done = runner.invoke(app, ["plugins", "new", f"new_{request.param}", "--kind", request.param])
    assert done.exit_code == 0, done.output
    yield installed(tmp_path / f"drivegen-new-{request.param}", monkeypatch)
    sys.modules.pop(f"drivegen_new_{request.param}", None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose networks are smaller than the embedded one's."""
    folder = tmp_path_factory.mktemp("small") / "model"
    return model.save(tiny_host(("text",)), folder, Sampling(sampler="ddim", steps=2), image_size=SIZE)


@pytest.mark.slow
def test_it_keeps_every_promise_as_it_is_written(package: Path, small: Path) -> None:
    kind = package.name.removeprefix("drivegen-").replace("-", "_")
    on = [] if kind == "new_tap" else ["--model", str(small)]  # one of them on the networks of the embedded model
    done = CliRunner().invoke(app, ["plugins", "check", kind, *on])
    assert done.exit_code == 0, done.output
    assert f"{kind}: {len(CHECKS)} of {len(CHECKS)} promises hold, on two built-in frames" in done.output
    shown = CliRunner().invoke(app, ["plugins", "show", kind])
    assert "input: none, it reads the frame" in shown.output
    # Its own test is the battery; its training is understood, and every command of its page is one.
    test = (package / "tests" / f"test_{kind}.py").read_text()
    assert "parametrize" in test
    compile(test, "test", "exec")
    assert config.load(package / "train.yaml").plugins[kind].kind == kind
    page = (package / "README.md").read_text()
    assert "{{" not in page
    assert re.findall(rf"^drivegen plugins check {kind}$", page, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text", "'text' is taken by drivegen"),
        ("class", "'class' is a word of Python's own"),
        ("match", "'match' is a word of Python's own"),
        ("values", "'values' is taken by torch's modules"),
        ("my-plan", "must be letters of a to z"),
        ("9lives", "must be letters of a to z"),
        ("plan_", "must be letters of a to z"),
        ("größe", "must be letters of a to z"),
        ("../plan", "must be letters of a to z"),
        ("", "must be letters of a to z"),
        ("a" * 200, "must be letters of a to z"),
        ("plugins", "module 'drivegen_plugins' is installed already"),
    ],
)
def test_names_that_cannot_be_used(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        new_package(name, "tokens", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_unknown_way_is_refused_with_the_ways(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'token' is no way .*did you mean 'tokens'.*tokens, residuals, tap, raster"):
        new_package("plan", "token", tmp_path / "new")


@pytest.mark.parametrize("what", ["file", "folder", "link", "in a link"])
def test_nothing_is_written_over(what: str, tmp_path: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    victim.mkdir()
    if what == "file":
        out.write_text("mine")
    elif what == "folder":
        out.mkdir()
        (out / "pyproject.toml").write_text("mine")
    else:
        if what == "in a link":
            (victim / "mine").write_text("mine")
        out.symlink_to(victim)
    before = sorted((path.name, path.is_file() and path.read_text()) for path in tmp_path.rglob("*"))
    with pytest.raises(InputError, match="is there already; nothing is written over"):
        new_package("plan", "tokens", out)
    assert sorted((path.name, path.is_file() and path.read_text()) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["plugin", "signal", "joined"])
def test_a_class_is_never_called_as_something_else(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_package(name, "raster", tmp_path / "new")
    monkeypatch.syspath_prepend(folder)
    module = importlib.import_module(f"drivegen_{name}")
    assert getattr(module, f"{name.capitalize()}Condition").__mro__[1].__name__ == "Plugin"
    del sys.modules[f"drivegen_{name}"]

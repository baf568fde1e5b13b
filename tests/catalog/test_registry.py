"""Kinds of plugins that other packages bring, and the names that plugins are held under."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.support.errors import InputError
from drivegen.support.names import check_name
from drivegen.training import config
from tests.tiny_models import tiny_backbone


def install(folder: Path, package: str, kind: str, target: str, sources: dict[str, str]) -> None:
    """Write a package of modules and the metadata that offers one class of it as a plugin."""
    for name, source in sources.items():
        path = folder / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[drivegen.plugins]\n{kind} = {target}\n")


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "raise SystemExit", "exit()"])
def test_a_plugin_that_ends_the_process_on_import_breaks_itself_alone(tmp_path: Path, monkeypatch, code: str) -> None:
    install(tmp_path, "leaving", "leaver", "leaving:Mine", {"__init__.py": code})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"'leaver' \(leaving 1.0\) cannot be imported: SystemExit"):
        registry.load("leaver")
    sys.modules.pop("leaving", None)
    assert registry.load("text")


@pytest.mark.parametrize("name", ["type", "values", "train", "forward", "training", "keys", "half"])
def test_names_of_torchs_modules_are_refused(name: str) -> None:
    host = Host(tiny_backbone())
    before = set(dir(host.plugins))
    with pytest.raises(InputError, match=f"{name!r} is taken by torch's modules"):
        host.add_plugin(name, registry.load("camera")())
    assert not host.plugins
    assert set(dir(host.plugins)) == before


@pytest.mark.parametrize("name", ["", "a b", "a.b", "1st", "a/b"])
def test_names_are_identifiers(name: str) -> None:
    with pytest.raises(InputError, match="must be an identifier"):
        check_name(name)


@pytest.mark.parametrize("name", ["text", "camera", "Ähre", "_x", "plugins", "host", "layout_2"])
def test_other_names_hold_a_plugin(name: str) -> None:
    assert check_name(name) == name


def test_a_configuration_is_refused_before_any_work(tmp_path: Path) -> None:
    text = "output: run\nplugins: {NAME: {kind: text}}\nmodel: {base: tiny}\n"
    text += "data: {roots: [x], size: [8, 8]}\ntrain: {steps: 1}\n"
    for name, said in (("values", "taken by torch's modules"), ("a-b", "must be an identifier")):
        path = tmp_path / "run.yaml"
        path.write_text(text.replace("NAME", name))
        with pytest.raises(InputError, match=said):
            config.load(path)


RIVAL = "from drivegen.plugin import Plugin\nclass Text(Plugin):\n    '''Another text.'''\n"


@pytest.mark.slow
def test_a_package_that_claims_a_name_of_drivegens_is_disabled_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    """The embedded model loads, with drivegen's own class, and the newcomer is listed with its reason."""
    from drivegen.catalog import listing
    from drivegen.saved import model

    install(tmp_path, "rival_pkg", "text", "rival_pkg:Text", {"__init__.py": RIVAL})
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.load("text").__module__ == "drivegen_plugins.text"
    mine, theirs = (entry for entry in listing.listed() if entry.kind == "text")
    assert (mine.problem, mine.origin.split()[0]) == ("", "drivegen")
    assert "claimed more than once" in theirs.problem
    assert "keeps it; ask the other's author for another name" in theirs.problem
    assert theirs.origin == "rival_pkg 1.0"
    if (model.TINY / "drivegen.json").is_file():
        assert type(model.load("tiny").host.plugin("text")).__module__ == "drivegen_plugins.text"


def test_a_name_of_two_strangers_is_settled_by_what_a_model_was_saved_with(tmp_path: Path, monkeypatch) -> None:
    for package in ("first_pkg", "second_pkg"):
        install(tmp_path, package, "clash", f"{package}:Text", {"__init__.py": RIVAL})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"'clash' is disabled: the name is claimed more than once: .*uninstall one"):
        registry.load("clash")
    second = registry.load("clash", "second-pkg 0.9")
    assert second.__module__ == "second_pkg"
    assert registry.entry_of(second()).origin == "second_pkg 1.0"
    with pytest.raises(InputError, match="claimed more than once"):
        registry.load("clash", "third_pkg 1.0")


@pytest.mark.parametrize(
    ("saved_with", "said"),
    [
        ("drivegen-sketch 0.1.0", "saved with drivegen-sketch 0.1.0: pip install drivegen-sketch$"),
        ("drivegen 99.0", r"drivegen \S+ does not offer it: pip install drivegen==99\.0$"),
        ("this process", "import the module that registers it first"), ("", "there are bev_map"),
        ("x; rm -rf / 1.0", "there are bev_map"), ("--upgrade 1.0", "there are bev_map"), ("unknown", "there are bev_map"),
    ],
)  # fmt: skip
def test_a_package_that_is_not_installed_is_named(saved_with: str, said: str) -> None:
    with pytest.raises(InputError, match=f"no plugin kind 'sketch_of_a_test' is installed; .*{said}"):
        registry.load("sketch_of_a_test", saved_with)

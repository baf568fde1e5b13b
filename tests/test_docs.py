"""What README and docs show is done here: Python is run, commands and settings are parsed, links are followed."""

from __future__ import annotations

import re
import shlex
import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import typer

from drivegen import world
from drivegen.catalog import objectives, registry, samplers, tuners
from drivegen.cli.main import app
from drivegen.plugin.hooks import HOOKS
from drivegen.saved import model
from drivegen.support import strict_yaml
from drivegen.testing import CHECKS, Case
from drivegen.testing.objectives import CHECKS as objective_checks
from drivegen.testing.samplers import CHECKS as sampler_checks
from drivegen.testing.tuners import CHECKS as tuner_checks
from drivegen.training import config

HOUSE = Path(__file__).parents[1]
PAGES = [HOUSE / "README.md", HOUSE / "CHANGELOG.md", *sorted((HOUSE / "docs").rglob("*.md"))]
EMBEDDED = (model.TINY / "drivegen.json").is_file()
"""Whether the embedded model is there; blocks of ```python model need it."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the words after it, the line that it begins on, its text."""

    language: str
    words: tuple[str, ...]
    line: int
    text: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(\w+)([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found.append(Block(match[1], tuple(match[2].split()), text[: match.start()].count("\n") + 2, match[3]))
    return found


def name_of(page: Path) -> str:
    return page.relative_to(HOUSE).as_posix()


def with_blocks(*languages: str) -> list[Path]:
    return [page for page in PAGES if any(block.language in languages for block in blocks(page))]


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset that the pages read: `drivegen world data/city --scenes 2 --frames 2`, in small."""
    root = tmp_path_factory.mktemp("docs") / "city"
    world.write(root, scenes=2, frames=2, seed=0, size=(64, 112), workers=1)
    return root


def in_small(*given: Any, **named: Any) -> model.Model:
    """Load a model that generates pictures of a quarter, in two steps where nothing else is said."""
    loaded = model.load(*given, **named)
    return replace(loaded, image_size=(64, 112), sampling=loaded.sampling.replaced(steps=2))


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks("python"), ids=name_of)
def test_python_runs(page: Path, city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("drivegen.pipeline.pipeline.load", in_small)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "city").symlink_to(city)
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(HOUSE / name)
    monkeypatch.setattr(registry, "_local", dict(registry._local))
    for offered in (objectives.OFFERS, samplers.OFFERS, tuners.OFFERS):
        monkeypatch.setattr(offered, "local", dict(offered.local))
    # A module of its own, so that classes of the page can be pickled.
    module = types.ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    left_out = 0
    for block in blocks(page):
        if block.language != "python":
            continue
        assert set(block.words) <= {"model"}, f"{page}, line {block.line}: unknown words {block.words}"
        if "model" in block.words and not EMBEDDED:
            left_out += 1
            continue
        # Line numbers are the page's.
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), module.__dict__)
    if left_out:
        pytest.skip(f"{left_out} blocks of {name_of(page)} need the embedded model, which is not at {model.TINY}")


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in blocks(page):
            if block.language in ("bash", "sh"):
                lines = block.text.replace("\\\n", " ").splitlines()
                found += [(name_of(page), line) for line in lines if line.strip() and not line.startswith("#")]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_are_understood(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "drivegen":
        parse(words[1:])
    elif words[0] in ("bash", "python") and words[1] != "-m":
        script = (HOUSE / words[1]).read_text(encoding="utf-8")
        for option in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
            assert option in script or option[2:].removeprefix("no-").replace("-", "_") in script, f"{words[1]} has no {option}"
    else:
        assert words[0] in ("git", "cd", "pip", "source", "tensorboard", "python"), f"{page}: what is {words[0]}?"


def parse(arguments: list[str]) -> None:
    """Let the command line take the arguments apart, and the config schema a training's settings."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("drivegen", arguments[:1] if arguments[0].startswith("-") else list(arguments))
    while hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        if not rest:
            assert command.invoke_without_command, f"{context.command_path} needs a command"
            return
        _, command, arguments = command.resolve_command(context, rest)
        context = command.make_context(command.name, list(arguments), parent=context)
    if command.name == "train":
        path = HOUSE / str(context.params["config"])
        if path.parent.name == "configs":
            config.load(path, context.params["overrides"] or ())


@pytest.mark.parametrize("page", with_blocks("yaml"), ids=name_of)
def test_settings_are_understood(page: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml" and block.text.startswith("output:"):
            config_of = strict_yaml.build(config.Config, strict_yaml.parse(block.text, f"{name_of(page)}, line {block.line}"))
            assert config_of.train.steps > 0


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if target == "docs/images/demo.png" and not EMBEDDED:
            continue  # made with the embedded model, and committed with it
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name_of(page)} points to {target}, which is not there"


def slugs(page: Path) -> set[str]:
    """The anchors that GitHub and the site give the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", each).lower()).replace(" ", "-") for each in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_anchors_are_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text):
        other = (page.parent / target) if target else page
        if "://" not in target and other.suffix == ".md" and "{command-line}" not in other.read_text(encoding="utf-8"):
            assert anchor in slugs(other), f"{name_of(page)} points to #{anchor} of {name_of(other.resolve())}, which has none"


def test_every_page_is_in_the_index() -> None:
    lists = [HOUSE / "docs/index.md", HOUSE / "docs/reference/api.md"]
    listed = {
        (page.parent / line).with_suffix("").resolve()
        for page in lists
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
        if line and not line.startswith(":")
    }
    pages = [*(HOUSE / "docs").rglob("*.md"), *(HOUSE / "docs").rglob("*.ipynb")]
    missing = [
        name_of(page)
        for page in pages
        if page != HOUSE / "docs/index.md" and page.parent.name != "decisions" and page.with_suffix("").resolve() not in listed
    ]
    assert not missing, f"add to a toctree of docs/index.md: {', '.join(missing)}"
    decisions = {page.name for page in (HOUSE / "docs/decisions").glob("*.md")} - {"README.md"}
    unlisted = decisions - set(
        re.findall(r"\]\(([\w-]+\.md)\)", (HOUSE / "docs/decisions/README.md").read_text(encoding="utf-8"))
    )
    assert not unlisted, f"add to the table of docs/decisions/README.md: {', '.join(sorted(unlisted))}"


def test_the_gallery_shows_every_condition() -> None:
    text = (HOUSE / "docs/gallery.md").read_text(encoding="utf-8")
    for kind, entry in registry.kinds().items():
        if entry.target.startswith("drivegen_plugins."):
            _, heading, section = text.partition(f"### `{kind}`\n")
            shown = heading and re.search(r"\]\(images/|Nothing to draw", section.partition("\n### ")[0])
            assert shown, f"docs/gallery.md lacks {kind}: python scripts/make_gallery.py {kind}, then a section"


def readme_plugin() -> Block:
    return next(b for b in blocks(HOUSE / "README.md") if b.language == "python" and "@register" in b.text)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_the_plugin_of_the_readme_keeps_the_contract(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = readme_plugin()
    assert len(block.text.splitlines()) <= 20, "the README promises twenty lines"
    monkeypatch.setattr(registry, "_local", dict(registry._local))
    module = types.ModuleType("readme_plugin")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(block.text, "README.md", "exec"), module.__dict__)
    (cls,) = (v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__)
    CHECKS[check](Case(cls))


def test_the_readme_names_every_condition() -> None:
    text = (HOUSE / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    ours = [kind for kind, entry in registry.kinds().items() if entry.target.startswith("drivegen_plugins.")]
    assert sorted(rows) == sorted(ours)
    assert text.count("<!-- measured:begin -->") == text.count("<!-- measured:end -->") == 1


def test_the_contract_table_names_every_hook() -> None:
    rows = re.findall(r"^\| `(\w+)\(", (HOUSE / "docs" / "plugins.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(HOOKS)


def test_the_battery_is_told_in_full() -> None:
    text = (HOUSE / "docs" / "plugins.md").read_text(encoding="utf-8").partition("## Test it")[2]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(CHECKS)


def test_the_samplers_are_told_in_full() -> None:
    text, _, battery = (HOUSE / "docs" / "sampling.md").read_text(encoding="utf-8").partition("## Your own")
    rows = "".join(re.findall(r"^\|( `\S.*?) \|", text, re.MULTILINE))
    ours = [entry.kind for entry in samplers.offers() if entry.target.startswith("drivegen.")]
    assert sorted(re.findall(r"`([\w+]+)`", rows)) == sorted(ours)
    assert re.findall(r"^\| `(\w+)` \|", battery, re.MULTILINE) == list(sampler_checks)


def test_the_objectives_are_told_in_full() -> None:
    text, _, battery = (HOUSE / "docs" / "objectives.md").read_text(encoding="utf-8").partition("## Your own")
    ours = [entry.kind for entry in objectives.offers() if entry.target.startswith("drivegen.")]
    assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == sorted(ours)
    assert re.findall(r"^\| `(\w+)` \|", battery.partition("Test it")[2], re.MULTILINE) == list(objective_checks)


def test_the_tuners_are_told_in_full() -> None:
    text, _, battery = (HOUSE / "docs" / "tuners.md").read_text(encoding="utf-8").partition("## Training one")
    ours = [entry.kind for entry in tuners.offers() if entry.target.startswith("drivegen.")]
    assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == sorted(ours)
    assert re.findall(r"^\| `(\w+)` \|", battery.partition("Test it")[2], re.MULTILINE) == list(tuner_checks)


def test_the_embedded_models_data_is_told() -> None:
    made = set(re.findall(r"^drivegen world (\S+)", (HOUSE / "docs" / "training.md").read_text(encoding="utf-8"), re.MULTILINE))
    for name in ("tiny", "tiny_first_stage"):
        assert set(config.load(HOUSE / "configs" / f"{name}.yaml").data.roots) <= made

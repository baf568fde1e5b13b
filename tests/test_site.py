"""The documentation's site is built without a warning, and every link in it leads somewhere."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

HOUSE = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx")
    out = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(out)]
    done = subprocess.run(
        command, cwd=HOUSE, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


class Page(HTMLParser):
    """The links, anchors and pictures of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given[name] or "" for name in ("id", "name") if name in given}
        self.links += [given[name] or "" for name in ("href", "src") if name in given]


def test_links_and_anchors_lead_somewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 80
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(re.sub(r"\?v=\w+", "", link))
            if re.match(r"[a-z]+:", link):
                assert not link.startswith("file:"), link
                continue
            there = (path.parent / unquote(target)).resolve() if target else path
            if not there.is_file():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif anchor and there in pages and unquote(anchor) not in pages[there].anchors:
                broken.append(f"{path.relative_to(site)}: {link} has no such anchor")
    assert not broken, "\n".join(broken)


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    """The pages are read without a network: no script, style, font or picture of another host."""
    for path in site.rglob("*.html"):
        found = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]*)"', path.read_text(encoding="utf-8"))
        assert not found, f"{path.relative_to(site)}: {found}"


def test_the_reference_has_what_the_pages_import(site: Path) -> None:
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as stream:
        inventory = InventoryFile.load(stream, "", lambda base, path: path)
    known = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    missing = set()
    for page in [HOUSE / "README.md", *(HOUSE / "docs").rglob("*.md")]:
        for block in re.findall(r"^```python[^\n]*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("drivegen."):
                    missing |= {f"{node.module}.{alias.name}" for alias in node.names} - known
    assert not missing, f"not in docs/reference/api: {', '.join(sorted(missing))}"


def test_every_command_is_in_the_reference(site: Path) -> None:
    import typer

    from drivegen.cli.main import app

    text = (site / "reference/command_line.html").read_text(encoding="utf-8")
    command = typer.main.get_command(app)
    for name in command.commands:  # type: ignore[attr-defined]
        assert f'id="drivegen-{name}' in text, name
    assert "--sampler-option" in text


def test_every_room_has_its_page() -> None:
    rooms = {path.parent.name for path in (HOUSE / "drivegen").glob("*/__init__.py")} - {"cli"}
    assert rooms == {path.stem for path in (HOUSE / "docs/reference/api").glob("*.md")}

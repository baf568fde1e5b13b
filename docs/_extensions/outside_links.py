"""Links from the pages to files beside `docs/`: GitHub follows them as they stand; here each leads to a page of the site.

A room of the package leads to its part of the reference, a few Markdown files are pages of the site themselves (`PAGES`), and
any other file or folder gets a page that shows it.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HOUSE = Path(__file__).parents[2]
DOCS = HOUSE / "docs"
PAGES = {"CHANGELOG.md": "changes", "drivegen/assets/tiny/README.md": "embedded_model", "README.md": "index"}
"""Files beside docs/, and the pages that hold their text (the README's own is the index)."""
COMMAND_LINE = "drivegen/cli"
LINK = re.compile(
    r"(?P<code>^```.*?^```|``.*?``|`[^`\n]+`)|(?<!!)\[(?P<text>[^\[\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)",
    re.M | re.S,
)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".toml": "toml", ".sh": "bash"}
SHOWN = ("drivegen", "plugins", "configs", "scripts", "bench")


def place_of(target: str, page: Path) -> str | None:
    """Return where a link leads, from the repository's root; None where it stays among the pages or leaves the repository."""
    if "://" in target or target.startswith("mailto:"):
        return None
    place = Path(os.path.normpath(page.parent / target))
    if place.is_relative_to(DOCS) or not place.is_relative_to(HOUSE) or not place.exists():
        return None
    return place.relative_to(HOUSE).as_posix()


def page_for(place: str) -> str | None:
    """Return the document that stands for a file or folder beside docs/, None where it is only shown."""
    if place in PAGES:
        return PAGES[place]
    if place == COMMAND_LINE:
        return "reference/command_line"
    room = place.removeprefix("drivegen/")
    return f"reference/api/{room}" if (DOCS / "reference/api" / f"{room}.md").is_file() and "/" not in room else None


def rewritten(text: str, file: Path, docname: str) -> str:
    """Return a page's text with its links to files beside docs/ leading to pages of the site.

    Args:
        text: Markdown.
        file: the file that the links are relative to.
        docname: the page that will hold them.
    """
    up = "../" * docname.count("/")

    def replace(match: re.Match[str]) -> str:
        if match["code"]:
            return match[0]
        place = place_of(match["target"], file)
        anchor = match["anchor"] or ""
        if place is None:
            at = Path(os.path.normpath(file.parent / match["target"]))
            if file.is_relative_to(DOCS) or not at.is_relative_to(DOCS):
                return match[0]
            return f"[{match['text']}]({up}{at.relative_to(DOCS).as_posix()}{anchor})"
        page = page_for(place)
        if page is not None:
            return f"[{match['text']}]({up}{page}.md{anchor})"
        return f'<a class="reference internal" href="{up}{shown_at(place)}.html">{match["text"]}</a>'

    return LINK.sub(replace, text)


def shown_at(place: str) -> str:
    """Return the name of the page that shows a file or folder."""
    return f"source/{place}"


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Rewrite a page's links, and fetch the text of the pages whose text is elsewhere."""
    file = Path(app.env.doc2path(docname))
    if file.suffix != ".md":
        return
    for place, page in PAGES.items():
        if page == docname and docname != "index":
            file = HOUSE / place
            app.env.note_dependency(str(file))
            source[0] = file.read_text(encoding="utf-8")
    source[0] = rewritten(source[0], file, docname)


def shown(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page for every source file, and for every folder of them."""
    files = [path for top in SHOWN for path in sorted((HOUSE / top).rglob("*")) if is_text(path)]
    folders = sorted({parent for path in files for parent in path.parents if parent.is_relative_to(HOUSE)} - {HOUSE})
    for path in [*files, *folders]:
        place = path.relative_to(HOUSE).as_posix()
        if path.is_dir():
            inside = [each for each in [*folders, *files] if each.parent == path]
            rows = "".join(f'<li><a href="{path.name}/{each.name}.html">{html.escape(each.name)}</a></li>' for each in inside)
            body = f"<ul>{rows}</ul>"
        else:
            text = path.read_text(encoding="utf-8")
            language = LANGUAGES[path.suffix]
            body = app.builder.highlighter.highlight_block(text, language, lineanchors="L")  # type: ignore[attr-defined]
        title = html.escape(place)
        yield shown_at(place), {"title": title, "body": f"<h1><code>{title}</code></h1>{body}", "parents": []}, "page.html"


def is_text(path: Path) -> bool:
    """Tell a file that is shown: source and settings, no weights' and tables' files."""
    if path.suffix == ".json" and "assets" in path.parts:
        return False
    return path.suffix in LANGUAGES and "__pycache__" not in path.parts and path.stat().st_size < 100_000


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", read)
    app.connect("html-collect-pages", shown)
    return {"parallel_read_safe": True}

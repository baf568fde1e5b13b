"""How the documentation becomes a site: `bash scripts/docs.sh`. The pages are Markdown, and read well on their own too."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
HOUSE = HERE.parent
sys.path[:0] = [str(HERE / "_extensions"), str(HOUSE), str(HOUSE / "plugins")]

project = "drivegen"
author = "The drivegen contributors"
copyright = "the drivegen contributors, Apache-2.0"

extensions = [
    "myst_parser",
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "command_line",
    "docstrings",
    "notebooks",
    "outside_links",
    "rooms",
    "settings_tables",
]
exclude_patterns = ["_extensions", "_static"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a page may begin with a picture or skip a level of headings

default_role = "code"
smartquotes = False
highlight_language = "text"
add_module_names = False
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "special-members": "__call__"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "drivegen"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Return the link from a class or function in the reference, all pages of which are two folders deep, to its source."""
    if domain != "py" or not info["module"]:
        return None
    thing = sys.modules.get(info["module"])
    for name in info["fullname"].split("."):
        thing = getattr(thing, name, None)
    try:
        thing = inspect.unwrap(thing.fget if isinstance(thing, property) else thing)
        file, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    except (TypeError, OSError):
        return None
    if file is None or not Path(file).is_relative_to(HOUSE):
        return None
    return f"../../source/{Path(file).relative_to(HOUSE).as_posix()}.html#L-{line}"


def list_decisions(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the decisions below their table in the navigation, without markup that GitHub would show."""
    if docname == "decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"


def setup(app: Sphinx) -> None:
    """Register with Sphinx."""
    app.connect("source-read", list_decisions)

"""Which source files are behind a module: read from the sources, nothing imported."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from drivegen.catalog.source_closure import source_closure

FILES = {
    "pack/__init__.py": "from pack.other import nothing",
    "pack/mine.py": """
        from typing import TYPE_CHECKING
        import json, numpy
        import pack.by_name
        from . import helper as h
        from .deep import inner
        from drivegen.plugin import Plugin
        if TYPE_CHECKING:
            from pack import for_readers
        class Mine(Plugin):
            def prepare(self, frame, user_input=None):
                import pack.late
                return pack.chain.inside.value + h.f()
    """,
    "pack/helper.py": "from .second import g\ndef f(): ...",
    "pack/second.py": "import pack.helper\ng = 1",
    "pack/by_name.py": "",
    "pack/late.py": "",
    "pack/chain/__init__.py": "",
    "pack/chain/inside.py": "value = 1",
    "pack/deep/__init__.py": "from .inner_file import inner",
    "pack/deep/inner_file.py": "inner = 1",
    "pack/deep/unused.py": "",
    "pack/other.py": "nothing = None",
    "pack/for_readers.py": "",
    "single.py": "import beside\nimport yaml",
    "beside.py": "",
    "apart.py": "",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_imports_are_followed_within_drivegen_and_the_own_package(package: Path) -> None:
    found = source_closure(["pack.mine"])
    own = {name for name in found if not name.startswith("drivegen")}
    deep = {"pack.deep", "pack.deep.inner_file"}
    assert (
        own
        == {"pack.mine", "pack.helper", "pack.second", "pack.by_name", "pack.late", "pack.chain", "pack.chain.inside"} | deep
    )
    assert {"drivegen.plugin.contract", "drivegen.scene.scene", "drivegen.scene.moments"} <= found.keys()
    rooms = {name.split(".")[1] for name in found if name.startswith("drivegen.")}
    assert rooms <= {"plugin", "scene", "support"}  # what a plugin imports, and no more: not every commit is another key
    assert all(path.is_file() for path in found.values())
    assert not [name for name in sys.modules if name.split(".")[0] in ("pack", "single", "beside")]


def test_a_single_file_reaches_the_files_beside_it(package: Path) -> None:
    assert set(source_closure(["single"])) == {"single", "beside"}
    assert source_closure(["nowhere", "sys"]) == {}

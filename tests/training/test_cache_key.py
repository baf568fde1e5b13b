"""What a cached array depends on is in its key: code with its helpers, options, state, extras, neighbours, callables."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drivegen import nuscenes
from drivegen.host.host import Host
from drivegen.plugin import Plugin
from drivegen.scene import Frame
from drivegen.training.cache import plugin_digest
from drivegen.training.datamodule import DriveData
from drivegen.training.value_digest import Unreadable, value_digest
from tests.street import street_scene
from tests.tiny_models import tiny_backbone, tiny_tokenizer

SIZE = (32, 56)
BACKBONE = tiny_backbone(vae_factor=8)
CLASS = """
from drivegen.plugin import Plugin, Signal
import numpy as np
FACTOR = 2.0
def helper(x):
    return x * FACTOR
class Note(Plugin):
    unit = 1.0
    def __init__(self, strength: float = 1.0):
        super().__init__()
        self.strength = strength
    def prepare(self, frame, user_input=None):
        return {"x": helper(np.float32([0.0 if user_input is None else user_input]))}
    def encode(self, arrays, keep):
        return Signal()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plugin in a package of its own, with a helper file and one that has nothing to do with it."""
    folder = tmp_path / "cachepack"
    folder.mkdir()
    for name, text in {
        "__init__": "",
        "helper": "FACTOR = 2.0",
        "unrelated": "a = 1",
        "note": CLASS.replace("FACTOR = 2.0", "from cachepack.helper import FACTOR"),
    }.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("cachepack")]:
        del sys.modules[name]


def key(plugin: Plugin, tokenizer: Any = None) -> str:
    return plugin_digest(plugin, tokenizer)


def test_a_helper_file_of_the_plugins_package_is_in_the_key(package: Path) -> None:
    from cachepack.note import Note  # type: ignore[import-not-found]

    first = key(Note())
    (package / "unrelated.py").write_text("a = 2")
    (package / "data.json").write_text("{}")
    assert key(Note()) == first
    (package / "helper.py").write_text("FACTOR = 3.0")
    second = key(Note())
    assert second != first
    (package / "note.py").write_text(CLASS + "# another line")
    assert key(Note()) not in (first, second)


@pytest.mark.slow
def test_options_state_and_tokenizer_are_in_the_key(package: Path) -> None:
    from cachepack.note import Note

    changed, asking = Note(), Note()
    changed.threshold = np.ones(2)
    asking.neighbours = (0.0, 1.0)
    other = tiny_tokenizer()
    other.add_tokens(["zebra"])
    keys = [key(Note()), key(Note(2.0)), key(changed), key(asking), key(Note(), tiny_tokenizer()), key(Note(), other)]
    assert len(set(keys)) == len(keys)
    called = tiny_tokenizer()
    called("a street", truncation=True, padding="max_length", max_length=5)
    assert key(Note(), called) == keys[4]  # asking a tokenizer changes nothing


def notebook(text: str, name: str, monkeypatch: pytest.MonkeyPatch, lines: bool = True) -> Any:
    """Run text as a notebook does: in a module without a file, whose source the line cache has, or has not."""
    import linecache

    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    if lines:
        monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(keepends=True), name))
    exec(compile(text, name, "exec"), module.__dict__)
    return module


def test_a_class_of_a_notebook_is_told_by_its_source_and_what_that_refers_to(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for i, (old, new) in enumerate(
        [
            ("", ""),
            ("FACTOR = 2.0", "FACTOR = 3.0"),
            ("x * FACTOR", "x + FACTOR"),
            ("unit = 1.0", "unit = 2.0"),
            ("[0.0 if", "[1.0 if"),
        ]
    ):
        keys.append(key(notebook(CLASS.replace(old, new) if old else CLASS, f"<cell {i}>", monkeypatch).Note()))
    assert len(set(keys)) == len(keys)
    assert key(notebook(CLASS, "<cell again>", monkeypatch).Note()) == keys[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cached")
    nuscenes.write([street_scene(3)], root)
    return root


def cached(root: Path, plugin: Plugin, cache: Path, **options: Any) -> tuple[set[str], list[Any]]:
    """Fill the cache, with nothing trained; returns the files of the plugin's arrays, and what batches then hold of them."""
    data = DriveData([root], Host(BACKBONE, {"note": plugin}), size=SIZE, images=6, cache=cache, **options)
    data.setup()
    values = {b.conditions.samples[0]: b.conditions.arrays["note"]["x"].tolist() for b in data.train_dataloader()}
    return {str(p.relative_to(cache)) for p in cache.glob("note-*/*.npz")}, [values[t] for t in sorted(values)]


def test_a_class_without_source_is_not_cached_and_says_so(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = notebook(CLASS, "<nowhere>", monkeypatch, lines=False).Note()
    with pytest.raises(Unreadable, match="source"):
        key(plugin)
    with pytest.warns(UserWarning, match=r"'note' are not cached.*the source of"):
        files, values = cached(root, plugin, tmp_path)
    assert not files
    assert values == [[[0.0]]] * 3
    assert len(list(tmp_path.glob("latents-*/*.npz"))) == 3


class Given(Plugin):
    """What it is given, or how many moments it was read with."""

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        return {"x": np.float32([len(frame.neighbours) if user_input is None else np.asarray(user_input).sum()])}

    def encode(self, arrays: Any, keep: Any) -> Any:
        from drivegen.plugin import Signal

        return Signal()


class Asking(Given):
    neighbours = (0.5, 0.5)


@pytest.mark.slow
def test_changed_extras_are_read_anew_and_the_others_are_not(root: Path, tmp_path: Path) -> None:
    folder, cache = tmp_path / "notes", tmp_path / "cache"
    folder.mkdir()
    for i in range(3):
        np.save(folder / f"street-{i}.npy", np.full(2, i))
    options = {"extras": {"note": folder}}
    before, values = cached(root, Given(), cache, **options)
    assert values == [[[0.0]], [[2.0]], [[4.0]]]
    np.save(folder / "street-1.npy", np.full(3, 5))
    after, values = cached(root, Given(), cache, **options)
    assert values == [[[0.0]], [[15.0]], [[4.0]]]
    assert before < after
    assert len(after - before) == 1
    assert len(list(cache.glob("latents-*/*.npz"))) == 3  # pictures know nothing of extras


@pytest.mark.slow
def test_changed_neighbours_are_read_anew_where_they_are_asked_for(root: Path, tmp_path: Path) -> None:
    import shutil

    mine, cache = Path(shutil.copytree(root, tmp_path / "mine")), tmp_path / "cache"
    before, values = cached(mine, Asking(), cache)
    assert values == [[[1.0]], [[2.0]], [[1.0]]]
    plain, _ = cached(mine, Given(), cache)
    (path,) = [p for p in nuscenes.open(mine).files("street-0") if p.parent.name == "CAM_FRONT"]
    path.touch()
    after, _ = cached(mine, Asking(), cache)
    again, _ = cached(mine, Given(), cache)
    changed = [{Path(name).name.split("-")[0] for name in b - a} for a, b in ((before | plain, after), (after | plain, again))]
    tokens = {t: __import__("hashlib").sha256(t.encode()).hexdigest()[:32] for t in ("street-0", "street-1")}
    assert changed == [set(tokens.values()), {tokens["street-0"]}]


@pytest.mark.slow
def test_enrich_is_in_the_key_with_what_it_refers_to(root: Path, tmp_path: Path) -> None:
    notes = {f"street-{i}": float(i) for i in range(3)}

    def enrich(frame: Frame) -> Frame:
        return replace(frame, extras={"note": notes[frame.token]})

    first, values = cached(root, Given(), tmp_path, enrich=enrich)
    assert values == [[[0.0]], [[1.0]], [[2.0]]]
    notes["street-2"] = 7.0
    second, values = cached(root, Given(), tmp_path, enrich=enrich)
    assert values == [[[0.0]], [[1.0]], [[7.0]]]
    assert len(second) == 2 * len(first)
    with pytest.warns(UserWarning, match="not cached"), open(__file__) as handle:
        cached(root, Given(), tmp_path, enrich=lambda frame: replace(frame, extras={"note": float(handle.closed)}))


def test_values_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    circle: list[Any] = []
    circle.append(circle)
    file = tmp_path / "f"
    file.write_text("a")
    values = [
        1, 1.0, True, "1", b"1", None, [1], (1,), {1}, {"1": 1}, np.ones(1), np.ones(1, np.float32), torch.ones(1), circle,
        file, json.dumps, np.float32(1), logging.getLogger("a"), types, replace, [[], []], Path("g"),
        np.array([{}], dtype=object),
    ]  # fmt: skip
    digests = [value_digest(value) for value in values]
    assert len(set(digests)) == len(digests)
    assert [value_digest(value) for value in values] == digests
    file.write_text("ab")
    assert value_digest(file) != digests[14]
    with open(file) as handle:
        for what in (handle, (n for n in range(3)), sys._getframe()):
            with pytest.raises(Unreadable):
                value_digest([what])


def test_a_module_of_ones_own_need_not_be_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lonely_helper.py").write_text("FACTOR = 2.0")
    (tmp_path / "lonely_note.py").write_text(textwrap.dedent(CLASS.replace("FACTOR = 2.0", "from lonely_helper import FACTOR")))
    from lonely_note import Note  # type: ignore[import-not-found]

    before = key(Note())
    (tmp_path / "lonely_helper.py").write_text("FACTOR = 4.0")
    assert key(Note()) != before
    for name in ("lonely_note", "lonely_helper"):
        del sys.modules[name]

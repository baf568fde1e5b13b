"""The reader of a folder is found by entry point; a reader of another format needs no line of this package."""

from __future__ import annotations

import os
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from drivegen import datasets, nuscenes
from drivegen.datasets import SceneSource, base
from drivegen.scene import Frame, Scene
from drivegen.support.errors import InputError
from tests.street import camera, street_scene


class OneFile(SceneSource):
    """A format of a stranger: one scene of one frame in every folder that holds ``one.txt``."""

    layout = "a folder with one.txt"

    def __init__(self, root: Path) -> None:
        self.root, self.version = root, ""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return (root / "one.txt").is_file()

    @classmethod
    def open(cls, root: Path, version: str | None = None) -> OneFile:
        return cls(root)

    @property
    def scenes(self) -> tuple[str, ...]:
        return ("one",)

    def scenes_of_split(self, name: str) -> tuple[str, ...]:
        return ()

    def samples(self, scene: str | None = None) -> tuple[str, ...]:
        return ("f",)

    def scene(self, name_or_token: str) -> Scene:
        return Scene("one", (self.frame("f"),))

    def frame(self, sample_token: str) -> Frame:
        return Frame(sample_token, (camera("A", 0),), description=(self.root / "one.txt").read_text())

    def views(self, sample_token: str) -> int:
        return 1

    def fingerprint(self, sample_token: str) -> str:
        return base.stat_digest([self.root / "one.txt"])


class Same(OneFile):
    """Another reader that takes the same folders."""


def offer(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    points = {name: EntryPoint(name, target, base.GROUP) for name, target in targets.items()}
    monkeypatch.setattr(base, "formats", lambda: points)


def test_nuscenes_is_the_first_tenant_and_what_it_offers_agrees(tmp_path: Path) -> None:
    nuscenes.write([street_scene(2)], tmp_path)
    data = datasets.open(tmp_path)
    assert "nuscenes" in datasets.formats()
    assert type(data) is nuscenes.Dataset
    frame = data.frame(data.samples("street")[0])
    assert data.views(frame.token) == len(frame.cameras) == 6
    prints = {token: data.fingerprint(token) for token in data.samples()}
    assert len(set(prints.values())) == 2
    again = datasets.open(tmp_path, "v1.0-mini", format="nuscenes")
    assert {token: again.fingerprint(token) for token in again.samples()} == prints
    path = frame.cameras[0].image_path
    assert path is not None
    os.utime(path, ns=(1, 1))
    assert {token for token in prints if again.fingerprint(token) != prints[token]} == {frame.token}
    assert data.scenes_of_split("val") == ()
    for read in (data.frame, data.views, data.fingerprint):
        with pytest.raises(InputError, match="has no sample 'nothing'"):
            read("nothing")


def test_scenes_of_a_published_split(tmp_path: Path) -> None:
    nuscenes.write([street_scene(1, name) for name in ("scene-0061", "scene-0103", "mine")], tmp_path)
    data = datasets.open(tmp_path)
    assert data.scenes_of_split("mini_train") == ("scene-0061",)
    assert data.scenes_of_split("mini_val") == ("scene-0103",)
    assert data.scenes_of_split("no such") == ()


def test_the_reader_that_recognises_the_folder_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.txt").write_text("a street")
    here = f"{__name__}:"
    ours = "drivegen.datasets.nuscenes:Dataset"
    offer(monkeypatch, nuscenes=ours, one=f"{here}OneFile", broken="tests.nowhere:Reader")
    assert datasets.open(tmp_path).frame("f").description == "a street"
    (tmp_path / "one.txt").unlink()
    with pytest.raises(
        InputError, match=r"no known format; readable are nuscenes .*, one \(a folder with one\.txt\); .*nowhere"
    ):
        datasets.open(tmp_path)
    with pytest.raises(InputError, match=r"no reader of the format 'on' is installed; .*did you mean 'one'"):
        datasets.open(tmp_path, format="on")
    (tmp_path / "one.txt").write_text("a street")
    offer(monkeypatch)
    with pytest.raises(InputError, match="no reader of datasets is installed"):
        datasets.open(tmp_path)
    offer(monkeypatch, one=f"{here}OneFile", same=f"{here}Same", wrong=f"{here}offer")
    with pytest.raises(InputError, match=r"several readers \(one, same\)"):
        datasets.open(tmp_path)
    assert type(datasets.open(tmp_path, format="same")) is Same
    with pytest.raises(InputError, match=r"is not a drivegen\.datasets\.SceneSource"):
        datasets.open(tmp_path, format="wrong")
    with pytest.raises(InputError, match="is not a folder"):
        datasets.open(tmp_path / "one.txt")
    assert "tests.nowhere" not in sys.modules

"""Which frames of which datasets are trained on, and what is read of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivegen.datasets import nuscenes
from drivegen.host.host import Host
from drivegen.plugin import Input, Plugin, Signal
from drivegen.scene import Frame, Scene
from drivegen.support.errors import InputError
from drivegen.training.datamodule import DriveData
from drivegen.training.extras import Extras
from drivegen.training.frames import Sources
from drivegen.training.missing import refuse_missing
from tests.street import street_scene
from tests.tiny_models import tiny_backbone

SIZE = (32, 56)


def bare(frames: int, name: str) -> Scene:
    """A scene without boxes, whose instances would be those of another."""
    scene = street_scene(frames, name)
    return replace(scene, frames=tuple(replace(frame, boxes=()) for frame in scene.frames))


@pytest.mark.slow
def test_a_split_means_its_scenes_that_are_there(tmp_path: Path) -> None:
    nuscenes.write([bare(1, name) for name in ("scene-0061", "scene-0103", "mine")], tmp_path)
    for names, held in ((["mini_val"], {"scene-0103"}), (["mini_val", "mine"], {"scene-0103", "mine"})):
        sources = Sources([tmp_path], SIZE, val_scenes=names)
        assert {sources.frame(ref).scene_name for ref in sources.val} == held
    for wrong, hint in (("minee", "did you mean 'mine'"), ("test", "'test', which is in none")):
        with pytest.raises(InputError, match=hint):
            Sources([tmp_path], SIZE, val_scenes=[wrong])


@pytest.fixture
def city(tmp_path: Path) -> Path:
    nuscenes.write([street_scene(3), bare(2, "other")], tmp_path / "city")
    return tmp_path / "city"


def test_every_missing_file_is_named_before_any_work(city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = nuscenes.open(city)
    gone = [data.files("street-1")[0], data.files("street-1")[3], data.files("other-0")[5]]
    for path in gone:
        path.unlink()
    (tmp_path / "notes").mkdir()
    for token in ("street-0", "street-1", "street-2", "other-0"):
        (tmp_path / "notes" / f"{token}.txt").write_text("x")
    monkeypatch.setattr(nuscenes.Dataset, "frame", None)  # none is read
    extras = Extras({"note": tmp_path / "notes"})
    with pytest.raises(InputError) as caught:
        Sources([city], SIZE, extras=extras, val_scenes=["other"])
    assert "4 files are missing, of 3 of 5 frames" in str(caught.value)
    assert all(path.name in str(caught.value) for path in (*gone, tmp_path / "notes" / "other-1.*"))
    with pytest.warns(UserWarning, match="3 of 5 frames are left out"):
        sources = Sources([city], SIZE, extras=extras, val_scenes=["other"], skip_missing=True)
    assert [ref.token for ref in sources.train] == ["street-0", "street-2"]
    assert not sources.val
    for token in ("street-0", "street-2"):
        data.files(token)[0].unlink()
    with pytest.raises(InputError, match="5 files are missing"):
        Sources([city], SIZE, val_scenes=["other"], skip_missing=True)


def test_of_very_many_missing_files_each_folder_is_named() -> None:
    missing = {f"s{i}": [Path(f"/data/samples/{c}/{i}.jpg") for c in ("A", "B")] for i in range(500)}
    with pytest.raises(InputError, match=r"1000 files are missing, of 500 of 700 frames") as caught:
        refuse_missing(missing, 700)
    assert "/data/samples/A: 500 files, 0.jpg the first" in str(caught.value)


class Note(Plugin):
    """The number that it is given."""

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        return {"x": np.float32([-1 if user_input is None else user_input])}

    def encode(self, arrays: Any, keep: Any) -> Signal:
        return Signal()


@pytest.mark.slow
def test_every_frame_that_cannot_be_read_is_named_and_the_others_are_cached(city: Path, tmp_path: Path) -> None:
    host, data = Host(tiny_backbone(vae_factor=8), {"note": Note()}), nuscenes.open(city)
    bad = [data.files("street-1")[0], data.files("other-1")[2]]
    for path in bad:
        path.write_bytes(b"no picture")
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"2 of [25] frames cannot be read") as caught:
            DriveData([city], host, size=SIZE, cache=tmp_path / "cache", workers=workers).setup()
        assert all(path.name in str(caught.value) for path in bad)
        assert len(list(tmp_path.glob("cache/note-*/*.npz"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("enrich", "said"),
    [
        (lambda frame: frame.extras["none"], "enrich raised KeyError for frame 'street-0'"),
        (lambda frame: None, "enrich returned NoneType for frame 'street-0'"),
        (lambda frame: frame.drop_camera("CAM_BACK"), "other cameras or pictures"),
        (lambda frame: replace(frame, token="another"), "another token"),
        ("a function", "enrich is of type str"),
    ],
)
def test_what_enrich_may_not_do_is_refused(city: Path, enrich: Any, said: str) -> None:
    def first() -> Frame:
        sources = Sources([city], SIZE, extras=Extras(enrich=enrich))
        return sources.frame(sources.train[0])

    with pytest.raises(InputError, match=said):
        first()


@pytest.mark.slow
def test_folders_come_before_enrich_and_the_dataset_before_both(city: Path, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(3):
        (folder / f"street-{i}.json").write_text(str(i))

    def add_ten(frame: Frame) -> Frame:
        return replace(frame, extras={**frame.extras, "note": frame.extras["note"] + 10})

    extras = Extras({"note": folder}, add_ten)
    sources = Sources([city], SIZE, extras=extras, val_scenes=["other"], skip_missing=True)
    assert [sources.frame(ref).extras["note"] for ref in sources.train] == [10, 11, 12]
    host = Host(tiny_backbone(vae_factor=8), {"note": Note()})
    options = {"size": SIZE, "extras": {"note": folder}, "skip_missing": True, "val_scenes": ["other"]}
    data = DriveData([city], host, images=6, **options)
    data.setup()
    assert sorted(float(b.conditions.arrays["note"]["x"]) for b in data.train_dataloader()) == [0, 1, 2]
    with pytest.raises(InputError, match=r"data\.extras names 'notes'.*did you mean 'note'"):
        DriveData([city], host, **(options | {"extras": {"notes": folder}})).open()


class Reads(Plugin):
    """Opens its file itself."""

    accepts = (Input("sheet", "file", "a file of its own"),)


def test_a_plugin_that_takes_a_file_is_given_its_path(city: Path, tmp_path: Path) -> None:
    (tmp_path / "sheets").mkdir()
    for i in range(3):
        (tmp_path / "sheets" / f"street-{i}.json").write_text("no JSON")
    extras = Extras({"mine": tmp_path / "sheets"}, plugins={"mine": Reads()})
    sources = Sources([city], SIZE, extras=extras, val_scenes=["other"], skip_missing=True)
    assert sources.frame(sources.train[1]).extras == {"mine": tmp_path / "sheets" / "street-1.json"}

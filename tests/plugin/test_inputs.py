"""What callers give a plugin arrives checked and converted, and what does not fit is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drivegen.catalog import registry
from drivegen.host import batch as data
from drivegen.plugin import Input, Plugin, Signal
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame

SCENE = frame(0)
PHOTO = Image.new("RGB", (8, 6), (10, 20, 30))


def taking(*accepts: Input, undeclared: bool = False) -> Plugin:
    """Make a plugin that keeps what its `prepare` is given."""

    def prepare(self: Any, frame: Any, user_input: Any) -> dict[str, np.ndarray]:
        self.seen = user_input
        return {}

    members = {"prepare": prepare, "encode": lambda self, arrays, keep: Signal()}
    made: Plugin = type("Taking", (Plugin,), members if undeclared else {**members, "accepts": accepts})()
    return made


def given(plugin: Plugin, value: Any) -> Any:
    data.prepare(SCENE, {"mine": plugin}, {"mine": value})
    seen = plugin.seen
    return np.asarray(seen) if isinstance(seen, Image.Image) else seen


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file of each type, and a folder with pictures of two cameras and a sheet."""
    PHOTO.save(tmp_path / "CAM_FRONT.png")
    PHOTO.save(tmp_path / "CAM_FRONT_LEFT.png")
    PHOTO.save(tmp_path / "sheet.png")
    np.save(tmp_path / "a.npy", np.eye(2, dtype=np.float32))
    np.savez(tmp_path / "many.npz", a=np.eye(2), b=np.eye(2))
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    (tmp_path / "a.json").write_text('{"speed_mps": [1, 2]}')
    (tmp_path / "bad.json").write_text("{")
    return {path.name: path for path in tmp_path.iterdir()} | {"": tmp_path}


def test_paths_and_text_of_the_command_line_become_what_was_declared(files: dict[str, Path]) -> None:
    assert given(taking(Input("hour", "number", "the hour")), "21.5") == 21.5
    assert given(taking(Input("hour", "number", "the hour")), np.float32(3)) == 3.0
    assert given(taking(Input("words", "text", "words")), "a cat") == "a cat"
    for photo in (str(files["CAM_FRONT.png"]), files["CAM_FRONT.png"], PHOTO, PHOTO.convert("RGBA")):
        assert (given(taking(Input("photo", "picture", "a photo")), photo) == np.asarray(PHOTO)).all()
    assert given(taking(Input("photo", "picture", "a photo", mode="L")), files["CAM_FRONT.png"]).shape == (6, 8)
    assert (given(taking(Input("table", "array", "a table")), str(files["a.npy"])) == np.eye(2)).all()
    for plan in (str(files["a.json"]), files["a.json"], '{"speed_mps": [1, 2]}', {"speed_mps": [1, 2]}):
        assert given(taking(Input("plan", "json", "a plan")), plan) == {"speed_mps": [1, 2]}
    assert given(taking(Input("weights", "file", "weights")), str(files["a.npy"])) == files["a.npy"]


def test_pictures_of_cameras_come_from_a_folder_or_by_channel(files: dict[str, Path]) -> None:
    plugin = taking(Input("photos", "picture", "photos", per_camera=True))
    assert list(given(plugin, str(files[""]))) == ["CAM_FRONT", "CAM_FRONT_LEFT"]
    found = given(plugin, {"CAM_FRONT": str(files["CAM_FRONT.png"]), "CAM_FRONT_LEFT": None})
    assert list(found) == ["CAM_FRONT"]
    assert found["CAM_FRONT"].size == (8, 6)


def test_several_inputs_are_given_by_name_and_the_first_alone() -> None:
    inputs = (Input("prompt", "text", "words"), Input("hour", "number", "the hour"))
    assert given(taking(*inputs), {"hour": "3", "prompt": "a cat"}) == {"hour": 3.0, "prompt": "a cat"}
    assert given(taking(*inputs), "a cat") == {"prompt": "a cat"}
    assert given(taking(*inputs), None) is None


def test_what_is_not_declared_passes_as_it_is() -> None:
    value = object()
    assert given(taking(undeclared=True), value) is value


NUMBER, PICTURE = Input("hour", "number", "the hour"), Input("photo", "picture", "a photo")
PER_CAMERA = Input("photos", "picture", "photos", per_camera=True)
BOTH = (Input("prompt", "text", "words"), NUMBER)
WRONG = {
    "number": ((NUMBER,), "noon", "hour must be a number, not the text 'noon'"),
    "a bool": ((NUMBER,), True, "must be a number"),
    "nan": ((NUMBER,), "nan", "hour nan must be a finite number"), "a list": ((NUMBER,), [3], "hour .3. must be a number"),
    "words": ((Input("words", "text", "words"),), ["a", "b"], "words must be text, not a list"),
    "a picture": ((PICTURE,), 3, "photo: int '3' is not a picture"), "gone": ((PICTURE,), "gone.png", "gone.png is missing"),
    "16 bits": ((PICTURE,), Image.new("I;16", (8, 6)), "photo: the picture has .*16"),
    "a vector": ((PICTURE,), np.zeros(3), r"array of shape \(3,\)"),
    "a camera": ((PER_CAMERA,), {"CAM_FRNT": PHOTO}, "photos is given for 'CAM_FRNT'.*did you mean 'CAM_FRONT'"),
    "one for all": ((PER_CAMERA,), PHOTO, "given per camera"), "no folder": ((PER_CAMERA,), "nowhere", "nowhere is neither"),
    "of a camera": ((PER_CAMERA,), {"CAM_FRONT": 3}, "photos of CAM_FRONT: int '3' is not a picture"),
    "an array": ((Input("table", "array", "a table"),), [[1]], "must be a numpy array, or a .npy file, not a list"),
    "no file": ((Input("weights", "file", "weights"),), "gone.bin", "there is no file gone.bin"),
    "not json": ((Input("plan", "json", "a plan"),), {"a": {1, 2}}, r"plan\['a'\] is a set, which"),
    "a key": (BOTH, {"promt": "a"}, "takes no input 'promt' .did you mean 'prompt'.*it takes prompt, hour"),
    "second": (BOTH, {"hour": "noon"}, "hour must be a number"), "nothing": ((), 3, "takes no input, it reads the frame"),
    "required": ((Input("plan", "json", "metres ahead", required=True),), None, "needs plan, metres ahead"),
    "one of two": ((BOTH[0], Input("plan", "json", "a plan", required=True)), "a", r"give inputs=\{'mine': \{'plan': …\}\}"),
}  # fmt: skip


@pytest.mark.parametrize(("accepts", "value", "said"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(accepts: tuple[Input, ...], value: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"^plugin 'mine'.*{said}"):
        given(taking(*accepts), value)


@pytest.mark.parametrize(
    ("type", "name", "said"),
    [
        ("array", "many.npz", "holds several arrays"), ("array", "objects.npy", "no .npy file of numbers"),
        ("array", "a.json", "no .npy file of numbers"), ("json", "bad.json", "is not JSON"),
        ("json", "gone.json", "No such file"),
        ("picture", "a.npy", "is not an image"),
    ],
)  # fmt: skip
def test_files_that_do_not_hold_it_are_named(files: dict[str, Path], type: Any, name: str, said: str) -> None:
    with pytest.raises(InputError, match=f"^plugin 'mine': it: .*{name}.*{said}"):
        given(taking(Input("it", type, "anything")), str(files[""] / name))


def test_a_declaration_is_checked() -> None:
    with pytest.raises(InputError, match="has the type 'image'; there are text, number"):
        Input("photo", "image", "a photo")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be an identifier"):
        Input("a photo", "picture", "a photo")


def test_every_first_party_plugin_declares_what_it_takes() -> None:
    for kind, entry in registry.kinds().items():
        if entry.target.startswith("drivegen_plugins."):
            assert registry.load(kind).accepts is not None, kind


def test_a_plugin_of_the_repository_is_shown_and_takes_options_by_key() -> None:
    from typer.testing import CliRunner

    from drivegen.cli.main import app
    from drivegen.pipeline.spelling import read_inputs

    shown = CliRunner().invoke(app, ["plugins", "show", "text"])
    assert shown.exit_code == 0
    assert "input negative (optional)" in shown.output
    assert "--input text.prompt=TEXT" in shown.output
    assert "input: none, it reads the frame" in CliRunner().invoke(app, ["plugins", "show", "layout"]).output
    assert CliRunner().invoke(app, ["plugins", "show", "txet"]).exit_code == 2
    assert read_inputs(["text.negative=fog", "text.prompt=rain", "a=b.c=d"]) == {
        "text": {"negative": "fog", "prompt": "rain"},
        "a": "b.c=d",
    }
    for wrong in (["text"], ["text="], ["text.=a"], ["text=a", "text.prompt=b"], ["text.prompt=a", "text.prompt=b"]):
        with pytest.raises(InputError, match=r"--input (names )?'text"):
            read_inputs(wrong)

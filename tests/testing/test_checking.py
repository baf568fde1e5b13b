"""`drivegen plugins check`: which promise broke, where, and how the command ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drivegen import world
from drivegen.catalog import registry
from drivegen.cli.main import app
from drivegen.plugin import Input, Signal
from drivegen.testing import CHECKS, checking
from tests.testing.broken import Count, Leaking


class Raising(Count):
    """Has a mistake in its code."""

    def encode(self, arrays: Any, keep: Any) -> Signal:
        return Signal(arrays["no such array"])


class Drawn(Count):
    """Needs what nobody can make up."""

    accepts = (Input("drawing", "array", "a drawing", required=True),)


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_local", {"count": Count, "leaking": Leaking, "raising": Raising, "drawn": Drawn})


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["plugins", "check", *map(str, words)])
    return done.exit_code, " ".join(done.output.split())


def some(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Run these checks alone."""
    monkeypatch.setattr(checking, "CHECKS", {name: CHECKS[name] for name in names})


def test_every_check_says_where_to_look() -> None:
    assert list(checking.LOOK) == list(CHECKS)


def test_a_promise_that_is_broken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    some(monkeypatch, "scale_zero_is_absence", "null_leaks_nothing")
    status, said = run("leaking")
    assert status == 1
    assert "ok scale_zero_is_absence broken null_leaks_nothing null with other arrays: not the same bits" in said
    assert "look at encode: choose with select_or_null" in said
    assert said.endswith("leaking: 1 of 2 promises hold, on two built-in frames, the networks of tiny")


def test_the_line_of_a_mistake_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    some(monkeypatch, "has_an_effect", "scale_zero_is_absence")
    status, said = run("raising")
    assert status == 1
    assert "plugin 'raising' (Raising).encode raised KeyError" in said
    assert f"at {__file__}:{Raising.encode.__code__.co_firstlineno + 1} in encode" in said
    assert "broken scale_zero_is_absence: as above" in said


@pytest.mark.slow
def test_recorded_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(tmp_path / "city", scenes=2, frames=1, seed=0, size=(48, 64), workers=1)
    some(monkeypatch, "null_leaks_nothing", "works_on_clips")
    status, said = run("count", "--data", tmp_path / "city")
    assert status == 0
    assert said.startswith("ok null_leaks_nothing ok works_on_clips count: 2 of 2 promises hold, on two frames of ")
    world.write(tmp_path / "one", scenes=1, frames=1, seed=0, size=(48, 64), workers=1)
    status, said = run("count", "--data", tmp_path / "one")
    assert status == 2
    assert "has no two frames" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more", "on"),
    [
        ("image_prompt", ("--options", "tokens=3", "--input", "image_prompt=PICTURE"), "the networks of tiny"),
        ("image_prompt", (), "the networks of tiny, made-up pictures"),
        ("t2i_adapter", (), "small random networks of two levels (it refuses those of tiny: plugin 't2i_adapter': a T2I"),
        ("t2i_adapter", ("--options", "size=light_adapter"), "small random networks of three levels"),
        ("controlnet", ("--options", "picture=layout"), "the networks of tiny, beside text"),
        ("controlnet", ("--data", "CITY"), "the networks of tiny, made-up pictures, beside text"),
        ("cross_view", ("--options", "attention=self"), "the networks of tiny"),
    ],
)
def test_plugins_with_needs(kind: str, more: tuple[str, ...], on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 20).save(tmp_path / "picture.png")
    some(monkeypatch, "reads_its_arrays")
    if "CITY" in more:
        world.write(tmp_path / "city", scenes=2, frames=1, seed=0, size=(48, 64), workers=1)
    given = {"PICTURE": tmp_path / "picture.png", "CITY": tmp_path / "city"}
    status, said = run(
        kind, *(word.replace("PICTURE", str(given["PICTURE"])).replace("CITY", str(given["CITY"])) for word in more)
    )
    assert status == 0, said
    assert f"{kind}: 1 of 1 promises hold, on two " in said
    assert on in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cuont",), "no plugin kind 'cuont' is installed"),
        (("layout", "--options", "wdith=1"), "--options of layout.wdith = 1 is unknown (did you mean 'width'?)"),
        (("layout", "--options", "width=wide"), "--options of layout.width"),
        (
            ("layout", "--options", "width=7"),
            "--options of layout: with them it cannot be attached: plugin",
        ),
        (("layout", "--options", "width"), "must be KEY=VALUE"),
        (("layout", "--options", "width=1", "--options", "width=1"), "names 'width' twice"),
        (("count", "--input", "other=1"), "--input is given for 'other'; the plugin under test is 'count'"),
        (("layout", "--input", "layout=1"), "plugin 'layout' takes no input"),
        (("controlnet", "--input", "controlnet.CAM_FRONT=/nowhere.png"), "/nowhere.png"),
        (("count", "--beside", "count"), "--beside count is the plugin under test itself"),
        (("count", "--beside", "nobody"), "no plugin kind 'nobody' is installed"),
        (("count", "--data", "/nowhere"), "data root /nowhere is not a folder"),
        (("drawn",), "drawn needs drawing, a drawing (a numpy array, or a .npy file); give it with --input drawn="),
        (("count", "--model", "/nowhere"), "there is no model at '/nowhere'"),
        (("count", "--model", ""), "the model's name is empty"),
    ],
)
def test_bad_input(words: tuple[str, ...], said: str) -> None:
    status, found = run(*words)
    assert status == 2, found
    assert said in found

"""Obedience: zero for a condition that changes nothing or is the same of every frame; repeatable; refused where impossible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from drivegen.catalog import registry
from drivegen.cli.main import app
from drivegen.datasets import nuscenes
from drivegen.evaluate.obedience import obedience
from drivegen.host.host import Host
from drivegen.plugin import Plugin, Signal, Unknown, select_or_null
from drivegen.sampling.settings import Sampling
from drivegen.saved import model as models
from drivegen.support.errors import InputError
from tests.tiny_models import tiny_backbone
from tests.training.conftest import SIZE, city

__all__ = ["city"]


class Constant(Plugin):
    """Appends a token that is the same for every frame, and another for null; some frames are unknown to it."""

    accepts = ()

    def __init__(self, unknown: str = "") -> None:
        super().__init__()
        self.unknown = unknown

    def attach(self, backbone: Any) -> None:
        torch.manual_seed(0)
        self.tokens = torch.nn.Parameter(torch.randn(2, backbone.token_width))

    def prepare(self, frame: Any, user_input: Any = None) -> Any:
        arrays = {"one": np.ones(1, np.float32)}
        return Unknown(arrays) if frame.token == self.unknown else arrays

    def encode(self, arrays: Any, keep: Any) -> Signal:
        return Signal(select_or_null(keep, arrays["one"][:, :, None] * self.tokens[:1], self.tokens[1]))


@pytest.fixture(scope="module")
def measured() -> models.Model:
    """A model whose boxes are heard, whose layout begins at zero, and whose constant token is what it says."""
    plugins = {"boxes": registry.load("boxes")(max_boxes=4), "layout": registry.load("layout")(), "constant": Constant("s0f1")}
    return models.Model(Host(tiny_backbone(), plugins), Sampling(), SIZE)


def test_what_changes_nothing_has_no_obedience(measured: models.Model, city: Path) -> None:
    boxes, layout, constant = obedience(measured, ["boxes", "layout", "constant"], nuscenes.open(city))
    assert {each.error["own"].value for each in (boxes, layout)} == {boxes.error["own"].value}
    assert all(rise.value == 0 for rise in layout.rise.values())  # fresh: its residuals are zero
    assert constant.rise["other"].value == 0
    assert constant.rise["null"].value != 0
    assert all(rise.value != 0 for rise in boxes.rise.values())
    # Scenes of three cameras and of two: another's condition comes from a scene of as many.
    assert (boxes.frames, boxes.unknown) == (4, 0)
    assert (constant.frames, constant.unknown) == (3, 1)
    (again,) = obedience(measured, ["boxes"], nuscenes.open(city))
    assert again == boxes


def test_what_cannot_be_measured(measured: models.Model, city: Path) -> None:
    with pytest.raises(InputError, match=r"has no plugin 'boxs' \(did you mean 'boxes'\?\)"):
        obedience(measured, ["boxs"], nuscenes.open(city))
    with pytest.raises(InputError, match="frames of 0 scenes, among 1 frames looked at"):
        obedience(measured, ["boxes"], nuscenes.open(city), frames=1)


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["evaluate-condition", *map(str, words)])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    host = Host(tiny_backbone(), {"boxes": registry.load("boxes")(max_boxes=4)})
    return models.save(host, tmp_path_factory.mktemp("obedience") / "model", image_size=SIZE)


def test_a_table_and_json(folder: Path, city: Path, tmp_path: Path) -> None:
    status, said = run("boxes", "--model", folder, "--data", city, "--out", tmp_path, "--device", "cpu")
    assert status == 0, said
    values = json.loads((tmp_path / "obedience.json").read_text())
    (boxes,) = values["plugins"]
    assert (boxes["plugin"], boxes["frames"], values["model"]) == ("boxes", 4, str(folder))
    assert boxes["rise"]["other"]["low"] <= boxes["rise"]["other"]["value"] <= boxes["rise"]["other"]["high"]
    assert f"| boxes | {boxes['error']['own']['value']:.4f} | " in (tmp_path / "obedience.md").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("boxs",), "has no boxs (did you mean 'boxes'?); it has boxes"),
        (("boxes", "--frames", "1"), "--frames 1 is out of range; allowed: 2 to"),
        (("boxes", "--data", "/nowhere"), "/nowhere"),
        (("boxes", "--model", "/nowhere"), "there is no model at '/nowhere'"),
        (("boxes", "--device", "abacus"), "abacus"),
        ((), "Missing argument"),
    ],
)
def test_bad_input(words: tuple[str, ...], expected: str, folder: Path, city: Path, tmp_path: Path) -> None:
    status, said = run("--model", folder, "--data", city, "--out", tmp_path / "out", *words)
    assert status == 2, said
    assert expected in said
    assert not (tmp_path / "out").exists()

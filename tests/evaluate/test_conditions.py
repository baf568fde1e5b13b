"""Are the conditions used: a model that paints what a plugin says loses without it, and with another frame's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drivegen.catalog.registry import load
from drivegen.datasets import nuscenes
from drivegen.evaluate.conditions import conditions_used
from drivegen.evaluate.judges import OTHER, Judge
from drivegen.evaluate.metrics.expected import expected
from drivegen.evaluate.referee import GROUPS
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.sampling import Sampling
from drivegen.saved import model
from drivegen.testing import tiny_backbone
from tests.street import street_scene


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> Pipeline:
    host = Host(tiny_backbone(), {"text": load("text")(), "layout": load("layout")()})
    folder = model.save(host, tmp_path_factory.mktemp("model") / "m", Sampling(steps=1), image_size=(48, 80))
    return Pipeline.from_pretrained(folder, "cpu", "float32")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    far = street_scene(1, "far")
    far = replace(
        far, frames=tuple(replace(f, token="far-0", boxes=f.boxes[2:], timestamp_us=f.timestamp_us + 10) for f in far.frames)
    )
    nuscenes.write([street_scene(1, "near"), far], root)
    return nuscenes.open(root)


def obedient(monkeypatch, source) -> Judge:
    """Replace generation by a painter of the layout that the plan's arrays hold, and return a judge that reads its paint."""
    frames = {token: source.frame(token).resized(80, 48) for token in source.samples()}

    class Painted:
        def __init__(self, frame, labels) -> None:
            self.frame, self.labels = frame, labels

        def pictures(self):
            return {c: np.repeat(label[..., None], 3, -1) for c, label in zip(self.frame.channels, self.labels, strict=True)}

    def run(self, plan):
        named = [
            name
            for name, kept in {**dict.fromkeys(plan.plugins, True), **dict.fromkeys(plan.settings.without, False)}.items()
            if kept
        ]
        if "layout" not in named:
            return Painted(plan.frame, np.full((len(plan.frame.cameras), 48, 80), OTHER, np.uint8))
        shown = plan.frame
        for frame in frames.values():
            (other,) = self.plans(frame, self.settings(steps=1, seed=0))
            if all((plan.batch.arrays["layout"][k] == v).all() for k, v in other.batch.arrays["layout"].items()):
                shown = frame
        views = [expected(shown, channel) for channel in shown.channels]
        vehicle, drivable = np.uint8(GROUPS.index("vehicle")), np.uint8(GROUPS.index("drivable"))
        return Painted(plan.frame, [np.where(v.vehicle, vehicle, np.where(v.drivable, drivable, OTHER)) for v in views])

    monkeypatch.setattr(Pipeline, "run", run)
    return Judge({"referee": "reader"}, ("drivable", "vehicle"), lambda pictures: pictures[..., 0])


def test_only_what_is_used_loses(pipe, source, monkeypatch) -> None:
    judge = obedient(monkeypatch, source)
    used = conditions_used(pipe, source, source.samples(), judge, 1, 0.25, "print")
    found = {figure.name: figure for figure in used.figures}
    for name, left in (
        ("text removed: vehicle IoU", 1), ("text of another frame: vehicle IoU", 1), ("layout removed: vehicle IoU", 0),
        ("layout removed: recall of boxes", 0), ("CAM_FRONT turned by 20°: drivable IoU", 1),
    ):  # fmt: skip
        assert found[name].share.value == pytest.approx(left), name
        assert found[name].real.value == pytest.approx(1)
    assert found["layout of another frame: vehicle IoU"].share.value < 0.9
    assert used.notes == ()
    assert {figure.fingerprint for figure in used.figures} == {"print"}


@pytest.mark.slow
def test_real_generations_are_judged_and_one_frame_has_no_other(pipe, tmp_path) -> None:
    nuscenes.write([street_scene(1, "alone")], tmp_path)
    source = nuscenes.open(tmp_path)
    judge = Judge(
        {"referee": "all"}, ("drivable", "vehicle"), lambda p: np.full(p.shape[:3], GROUPS.index("vehicle"), np.uint8)
    )
    used = conditions_used(pipe, source, source.samples(), judge, 1, 0.25, "print")
    names = [figure.name for figure in used.figures]
    assert "layout removed: vehicle IoU" in names
    assert not any("of another frame" in name for name in names)
    assert any("no other frame has as many cameras" in note for note in used.notes)

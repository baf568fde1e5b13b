"""A frame that does not hold what a condition is about is null for it: in a batch, in a loss, under guidance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.plugin import Arrays, Grid, Plugin, Signal, Unknown, select_or_null
from drivegen.sampling import Sampling
from drivegen.saved.model import Model
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from drivegen.testing import CHECKS, Case
from drivegen.testing.frames import frame
from drivegen.training.config import TrainConfig
from drivegen.training.frames import TrainBatch
from drivegen.training.module import DriveModule
from tests.tiny_models import randomize, tiny_backbone


class Plan(Plugin):
    """Where the ego vehicle will be in a second, as one token; it weighs and adds to the loss too."""

    neighbours = (0.0, 1.0)

    def attach(self, backbone):
        self.project = torch.nn.Linear(2, backbone.token_width)
        self.null = torch.nn.Parameter(torch.zeros(backbone.token_width))

    def prepare(self, frame: Frame, user_input=None):
        ahead = frame.ego_at(1.0)
        if ahead is None:
            return Unknown({"place": np.full(2, np.nan, np.float32)})
        return {"place": ahead.translation[:2].astype(np.float32)}

    def encode(self, arrays: Arrays, keep):
        assert list(arrays) == ["place"]
        return Signal(select_or_null(keep, self.project(arrays["place"]), self.null)[:, None])

    def weight(self, arrays: Arrays, step):
        return 1 + arrays["place"].sum(-1).repeat_interleave(len(step.t) // len(arrays["place"])).view(-1, 1, 1, 1)

    def loss(self, pred, target, t, arrays: Arrays):
        return pred.mean() * 0 + arrays["place"].sum()


def moved(known: bool, seed: int = 0) -> Frame:
    """A frame whose next moment is a second later, or that is the last of its scene."""
    from drivegen.scene import Moment
    from drivegen.scene.geometry import SE3

    here = frame(seed)
    later = Moment(here.timestamp_us + 1_000_000, SE3.from_yaw(0.1, (3.0, 1.0, 0.0)))
    return replace(here, neighbours=(later,) if known else ())


@pytest.fixture(scope="module")
def host() -> Host:
    host = Host(tiny_backbone(), {"plan": Plan()}).eval()
    randomize(host.plugin("plan"), 1)
    return host


def batch_of(host: Host, frames: list[Frame]) -> data.Batch:
    plugins = {"plan": host.plugin("plan").weightless()}
    return data.collate([data.prepare(f, plugins) for f in frames], plugins, len(frames[0].cameras))


@torch.no_grad()
@pytest.mark.parametrize("grid", [Grid(3, 1, 3), Grid(1, 3, 3)])
def test_an_unknown_frame_is_null_and_the_others_are_not(host: Host, grid: Grid) -> None:
    batch = batch_of(host, [moved(True), moved(False), moved(True)])
    assert batch.known["plan"].tolist() == [True, False, True]
    x, t = torch.randn(9, 4, 12, 16, generator=torch.manual_seed(0)), torch.full((9,), 500)
    whole = host(x, t, host.encode(batch.arrays, grid))
    known = batch_of(host, [moved(True)] * 3)
    assert known.known["plan"].all()
    for value, rows in ((True, [0, 1, 2, 6, 7, 8]), (False, [3, 4, 5])):
        every = host(x, t, host.encode(known.arrays, grid, {"plan": value}))
        assert torch.equal(whole[rows], every[rows])
    assert not torch.equal(whole[3:6], host(x, t, host.encode(known.arrays, grid))[3:6])


def test_an_unknown_frame_weighs_one_and_adds_no_loss(host: Host) -> None:
    module = DriveModule(host, TrainConfig(steps=1, precision="32"))
    module.log = lambda *args, **options: None  # no trainer here
    known, mixed = (batch_of(host, [moved(True), moved(ok)]) for ok in (True, False))
    nothing = batch_of(host, [moved(False), moved(False)])
    moments = torch.randn(6, 8, 12, 16)

    def loss(batch: data.Batch) -> float:
        torch.manual_seed(0)
        return float(module.training_step(TrainBatch(batch, moments=moments), 0))

    values = [loss(batch) for batch in (nothing, mixed, known)]
    assert np.isfinite(values).all()  # placeholders of NaN reach nothing
    assert values[0] < values[1] < values[2]


def test_generation_and_guidance_take_an_unknown_frame_as_null(host: Host) -> None:
    pipe = Pipeline(Model(host, Sampling(steps=2, guidance=3.0, null=("plan",)), (48, 64)))
    options = {"num_inference_steps": 2, "output_type": "latent"}
    unknown, null = pipe(moved(False), **options), pipe(moved(True), without=["plan"], **options)
    assert all(torch.equal(unknown[c], null[c]) for c in null)
    known = pipe(moved(True), **options)
    assert any(not torch.equal(known[c], null[c]) for c in null)


def test_seconds_that_are_none_are_refused() -> None:
    class Wrong(Plugin):
        neighbours = (0.0, -1.0)

    with pytest.raises(InputError, match=r"plugin 'w' \(Wrong\)\.neighbours is \(0\.0, -1\.0\)"):
        data.neighbours_wanted({"w": Wrong()})
    assert data.neighbours_wanted({"plan": Plan(), "other": Plugin()}) == (0.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("check", ["unknown_is_null", "null_leaks_nothing", "works_on_clips", "batch_equals_singles"])
def test_the_battery_gives_plugins_their_neighbours(check: str) -> None:
    case = Case(Plan)
    assert case.batch(case.host()).known[case.name].all()
    CHECKS[check](case)

"""DreamBooth: its loss in closed form, the halves of its batches, the prior that the model makes once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from drivegen import training
from drivegen.objectives.dreambooth import DreamBooth
from drivegen.support.errors import InputError
from drivegen.testing.objectives import CHECKS, Case
from drivegen.training.checkpoint_file import read
from drivegen.training.order import Balanced

CASE = Case(DreamBooth, {"prior_weight": 0.5})


@pytest.mark.parametrize("check", CHECKS)
def test_the_battery(check: str) -> None:
    CHECKS[check](CASE)


@pytest.mark.parametrize("prior", [None, [False, False], [True, False], [True, True]])
def test_the_loss_is_that_of_the_subject_and_a_share_of_the_priors(prior: list[bool] | None) -> None:
    """As diffusers' train_dreambooth has it: the mean over the one half, and λ times that over the other."""
    module = CASE.module()
    lesson = CASE.lesson(module)
    lesson.prior = None if prior is None else torch.tensor(prior)
    losses = module.objective.step(module.host, lesson)
    prediction = module.host(lesson.noisy(), lesson.t, lesson.encode(module.host))
    errors = (prediction - module.schedule.target(lesson.clean, lesson.noise, lesson.t)).square().reshape(2, -1)
    for name, kind, weight in (("subject", False, 1.0), ("prior", True, 0.5)):
        chosen = [i for i, one in enumerate(prior or [False, False]) if one == kind]
        assert (name in losses) == bool(chosen)
        if chosen:
            torch.testing.assert_close(losses[name], weight * errors[chosen].mean())


def test_batches_hold_as_many_of_either_kind() -> None:
    views, second = [3] * 5 + [2] * 2 + [3] * 2 + [2] * 3, [False] * 7 + [True] * 5
    order = Balanced(views, second, images=12, seed=1)
    batches = [order.batch(i) for i in range(order.per_epoch)]
    for batch in batches:
        assert len({views[i] for i in batch}) == 1
        assert sum(second[i] for i in batch) * 2 == len(batch)
    assert {i for batch in batches for i in batch} == set(range(12))
    assert batches == [Balanced(views, second, images=12, seed=1).batch(i) for i in range(order.per_epoch)]
    alone = Balanced([3, 2, 2, 2], [False, True, True, False], images=12, seed=1)
    assert sorted(sorted({*alone.batch(i)}) for i in range(alone.per_epoch)) == [[0], [1, 2, 3]]


DREAMBOOTH = [
    "train.unet=false", "plugins={}", "drop_groups=[]", "train.accumulate=1", "train.noise_offset=0", "lora.rank=2",
    "objective.kind=dreambooth", "data.prompt='{description}, zkw'", "prior.frames=2", "sampling={steps: 2}",
]  # fmt: skip


@pytest.mark.slow
def test_the_prior_is_made_once_with_its_conditions(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prior"
    given = [*DREAMBOOTH, f"prior.folder={folder}", "prior.prompt='a street, {location}'"]
    assert training.run(config, [*given, f"output={tmp_path / 'a'}", "train.steps=2", "train.images=6"]) == 0
    told = json.loads((folder / "prior.json").read_text())
    assert told["complete"]
    assert set(told["made_of"]["prompts"].values()) == {"a street, boston-seaport"}
    from drivegen import datasets

    data = datasets.open(folder, None)
    frames = [data.frame(token) for scene in data.scenes for token in data.samples(scene)]
    assert [frame.description for frame in frames] == ["a street, boston-seaport"] * 2
    assert all(frame.boxes and frame.map is not None for frame in frames)
    pictures = {path: path.stat().st_mtime_ns for path in (folder / "samples").rglob("*.png")}
    assert training.run(config, [*given, f"output={tmp_path / 'b'}", "train.steps=2", "train.images=6"]) == 0
    assert pictures == {path: path.stat().st_mtime_ns for path in (folder / "samples").rglob("*.png")}
    a, b = (read(tmp_path / name / "last.ckpt")["state_dict"] for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    for wrong, said in (("prior.seed=1", "a prior of another seed"), ("sampling={steps: 3}", "a prior of another sampling")):
        with pytest.raises(InputError, match=said):
            training.run(config, [*given, wrong, f"output={tmp_path / 'c'}"])
    next(iter(pictures)).write_bytes(b"another")
    with pytest.raises(InputError, match="was changed since the prior was made; delete"):
        training.run(config, [*given, f"output={tmp_path / 'd'}"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "objective dreambooth needs the group prior"),
        (["prior.folder=x", "objective.kind=noise"], "objective noise does not tell a prior apart"),
        (["prior.folder=x", "objective.options={prior_weight: -1}"], "prior_weight = -1 is out of range"),
        (["prior.folder=x", "prior.frames=0"], "prior.frames = 0"),
    ],
)
def test_what_is_refused(config: Path, overrides: list[str], said: str) -> None:
    given = [one for one in DREAMBOOTH if not one.startswith("prior")]
    with pytest.raises(InputError, match=said):
        training.describe(config, [*given, *overrides])

"""Objectives in a training: bits of the plain loss, groups, averages, names of losses that are not finite, twins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drivegen.catalog import objectives
from drivegen.diffusion.loss_weighting import min_snr_weights
from drivegen.host.host import Host
from drivegen.objectives import GroupOptions, Lesson, Objective, follow, twin
from drivegen.objectives.noise import Noise
from drivegen.support.errors import Diverged, InputError
from drivegen.testing.objectives import Case
from drivegen.training.config import TrainConfig
from drivegen.training.module import DriveModule
from drivegen.tuners.lora import LoRA
from tests.tiny_hosts import tiny_host


class Judged(Objective):
    """The plain loss and a judge of the prediction, which the host does not hear of."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.judge = scale, nn.Conv2d(4, 1, 1)

    def step(self, host: Host, lesson: Lesson) -> Mapping[str, Tensor]:
        noisy, target = lesson.noisy(), lesson.schedule.target(lesson.clean, lesson.noise, lesson.t)
        prediction = host(noisy, lesson.t, lesson.encode(host)).float()
        judged = self.scale * self.judge(prediction.detach()).square().mean()
        return {"noise": lesson.loss(host, prediction, target, noisy=noisy), "judge": judged}

    def groups(self) -> Mapping[str, GroupOptions]:
        return {"judge.": GroupOptions(lr=1e-2, betas=(0.0, 0.99), clip=1e-3)}


@pytest.mark.parametrize("weighting", ["plain", "min_snr"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_plain_loss_is_the_weighed_mean_of_squares(weighting: str, prediction: str) -> None:
    case = Case(Noise, prediction_type=prediction, settings={"weighting": weighting})
    module = case.module()
    lesson = case.lesson(module)
    lesson.gamma = 5.0 if weighting == "min_snr" else None
    loss = module.objective.step(module.host, lesson)["noise"]
    made = module.host(lesson.noisy(), lesson.t, module.host.encode(lesson.arrays, lesson.grid, lesson.keep))
    errors = (made - module.schedule.target(lesson.clean, lesson.noise, lesson.t)).square()
    if weighting == "min_snr":
        errors = errors * min_snr_weights(module.schedule, lesson.t, 5.0)[:, None, None, None]
    assert torch.equal(loss, errors.mean())
    assert list(lesson.terms) == ["asked"]


def test_a_group_beside_the_model_changes_nothing_of_it_and_is_clipped_by_itself() -> None:
    alone, _ = Case(Noise, settings={"clip": 0.1}).trained(2)
    judged, checkpoint = Case(Judged, {"scale": 1e6}, settings={"clip": 0.1}).trained(2)
    own = dict(judged.host.named_parameters())
    assert all(torch.equal(value, own[name]) for name, value in alone.host.named_parameters())
    (averages,) = (value["average"] for key, value in checkpoint["callbacks"].items() if key.startswith("EMA"))
    assert set(averages) == {name for name, _ in judged.trained() if name.startswith("host.")}
    rates = [group["initial_lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]]
    assert rates == [1e-3, 1e-3, 1e-2, 1e-2]
    for parameters, limit in ((dict(judged.objective.named_parameters()), 1e-3), (own, 0.1)):
        norm = torch.stack([p.grad.norm() for p in parameters.values() if p.grad is not None]).norm()
        assert float(norm) == pytest.approx(limit, rel=1e-3)


def test_the_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(Diverged, match=r"^the loss of judge is inf at step 0, samples first, second; "):
        Case(Judged, {"scale": 1e39}).trained(1)


def test_an_objective_with_a_wrong_group_or_loss_is_named() -> None:
    class Wrong(Judged):
        def groups(self) -> Mapping[str, GroupOptions]:
            return {"head.": GroupOptions()}

    with pytest.raises(InputError, match=r"Wrong.groups names 'head\.'.*judge\.weight"):
        Case(Wrong).trained(1)

    class Many(Judged):
        def step(self, host: Host, lesson: Lesson) -> Mapping[str, Tensor]:
            return {"noise": lesson.clean}

    with pytest.raises(InputError, match=r"Many.step: the loss 'noise' is a tensor of shape"):
        Case(Many).trained(1)


def test_a_twin_of_a_host_with_a_lora_costs_the_lora_and_stays_what_it_was() -> None:
    host = tiny_host(("text", "cross_view", "layout"))
    host.add_tuner("lora", LoRA(rank=2))
    other = twin(host)
    shared = {id(p) for p in host.parameters()}
    assert sum(p.numel() for p in other.parameters() if id(p) not in shared) == sum(
        p.numel() for _, p in host.tuner("lora").named_parameters()
    )
    assert not any(p.requires_grad for p in other.parameters())
    assert other.runtime is not host.runtime
    with torch.no_grad():
        for _, parameter in host.tuner("lora").named_parameters():
            parameter.add_(0.1)
    ours, theirs = (list(each.tuner("lora").parameters()) for each in (host, other))
    before = [p.clone() for p in theirs]
    assert all(not torch.equal(a, b) for a, b in zip(before, ours, strict=True))
    follow(other, host, 0.75)
    for old, now, wanted in zip(before, theirs, ours, strict=True):
        torch.testing.assert_close(now, 0.75 * old + 0.25 * wanted)
    follow(other, host)
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))


def test_a_checkpoint_of_another_teacher_is_refused() -> None:
    class Taught(Judged):
        def attach(self, host: Host, schedule: Any) -> None:
            self.teacher = twin(host)

    case = Case(Taught)
    module, checkpoint = case.trained(1)
    other = case.module()
    with torch.no_grad():
        next(p for p in other.objective.teacher.parameters() if p.ndim > 1).add_(1.0)  # type: ignore[union-attr]
    case.module().on_load_checkpoint(checkpoint)
    with pytest.raises(InputError, match="the objective's networks"):
        other.on_load_checkpoint(checkpoint)
    assert module.objective.teacher is not None  # type: ignore[union-attr]


def test_a_config_names_its_objective() -> None:
    with pytest.raises(InputError, match=r"no objective 'nois'.*did you mean"):
        objectives.make("nois")
    with pytest.raises(InputError, match=r"objective\.options\.weight = 2 is unknown"):
        objectives.make("noise", {"weight": 2})
    assert isinstance(DriveModule(tiny_host(("text",)), TrainConfig(steps=1)).objective, Noise)

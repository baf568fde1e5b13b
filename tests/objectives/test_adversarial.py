"""The adversarial student: who gets which gradient, hinge and penalty in closed form, the distance to the teacher."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from drivegen.catalog import objectives
from drivegen.objectives.adversarial import Adversarial
from drivegen.support.errors import InputError
from drivegen.testing.objectives import Case

CASE = Case(Adversarial, {"steps": 2, "r1": 1.0})


def gradients(module: Any, loss: torch.Tensor) -> dict[str, bool]:
    module.zero_grad()
    loss.backward(retain_graph=True)
    reached = {"host": False, "objective": False}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and bool((parameter.grad != 0).any()):
            reached[name.split(".")[0]] = True
    return reached


def test_the_student_hears_the_heads_and_the_heads_learn_by_themselves() -> None:
    module = CASE.module()
    losses = module.objective.step(module.host, CASE.lesson(module))
    assert set(losses) == {"adversarial", "distillation", "heads", "r1"}
    student, heads = {"host": True, "objective": False}, {"host": False, "objective": True}
    assert [gradients(module, losses[name]) for name in losses] == [student, student, heads, heads]


def test_hinge_and_penalty_in_closed_form() -> None:
    module = CASE.module()
    objective: Any = module.objective
    with torch.no_grad():
        for head in objective.heads:
            for parameter in head[-1].parameters():
                parameter.zero_()
    losses = objective.step(module.host, CASE.lesson(module))
    assert float(losses["heads"]) == pytest.approx(2.0)  # of a judge without opinion
    assert float(losses["r1"]) == 0.0
    assert float(losses["adversarial"]) == 0.0
    # A head that is one number times its input's mean has a gradient of the same number everywhere.
    objective.heads = torch.nn.ModuleList(torch.nn.Conv2d(head[0].in_channels, 1, 1, bias=False) for head in objective.heads)
    with torch.no_grad():
        for head in objective.heads:
            head.weight.fill_(0.5)
    seen: list[Any] = []
    features = objective._features
    objective._features = lambda *given: seen.append(features(*given)) or seen[-1]
    losses = objective.step(module.host, CASE.lesson(module))
    expected = sum(0.25 * f[0].numel() for f in seen[0][0])
    assert float(losses["r1"]) == pytest.approx(expected, rel=1e-4)
    fake, real = (torch.cat([0.5 * f.sum(1).flatten(1) for f in found], 1) for found, _ in seen)
    hinge = torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()
    assert float(losses["heads"]) == pytest.approx(float(hinge), rel=1e-4)
    assert float(losses["adversarial"]) == pytest.approx(-float(fake.mean()), rel=1e-4)


def test_it_learns_at_the_timesteps_of_its_sampler() -> None:
    from drivegen.sampling import Sampling

    module = Case(Adversarial, {"steps": 4}).module()
    asked = module.objective.sampling()
    sampling = Sampling().replaced(**asked)
    run = sampling.run(module.host.backbone.scheduler)
    seen: set[int] = set()
    plugin: Any = module.host.plugin("asked")
    plugin.loss = lambda pred, target, t, arrays: seen.update(t.tolist())
    lesson = CASE.lesson(module)
    for _ in range(4):
        module.objective.step(module.host, lesson)
    assert seen <= set(sampling.made().timesteps(run).tolist()) == {249, 499, 749, 999}


def test_the_distillation_of_a_student_that_is_its_teacher_and_alpha() -> None:
    """With the picture itself predicted and the teacher agreeing, there is nothing to learn from it."""
    module = Case(Adversarial, {"steps": 1, "distillation": 2.0}).module()
    case_losses = []
    for guidance in (1.0, 4.0):
        module = Case(Adversarial, {"steps": 1, "distillation": 2.0, "guidance": guidance}).module()
        case_losses.append(float(module.objective.step(module.host, CASE.lesson(module))["distillation"]))
    assert case_losses[0] > 0
    assert case_losses[0] != case_losses[1]
    without = Case(Adversarial, {"distillation": 0.0, "r1": 0.0}).module()
    losses = without.objective.step(without.host, CASE.lesson(without))
    assert float(losses["distillation"]) == 0.0
    assert "r1" not in losses


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps = 0"), ({"r1": -1.0}, "r1 = -1"), ({"distillation": -0.1}, "distillation"),
        ({"head_lr": 0.0}, "head_lr"),
        ({"guidance": 0.0}, "guidance = 0"), ({"guidance_rescale": 1.5}, "guidance_rescale"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        objectives.make("adversarial", options)
    with pytest.raises(InputError, match="matches no block"):
        Case(Adversarial, {"sites": "nowhere.*"}).module()

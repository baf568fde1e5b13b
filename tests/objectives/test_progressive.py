"""Progressive distillation: one step of the student is two of the teacher's, stages chain, guidance is distilled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from drivegen.catalog import objectives, samplers
from drivegen.objectives.progressive import Progressive
from drivegen.objectives.solver import CLEAN, grid, jump, leading_to
from drivegen.plugin.sampler import Run
from drivegen.support.errors import InputError
from drivegen.testing.objectives import Case
from drivegen.testing.samplers import Case as SamplerCase


@pytest.mark.parametrize(("kind", "zero_snr"), [("epsilon", False), ("v_prediction", False), ("v_prediction", True)])
def test_sampling_a_perfect_student_is_sampling_its_teacher_in_twice_the_steps(kind: str, zero_snr: bool) -> None:
    """Any network will do as the teacher: here one whose prediction bends with x and t."""
    trained = SamplerCase(samplers.load("euler"), prediction_type=kind).trained(zero_snr=zero_snr)
    run = Run(trained=trained, steps=4)
    schedule, steps = run.schedule, 4
    finer = [CLEAN, *grid(schedule.steps, 2 * steps).tolist()]

    def teacher(x: Tensor, t: Tensor, known: Any = None) -> Tensor:
        bent = (
            torch.tanh(x * (0.5 + t.to(x).view(-1, *[1] * (x.ndim - 1)) / 1000)) if t.ndim else torch.tanh(x * (0.5 + t / 1000))
        )
        return 0.8 * bent + 0.1

    def student(x: Tensor, t: Tensor, known: Any = None) -> Tensor:
        at = finer.index(int(t))
        start, middle, end = (torch.full((len(x),), finer[at - k]) for k in range(3))
        half = jump(schedule, x, start, teacher(x, start), middle)
        landed = jump(schedule, half, middle, teacher(half, middle), end)
        return leading_to(schedule, x, start, landed, end)

    x = torch.randn(3, 4, 8, 8, generator=torch.manual_seed(0), dtype=torch.float64)
    one = samplers.make("euler")(student, x, run)
    two = samplers.make("euler")(teacher, x, Run(trained=trained, steps=8))
    assert float((one - two).norm() / two.norm()) < 1e-4


def test_a_step_s_target_is_where_two_guided_steps_of_the_teacher_land() -> None:
    seen: list[Any] = []
    case = Case(Progressive, {"teacher_steps": 8, "stages": 2, "guidance": 3.0, "null": ["asked"]})
    module = case.module()
    module.host.plugin("asked").loss = lambda pred, target, t, arrays: seen.append((target, t))  # type: ignore[method-assign]
    lesson = case.lesson(module)
    module.objective.step(module.host, lesson)
    ((target, t),) = seen
    host, schedule = module.objective.teacher, lesson.schedule  # type: ignore[union-attr]
    assert set(t.tolist()) <= {249, 499, 749, 999}
    x = lesson.noisy(t)
    with torch.no_grad():
        known, null = lesson.encode(host), lesson.encode(host, null=["asked"])
        at, places = x, [t, t - 125, t - 250]
        for here, there in ((places[0], places[1]), (places[1], torch.where(places[2] < 0, CLEAN, places[2]))):
            u, c = host(at, here, null), host(at, here, known)
            at = jump(schedule, at, here, u + 3 * (c - u), there)
    assert torch.equal(torch.where(places[2] < 0, CLEAN, places[2]), there)
    torch.testing.assert_close(jump(schedule, x, t, target, there), at, rtol=1e-4, atol=1e-4)


def test_stages_chain_and_the_student_becomes_the_teacher() -> None:
    case = Case(Progressive, {"teacher_steps": 8, "stages": 2, "steps_per_stage": 2, "guidance": 2.0})
    before = case.module()
    objective: Any
    for steps, same, stage, sampled in ((1, "base", 0, 4), (2, "student", 1, 4), (3, "neither", 1, 2)):
        module = case.trained(steps)[0]
        objective = module.objective
        teacher, host = dict(objective.teacher.named_parameters()), dict(module.host.named_parameters())
        base = dict(before.objective.teacher.named_parameters())  # type: ignore[union-attr]
        as_base = all(torch.equal(p, base[name]) for name, p in teacher.items())
        as_student = all(torch.equal(p, host[name]) for name, p in teacher.items())
        assert (as_base, as_student) == (same == "base", same == "student"), steps
        assert (objective.stage, objective.sampling()["steps"]) == (stage, sampled), steps
    assert objective.sampling() == {"sampler": "euler", "steps": 2, "guidance": 1.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"teacher_steps": 6, "stages": 2}, "teacher_steps = 6 cannot be halved 2 times"), ({"stages": 0}, "stages = 0"),
        ({"teacher_steps": 1, "stages": 1}, "cannot be halved"), ({"steps_per_stage": 0}, "steps_per_stage = 0"),
        ({"guidance": 0.5}, "guidance = 0.5"), ({"guidance_rescale": 2.0}, "guidance_rescale = 2"),
        ({"steps_per_stage": 1.5}, "steps_per_stage = 1.5"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        objectives.make("progressive", options)
    with pytest.raises(InputError, match="there is no plugin 'nobody'"):
        Case(Progressive, {"null": ["nobody"]}).module()

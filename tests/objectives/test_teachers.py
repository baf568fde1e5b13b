"""Teachers of distillation: the model without the tuners that learn, also where these begin from an earlier student."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from drivegen.catalog import objectives
from drivegen.objectives import teacher_of
from drivegen.testing.models import randomize
from drivegen.testing.objectives import Case
from drivegen.tuners.lora import LoRA

OPTIONS: dict[str, dict[str, Any]] = {
    "trajectory": {"teacher_steps": 8, "steps": 2, "guidance": 3.0},
    "progressive": {"teacher_steps": 8, "stages": 2, "steps_per_stage": 3, "guidance": 3.0},
    "lcm": {"decay": 0.5},
    "tcd": {},
    "adversarial": {},
}


class Begun(LoRA):
    """A LoRA that does not begin at nothing, as one that is read from a file."""

    def __init__(self) -> None:
        super().__init__(rank=2)

    def bind(self, backbone: Any) -> None:
        """Bind, with random numbers."""
        super().bind(backbone)
        randomize(self, 7)


def predicted(host: Any, lesson: Any) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = host(lesson.noise, lesson.t, lesson.encode(host))
    return answer


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_teacher_has_nothing_of_a_student_that_is_trained_on(kind: str) -> None:
    case = Case(objectives.load(kind), OPTIONS[kind], trains="lora", tuner=Begun)
    module = case.module()
    host, objective, lesson = module.host, module.objective, case.lesson(module)
    teacher = getattr(objective, "first", objective.teacher)
    student, taught = predicted(host, lesson), predicted(teacher, lesson)
    with host.without_tuners():
        base = predicted(host, lesson)
    assert torch.equal(taught, base)
    assert float((student - base).norm() / base.norm()) > 0.05


def test_the_second_teacher_of_progressive_is_the_student_of_the_first_stage() -> None:
    case = Case(objectives.load("progressive"), OPTIONS["progressive"], trains="lora", tuner=Begun)
    module = case.module()
    randomize(module.host.tuner("lora"), 8)  # it has learned
    for _ in range(3):
        module.objective.after(module.host)
    lesson = case.lesson(module)
    assert torch.equal(predicted(module.objective.teacher, lesson), predicted(module.host, lesson))


def test_a_tuner_that_does_not_learn_stays_with_the_teacher() -> None:
    case = Case(objectives.load("trajectory"), OPTIONS["trajectory"], trains="lora")
    module = case.module()
    host, lesson = module.host, case.lesson(module)
    host.add_tuner("style", Begun())
    host.tuner("style").requires_grad_(False)
    teacher = teacher_of(host)
    assert list(teacher.tuners) == ["style"]
    host.remove_tuner("lora")
    assert torch.equal(predicted(teacher, lesson), predicted(host, lesson))

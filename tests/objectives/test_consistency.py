"""Consistency distillation: diffusers' boundary, no loss for a student that is consistent, the embedding of the scale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import LCMScheduler
from torch import Tensor

from drivegen.catalog import objectives, registry
from drivegen.host.host import Host
from drivegen.objectives.consistency import LCM, TCD, Way, boundary
from drivegen.objectives.solver import jump
from drivegen.support.errors import InputError
from drivegen.testing.objectives import CHECKS, Case
from drivegen.testing.samplers import gaussian

EMBEDDED = {"scale": registry.load("guidance_embedding")}


def test_the_boundary_is_lcm_scheduler_s() -> None:
    scheduler, t = LCMScheduler(), torch.tensor([0, 19, 499, 999])
    skip, out = boundary(t, torch.zeros((), dtype=torch.float64))
    expected = [scheduler.get_scalings_for_boundary_condition_discrete(int(one)) for one in t]
    torch.testing.assert_close(skip.flatten(), torch.tensor([float(a) for a, _ in expected], dtype=torch.float64))
    torch.testing.assert_close(out.flatten(), torch.tensor([float(b) for _, b in expected], dtype=torch.float64))


class Known(Host):
    """Predicts for a Gaussian what is known in closed form: the best prediction, or the end of the trajectory."""

    knows: Any = None

    def forward(self, x: Tensor, t: Tensor, conditions: Any, progress: float = 0.0) -> Tensor:
        return self.knows(x, t)


def closed(module: Any, student: Any, teacher: Any) -> None:
    for host, knows in ((module.host, student), (module.objective.teacher, teacher), (module.objective.average, student)):
        host.__class__, host.knows = Known, knows


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_consistent_student_of_a_gaussian_has_no_loss(kind: str) -> None:
    found = []
    for steps in (25, 100):
        case = Case(LCM, {"solver_steps": steps, "guidance": [1.0, 1.0], "loss": "l2"}, kind)
        for distilled in (True, False):
            module = case.module()
            closed(module, gaussian(module.schedule, distilled), gaussian(module.schedule))
            found.append(float(module.objective.step(module.host, case.lesson(module))["consistency"]))
    consistent, other, finer, other_finer = found
    assert consistent < 1e-3
    assert finer < consistent / 6  # a solver of order one: the square of its error falls sixteenfold
    assert other > 10 * consistent
    assert other_finer > 10 * finer


def test_tcd_s_student_may_aim_anywhere_below_and_lands_by_ddim() -> None:
    case = Case(TCD, {"solver_steps": 20, "guidance": [1.0, 1.0], "loss": "l2"})
    module = case.module()
    lesson, objective = case.lesson(module), module.objective
    ends = torch.tensor([0, 449]).repeat_interleave(3)
    aims = torch.stack([objective.aim(ends, lesson) for _ in range(60)])  # type: ignore[operator]
    assert (aims[:, 0] == 0).all()
    assert int(aims.max()) <= 449
    assert int(aims.max()) - int(aims.min()) > 300
    assert all(len(set(row[3:].tolist())) == 1 for row in aims)  # one per scene
    x, t, p = lesson.noisy(), lesson.t, torch.randn(lesson.clean.shape, generator=torch.manual_seed(1))
    assert torch.equal(objective.land(Way(lesson.schedule, x, t, t - 50), p), jump(lesson.schedule, x, t, p, t - 50))  # type: ignore[operator]


@pytest.mark.parametrize("cls", [LCM, TCD])
def test_plugins_see_the_prediction_that_lands_on_the_target(cls: Any) -> None:
    case = Case(cls, {"guidance": [1.0, 1.0]})
    module = case.module()
    lesson, objective = case.lesson(module), module.objective
    x, t, p = lesson.noisy(), lesson.t, torch.randn(lesson.clean.shape, generator=torch.manual_seed(1))
    to = t // 2
    way = Way(lesson.schedule, x, t, to)
    landed = objective.land(way, p)  # type: ignore[operator]
    torch.testing.assert_close(objective.aimed(way, landed), p, rtol=1e-3, atol=1e-3)  # type: ignore[operator]


def test_the_student_is_told_the_scale_and_the_teacher_is_not() -> None:
    case = Case(LCM, {"guidance": [2.0, 8.0], "embedding": "scale"}, plugins=EMBEDDED)
    module = case.module()
    told: list[Any] = []
    for host in (module.host, module.objective.teacher, module.objective.average):  # type: ignore[union-attr]
        encode = host.encode
        host.encode = lambda arrays, grid, keep=None, scales=None, own=encode, host=host: (  # type: ignore[union-attr, misc]
            told.append((host, arrays["scale"]["guidance"], scales)) or own(arrays, grid, keep, scales)
        )
    module.objective.step(module.host, case.lesson(module))
    scales = {id(host): (values, absent) for host, values, absent in told}
    student, average = scales[id(module.host)][0], scales[id(module.objective.average)][0]
    assert torch.equal(student, average)
    assert bool(((student >= 2) & (student <= 8)).all())
    assert len(set(student.tolist())) == 2
    assert scales[id(module.objective.teacher)][1] == {"scale": 0.0}
    assert module.objective.sampling()["guidance"] == 8.0


@pytest.mark.slow
@pytest.mark.parametrize("check", ["gives_losses", "steps_and_resumes", "shares_what_is_frozen"])
@pytest.mark.parametrize("trains", ["unet", "lora"])
def test_with_an_embedding_the_contract_is_kept(check: str, trains: str) -> None:
    CHECKS[check](Case(LCM, {"guidance": [2.0, 8.0], "embedding": "scale"}, plugins=EMBEDDED, trains=trains))


@pytest.mark.slow
def test_a_lora_of_consistency_resumes_without_an_average() -> None:
    case = Case(LCM, {"guidance": [4.0, 4.0], "decay": 0.0}, trains="lora")
    CHECKS["steps_and_resumes"](case)
    assert dict(case.module().objective.remembered()) == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"guidance": [2.0, 3.0]}, "is a range"), ({"guidance": [3.0, 2.0]}, "least and the greatest"),
        ({"guidance": [0.5, 1.0]}, "1 to 100"),
        ({"decay": 1.0}, "decay = 1"), ({"huber": 0.0}, "huber = 0"), ({"steps": 60}, "steps = 60"), ({"loss": "l1"}, "loss"),
        ({"guidance": 3.0}, "guidance"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        objectives.make("lcm", options)


def test_what_does_not_fit_the_model_is_refused() -> None:
    for options, said in (
        ({"solver_steps": 600, "steps": 4}, "do not divide"), ({"embedding": "asked"}, "does not take the scale"),
        ({"embedding": "nobody"}, "no plugin 'nobody'"), ({"null": ["nobody"]}, "no plugin 'nobody'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            Case(LCM, options).module()

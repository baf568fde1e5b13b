"""Distillation along the teacher's trajectories: they are what sampling walks, and kept ones are read in place of a walk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drivegen.catalog import objectives, samplers
from drivegen.objectives.solver import CLEAN, grid, jump
from drivegen.objectives.trajectory import Trajectory
from drivegen.plugin.sampler import Run
from drivegen.support.errors import InputError
from drivegen.testing.objectives import Case

OPTIONS = {"teacher_steps": 8, "steps": 2, "guidance": 3.0, "null": ["asked"]}


def test_the_walk_is_what_the_sampler_makes_of_the_same_noise() -> None:
    module = Case(Trajectory, OPTIONS).module()
    lesson, objective = Case(Trajectory, OPTIONS).lesson(module), module.objective
    host: Any = objective.teacher
    with torch.no_grad():
        known, null = lesson.encode(host), lesson.encode(host, null=["asked"])

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            rows = t.expand(len(x))
            u, c = host(x, rows, null), host(x, rows, known)
            return u + 3 * (c - u)

        run = Run(trained=module.host.backbone.scheduler, steps=8)
        sampled = samplers.make("euler")(denoise, lesson.noise, run)
        places = objective.walk(lesson)  # type: ignore[operator]
    assert places.shape == (6, 3, 4, 8, 8)
    assert torch.equal(places[:, 2], lesson.noise)
    # A sampler on noise levels lifts the last α off zero, so that they agree to that.
    assert float((places[:, 0] - sampled).norm() / sampled.norm()) < 0.02


def test_the_target_leads_from_place_to_place() -> None:
    seen: list[Any] = []
    case = Case(Trajectory, OPTIONS)
    module = case.module()
    module.host.plugin("asked").loss = lambda pred, target, t, arrays: seen.append((target, t))  # type: ignore[method-assign]
    lesson, objective = case.lesson(module), module.objective
    objective.step(module.host, lesson)
    ((target, t),) = seen
    assert set(t.tolist()) == {499, 999}
    places = objective.walk(lesson)  # type: ignore[operator]
    at = [CLEAN, *grid(1000, 2).tolist()]
    index = torch.tensor([at.index(int(one)) for one in t])
    rows, ends = torch.arange(6), torch.tensor(at)[index - 1]
    landed = jump(lesson.schedule, places[rows, index], t, target, ends)
    torch.testing.assert_close(landed, places[rows, index - 1], rtol=1e-4, atol=1e-4)


def test_kept_trajectories_are_read_where_teacher_options_and_conditions_are_the_same(tmp_path: Path) -> None:
    options = {**OPTIONS, "cache": str(tmp_path)}
    case = Case(Trajectory, options)
    module = case.module()
    assert not list(tmp_path.iterdir())  # as long as nothing is asked of it: a dry run writes nothing
    lesson = case.lesson(module)
    first = module.objective.step(module.host, lesson)["step"]
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == 2  # one per scene

    later = case.module()
    later.objective.walk = lambda lesson: pytest.fail("walked again")  # type: ignore[method-assign, assignment]
    other_noise = replace(case.lesson(later), noise=torch.zeros_like(lesson.noise))
    assert torch.equal(later.objective.step(later.host, other_noise)["step"], first)

    told = {"asked": {"values": lesson.arrays["asked"]["values"] + 1}}
    module.objective.step(module.host, replace(lesson, arrays=told))
    dropped = {name: torch.tensor([False, True]) for name in lesson.keep}
    module.objective.step(module.host, replace(lesson, keep=dropped))
    assert len(list(folder.iterdir())) == 6
    others = (Case(Trajectory, {**options, "guidance": 2.0}), Case(Trajectory, options, prediction_type="epsilon"))
    assert len({module.objective.folder, *(case.module().objective.folder for case in others)}) == 3


def test_a_damaged_or_foreign_file_is_named(tmp_path: Path) -> None:
    case = Case(Trajectory, {**OPTIONS, "cache": str(tmp_path)})
    module = case.module()
    module.objective.step(module.host, case.lesson(module))
    for damage in (lambda p: p.write_bytes(p.read_bytes()[:-100]), lambda p: p.write_bytes(b"")):
        path = next(next(tmp_path.iterdir()).iterdir())
        damage(path)
        with pytest.raises(InputError, match=path.name):
            module.objective.step(module.host, case.lesson(module))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"teacher_steps": 20, "steps": 3}, "steps = 3 must divide teacher_steps = 20"), ({"steps": 0}, "steps = 0"),
        ({"steps": 20}, "and be fewer"), ({"guidance": 0.5}, "guidance = 0.5"), ({"guidance_rescale": 2.0}, "guidance_rescale"),
        ({"kept": 2}, "need a folder; give cache"), ({"kept": 0, "cache": "x"}, "kept = 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        objectives.make("trajectory", options)
    with pytest.raises(InputError, match="there is no plugin 'nobody'"):
        Case(Trajectory, {"null": ["nobody"]}).module()
    with pytest.raises(InputError, match="more than the 1000 timesteps"):
        Case(Trajectory, {"teacher_steps": 1200, "steps": 4}).module()

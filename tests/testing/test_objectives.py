"""Every objective of drivegen's passes the objectives' battery, and the battery finds what it says it finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from drivegen.catalog import objectives
from drivegen.host.host import Host
from drivegen.objectives import GroupOptions, Lesson, Objective, follow, twin
from drivegen.objectives.noise import Noise
from drivegen.testing.objectives import CHECKS, Case

OURS = sorted(
    entry.kind for entry in objectives.offers()
    if entry.target.startswith("drivegen.") and entry.kind != "merging"  # with its tuner, in tests/tuners/test_ziplora.py
)  # fmt: skip

FITTING: dict[str, dict[str, Any]] = {
    "trajectory": {"options": {"teacher_steps": 8, "guidance": 2.0, "guidance_rescale": 0.5}},
    "progressive": {"options": {"teacher_steps": 8, "stages": 3, "steps_per_stage": 1, "guidance": 2.0}},
    "lcm": {"options": {"guidance": [3.0, 3.0]}}, "tcd": {"options": {"guidance": [3.0, 3.0], "decay": 0.5}},
    "adversarial": {"options": {"guidance": 2.0}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", OURS)
def test_ours_keep_the_contract(name: str, check: str) -> None:
    CHECKS[check](Case(objectives.load(name), **FITTING.get(name, {})))


class Honest(Objective):
    """Agrees with an average of itself besides, through a layer of its own."""

    def __init__(self, decay: float = 0.5) -> None:
        super().__init__()
        self.decay, self.head = decay, torch.nn.Conv2d(4, 4, 1)

    def attach(self, host: Host, schedule: Any) -> None:
        self.average = self.second(host)

    def second(self, host: Host) -> Host:
        return twin(host)

    def step(self, host: Host, lesson: Lesson) -> Mapping[str, Tensor]:
        noisy, target = lesson.noisy(), lesson.schedule.target(lesson.clean, lesson.noise, lesson.t)
        prediction = host(noisy, lesson.t, lesson.encode(host))
        with torch.no_grad():
            other = self.average(noisy, lesson.t, lesson.encode(self.average))
        return {
            "noise": self.error(host, lesson, prediction, target),
            "average": (self.head(prediction) - other).square().mean(),
        }

    def error(self, host: Host, lesson: Lesson, prediction: Tensor, target: Tensor) -> Tensor:
        return lesson.loss(host, prediction, target)

    def after(self, host: Host) -> None:
        follow(self.average, host, self.decay)

    def groups(self) -> Mapping[str, GroupOptions]:
        return {"head.": GroupOptions(lr=1e-2, clip=0.1)}

    def remembered(self) -> Any:
        shared = {id(p) for p in self.average.parameters()}
        own = ((f"average.{name}", p) for name, p in self.average.named_parameters())
        return ((name, p) for name, p in own if id(p) in shared)


class Infinite(Honest):
    """Its first loss is not finite."""

    def error(self, host: Host, lesson: Lesson, prediction: Tensor, target: Tensor) -> Tensor:
        return lesson.loss(host, prediction, target) / 0


class Detached(Honest):
    """Forgets that the prediction has gradients."""

    def error(self, host: Host, lesson: Lesson, prediction: Tensor, target: Tensor) -> Tensor:
        return lesson.loss(host, prediction.detach(), target)

    def step(self, host: Host, lesson: Lesson) -> Mapping[str, Tensor]:
        with torch.no_grad():
            super().step(host, lesson)
        return {"nothing": self.head.weight.sum() + self.head.bias.sum()}


class Alone(Honest):
    """Does not ask the plugins."""

    def error(self, host: Host, lesson: Lesson, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean()


class Writing(Honest):
    """Writes to the noise."""

    def error(self, host: Host, lesson: Lesson, prediction: Tensor, target: Tensor) -> Tensor:
        lesson.noise.zero_()
        return lesson.loss(host, prediction, target)


class Moving(Honest):
    """Follows while it measures."""

    def validate(self, host: Host, lesson: Lesson) -> Tensor:
        self.head.bias.add_(1.0)
        return super().validate(host, lesson)


class Copying(Honest):
    """Copies the whole model."""

    def second(self, host: Host) -> Host:
        import copy

        return copy.deepcopy(host).requires_grad_(False)


class Forgetful(Honest):
    """Remembers nothing of its average."""

    def remembered(self) -> Any:
        return iter(())


class Wishful(Honest):
    """Asks for a sampler that is not there."""

    def sampling(self) -> Mapping[str, Any]:
        return {"sampler": "in_no_steps"}


class NeedsAnOption(Honest):
    """Has an option without a default."""

    def __init__(self, decay: float) -> None:
        super().__init__(decay)


BROKEN: list[tuple[type[Objective], str, str]] = [
    (Infinite, "gives_losses", "the loss 'noise' is"), (Detached, "gradients_reach_what_learns", "no gradient reaches"),
    (Alone, "asks_plugins", "weight and loss"), (Writing, "leaves_its_inputs", "noise was written to"),
    (Moving, "validates", "the same frames measure"), (Copying, "shares_what_is_frozen", "a copy of"),
    (Forgetful, "steps_and_resumes", "a resumed run differs"),
    (Wishful, "asks_for_possible_sampling", "in_no_steps"), (NeedsAnOption, "options_are_plain", ""),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "check", "said"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_promise_is_found(cls: type[Objective], check: str, said: str) -> None:
    options = {"decay": 0.5} if cls is NeedsAnOption else {}
    case = Case(cls, options)
    with pytest.raises((AssertionError, ValueError), match=said):
        CHECKS[check](case)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_an_honest_objective_passes(check: str) -> None:
    CHECKS[check](Case(Honest))


def test_every_check_has_an_objective_that_breaks_it() -> None:
    assert {check for _, check, _ in BROKEN} == set(CHECKS)
    assert "noise" in OURS
    assert isinstance(objectives.make("noise"), Noise)

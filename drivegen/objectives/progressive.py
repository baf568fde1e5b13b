"""Progressive distillation: each stage halves the steps that sampling takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host.host import Host
from drivegen.objectives.contract import Objective
from drivegen.objectives.lesson import Lesson
from drivegen.objectives.solver import CLEAN, Guided, grid, jump, leading_to
from drivegen.objectives.twin import follow, sampling_teacher, twin
from drivegen.support.errors import InputError


class Progressive(Objective):
    """Make one step of DDIM land where two of the teacher's land; then the student is the next teacher (Salimans and Ho 2022).

    The error is that of the prediction, which for v is the paper's SNR + 1 weight (its section 4).

    Args:
        teacher_steps: in how many steps the first teacher samples; divisible by 2 to the power of stages.
        stages: how many times they are halved.
        steps_per_stage: optimiser steps of each stage; the last goes on as long as the training does.
        guidance: scale of the first teacher's guidance, which is thereby distilled (Meng et al. 2023); 1 = none.
        null: plugins that guidance nulls; None = all.
        guidance_rescale: φ of that guidance, 0 = off.
    """

    def __init__(
        self, teacher_steps: int = 16, stages: int = 2, steps_per_stage: int = 1000, guidance: float = 1.0,
        null: tuple[str, ...] | None = None, guidance_rescale: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= stages <= 10:
            raise InputError(f"stages = {stages} must be from 1 to 10")
        if teacher_steps < 2**stages or teacher_steps % 2**stages:
            raise InputError(f"teacher_steps = {teacher_steps} cannot be halved {stages} times; give a multiple of {2**stages}")
        if steps_per_stage < 1:
            raise InputError(f"steps_per_stage = {steps_per_stage} must be at least 1")
        if not 1 <= guidance <= 100:
            raise InputError(f"guidance = {guidance:g} must be a scale from 1, which is none, to 100")
        if not 0 <= guidance_rescale <= 1:
            raise InputError(f"guidance_rescale = {guidance_rescale:g} must be from 0 to 1")
        self.teacher_steps, self.stages, self.steps_per_stage = teacher_steps, stages, steps_per_stage
        self.guidance, self.null, self.guidance_rescale = guidance, null, guidance_rescale
        self.register_buffer("done", torch.zeros((), dtype=torch.long))

    done: Tensor
    """Optimiser steps so far."""

    def attach(self, host: Host, schedule: NoiseSchedule) -> None:
        """Make the first teacher."""
        shared = {id(p) for p in host.parameters()}
        self.first = sampling_teacher(host, schedule, self.teacher_steps, self.null)
        # From the second stage on it is the student of the one before, with its tuners; a second copy only where they differ.
        self.teacher = self.first if list(self.first.tuners) == list(host.tuners) else twin(host)
        self._own = [name for name, p in self.teacher.named_parameters() if id(p) not in shared]

    @property
    def stage(self) -> int:
        """The present stage, from 0."""
        return min(int(self.done) // self.steps_per_stage, self.stages - 1)

    def step(self, host: Host, lesson: Lesson) -> Mapping[str, Tensor]:
        """Return the error of the student's step."""
        schedule, stage = lesson.schedule, self.stage
        steps = self.teacher_steps // 2 ** (stage + 1)
        finer = torch.cat([torch.tensor([CLEAN]), grid(schedule.steps, 2 * steps)]).to(lesson.t)
        i = 2 * (lesson.t * steps // schedule.steps)
        start, middle, end = finer[i + 2], finer[i + 1], finer[i]
        x = lesson.noisy(start)
        taught_by, guidance = (self.first, self.guidance) if stage == 0 else (self.teacher, 1.0)
        teacher = Guided(lesson, taught_by, guidance, self.null, self.guidance_rescale)
        half = jump(schedule, x, start, teacher(x, start), middle)
        landed = jump(schedule, half, middle, teacher(half, middle), end)
        target = leading_to(schedule, x, start, landed, end)
        prediction = host(x, start, lesson.encode(host)).float()
        return {"step": lesson.loss(host, prediction, target, t=start, noisy=x)}

    def after(self, host: Host) -> None:
        """Count, and make the student the teacher where a stage ends."""
        self.done += 1
        if int(self.done) % self.steps_per_stage == 0 and int(self.done) < self.stages * self.steps_per_stage:
            follow(self.teacher, host)

    def remembered(self) -> Iterator[tuple[str, Tensor]]:
        """Name the count, and the teacher, which is the base in the first stage alone."""
        yield from super().remembered()
        own = dict(self.teacher.named_parameters())
        yield from ((f"teacher.{name}", own[name]) for name in self._own)

    def sampling(self) -> Mapping[str, Any]:
        """Return the steps of the last stage that has been trained, by DDIM's step on noise levels (`euler`)."""
        trained = min(max(1, -(-int(self.done) // self.steps_per_stage)), self.stages)
        asked: dict[str, Any] = {"sampler": "euler", "steps": self.teacher_steps // 2**trained}
        return asked | ({"guidance": 1.0} if self.guidance != 1 else {})

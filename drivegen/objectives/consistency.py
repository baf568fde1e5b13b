"""Consistency distillation: a student that jumps along the teacher's guided trajectory in a few steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host.host import Host
from drivegen.objectives.contract import Objective
from drivegen.objectives.lesson import Lesson
from drivegen.objectives.solver import Guided, jump, leading_to
from drivegen.objectives.twin import follow, teacher_of, twin
from drivegen.support.errors import InputError

SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0
"""Of LCM's boundary condition (Luo et al. 2023, appendix), as in diffusers' LCMScheduler."""


@dataclass(frozen=True, eq=False)
class Way:
    """From where to where a student jumps.

    Args:
        schedule: the noise schedule.
        x: noisy latents (N, C, h, w).
        t: their timesteps (N,).
        to: the timesteps (N,) that the lesson aims at.
    """

    schedule: NoiseSchedule
    x: Tensor
    t: Tensor
    to: Tensor


class Consistency(Objective):
    """What consistency objectives share: the teacher takes one step of its solver, and from both of its ends the student must
    jump to the same place.

    Args:
        solver_steps: how many steps of DDIM the teacher's trajectory has.
        guidance: least and greatest scale of the teacher's guidance, drawn uniformly; equal = one, baked into the student.
        null: plugins that guidance nulls; None = all.
        guidance_rescale: φ of the teacher's guidance, 0 = off.
        embedding: the plugin that tells the student the scale (`Plugin.takes_guidance`); None = none.
        decay: of the average of the student that the jump from the nearer end is made by; 0 = the student itself.
        loss: ``huber`` is sqrt(d² + c²) − c, ``l2`` is d².
        huber: c.
        steps: in how many steps the result is sampled.
    """

    sampler: str

    def __init__(
        self, solver_steps: int = 50, guidance: tuple[float, float] = (2.0, 2.0), null: tuple[str, ...] | None = None,
        guidance_rescale: float = 0.0, embedding: str | None = None, decay: float = 0.95,
        loss: Literal["huber", "l2"] = "huber", huber: float = 0.001, steps: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= guidance[0] <= guidance[1] <= 100:
            raise InputError(f"guidance = {list(guidance)} must be the least and the greatest scale, from 1 to 100")
        if not 0 <= guidance_rescale <= 1:
            raise InputError(f"guidance_rescale = {guidance_rescale:g} must be from 0 to 1")
        if not 0 <= decay < 1:
            raise InputError(f"decay = {decay:g} is out of range; allowed: 0 <= decay < 1")
        if not huber > 0:
            raise InputError(f"huber = {huber:g} must be above 0")
        if not 1 <= steps <= solver_steps:
            raise InputError(f"steps = {steps} must be from 1 to solver_steps = {solver_steps}, of which the result takes some")
        if embedding is None and guidance[0] != guidance[1]:
            raise InputError(
                f"guidance = {list(guidance)} is a range, which the student must be told: name a plugin that takes the scale "
                "as embedding, or give one scale twice"
            )
        self.solver_steps, self.guidance, self.null, self.embedding = solver_steps, guidance, null, embedding
        self.guidance_rescale, self.decay, self.loss, self.huber, self.steps = guidance_rescale, decay, loss, huber, steps

    def attach(self, host: Host, schedule: NoiseSchedule) -> None:
        """Make the teacher, and the average of the student."""
        total = schedule.steps
        if self.solver_steps > total or total - self.solver_steps * (total // self.solver_steps) > total / 20:
            raise InputError(f"solver_steps = {self.solver_steps} do not divide the {total} timesteps of the model's training")
        for name in (*(self.null or ()), *([self.embedding] if self.embedding else [])):
            host.plugin(name)
        if self.embedding is not None and not host.plugin(self.embedding).takes_guidance:
            raise InputError(f"embedding = {self.embedding!r} is a plugin that does not take the scale of guidance")
        self.teacher = teacher_of(host)
        self.average = twin(host) if self.decay else None

    @abstractmethod
    def land(self, way: Way, prediction: Tensor) -> Tensor:
        """Return where a jump ends (N, C, h, w) with a prediction of the student's."""

    @abstractmethod
    def aimed(self, way: Way, landed: Tensor) -> Tensor:
        """Return the prediction with which `land` ends at a place, which plugins see as the target."""

    def aim(self, end: Tensor, lesson: Lesson) -> Tensor:
        """Return the timesteps (N,) to jump to, none above the solver's `end`; 0 unless overridden."""
        return torch.zeros_like(end)

    def step(self, host: Host, lesson: Lesson) -> Mapping[str, Tensor]:
        """Return the consistency loss."""
        schedule = lesson.schedule
        stride = schedule.steps // self.solver_steps
        start = (lesson.t // stride).clamp(max=self.solver_steps - 1) * stride + stride - 1
        end = (start - stride).clamp(min=0)
        to = self.aim(end, lesson)
        x = lesson.noisy(start)
        low, high = self.guidance
        scale = low + (high - low) * torch.rand(lesson.grid.scenes * lesson.grid.frames)
        told = {} if self.embedding is None else {self.embedding: {"guidance": scale.to(lesson.clean.device)}}
        weight = lesson.per_scene(scale) if high > 1 else 1.0
        teacher = Guided(lesson, self.teacher, weight, self.null, self.guidance_rescale, tuple(told))
        nearer = jump(schedule, x, start, teacher(x, start), end)
        with torch.no_grad():
            other = host if self.average is None else self.average
            prediction = other(nearer, end, lesson.encode(other, arrays=told)).float()
            target = self.land(Way(schedule, nearer, end, to), prediction)
        prediction, way = host(x, start, lesson.encode(host, arrays=told)).float(), Way(schedule, x, start, to)
        difference = self.land(way, prediction) - target
        errors = difference.square()
        if self.loss == "huber":
            errors = (errors + self.huber**2).sqrt() - self.huber
        loss = lesson.loss(host, prediction, self.aimed(way, target), t=start, noisy=x, errors=errors, of_clean=True)
        return {"consistency": loss}

    def after(self, host: Host) -> None:
        """Let the average follow."""
        if self.average is not None:
            follow(self.average, host, self.decay)

    def remembered(self) -> Iterator[tuple[str, Tensor]]:
        """Name what the average has of its own."""
        if self.average is not None:
            taught = {id(p) for p in self.teacher.parameters()}
            yield from ((f"average.{name}", p) for name, p in self.average.named_parameters() if id(p) not in taught)

    def sampling(self) -> Mapping[str, Any]:
        """Return a few steps of the sampler of this kind of student."""
        options = {"original_inference_steps": self.solver_steps}
        scale = self.guidance[1] if self.embedding is not None else 1.0
        return {"sampler": self.sampler, "steps": self.steps, "guidance": scale, "sampler_options": options}


class LCM(Consistency):
    """Latent consistency distillation: from anywhere on the trajectory to its clean end (Luo et al. 2023, algorithm 1)."""

    sampler = "lcm"

    def land(self, way: Way, prediction: Tensor) -> Tensor:
        """Return the clean latents, with the boundary condition that nothing changes at t = 0."""
        skip, out = boundary(way.t, way.x)
        return skip * way.x + out * way.schedule(way.x, way.t, prediction)

    def aimed(self, way: Way, landed: Tensor) -> Tensor:
        """Return the prediction that leads to clean latents, from timesteps above 0."""
        skip, out = boundary(way.t, way.x)
        return way.schedule.prediction(way.x, way.t, (landed - skip * way.x) / out)


class TCD(Consistency):
    """Trajectory consistency distillation: from anywhere on the trajectory to anywhere nearer to its end, by DDIM's step (Zheng
    et al. 2024, section 4).
    """

    sampler = "tcd"

    def aim(self, end: Tensor, lesson: Lesson) -> Tensor:
        """Return timesteps drawn uniformly from 0 to the solver's end, one per scene."""
        share = torch.rand(lesson.grid.scenes * lesson.grid.frames)
        return (lesson.per_scene(share).flatten().to(end.device) * (end + 1)).long()

    def land(self, way: Way, prediction: Tensor) -> Tensor:
        """Return the latents at the timesteps aimed at."""
        return jump(way.schedule, way.x, way.t, prediction, way.to)

    def aimed(self, way: Way, landed: Tensor) -> Tensor:
        """Return the prediction that leads to latents at the timesteps aimed at."""
        return leading_to(way.schedule, way.x, way.t, landed, way.to)


def boundary(t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return LCM's c_skip and c_out (N, 1, 1, 1) of timesteps (N,) for latents `like`."""
    scaled = (t.double() * TIMESTEP_SCALING).square()
    skip = SIGMA_DATA**2 / (scaled + SIGMA_DATA**2)
    out = (scaled / (scaled + SIGMA_DATA**2)).sqrt()
    return skip.to(like)[:, None, None, None], out.to(like)[:, None, None, None]

"""Distillation along the teacher's own way from noise to pictures, which may be kept, so that it is walked once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host.host import Host
from drivegen.objectives.contract import Objective
from drivegen.objectives.lesson import Lesson
from drivegen.objectives.solver import CLEAN, Guided, grid, jump, leading_to
from drivegen.objectives.twin import sampling_teacher
from drivegen.support import files, weights
from drivegen.support.errors import InputError


class Trajectory(Objective):
    """Make a step of DDIM land where several of the teacher's do, from where the teacher is when it samples.

    `progressive` begins at pictures with noise, which a guided teacher's latents are not; here the student learns at the places
    that it will come to (Luhman and Luhman 2021 take such pairs for one step; the target and its weight are Salimans and Ho's).

    Args:
        teacher_steps: in how many steps the teacher samples.
        steps: in how many the student does; divides teacher_steps.
        guidance: scale of the teacher's guidance, which is thereby distilled; 1 = none.
        null: plugins that guidance nulls; None = all.
        guidance_rescale: φ of that guidance, 0 = off.
        cache: folder where trajectories are kept for all later trainings with the same teacher; None walks one at each step.
        kept: how many trajectories of a frame are kept, each from other noise.
    """

    def __init__(
        self, teacher_steps: int = 20, steps: int = 4, guidance: float = 1.0, null: tuple[str, ...] | None = None,
        guidance_rescale: float = 0.0, cache: str | None = None, kept: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= steps < teacher_steps or teacher_steps % steps:
            raise InputError(f"steps = {steps} must divide teacher_steps = {teacher_steps}, and be fewer")
        if not 1 <= guidance <= 100:
            raise InputError(f"guidance = {guidance:g} must be a scale from 1, which is none, to 100")
        if not 0 <= guidance_rescale <= 1:
            raise InputError(f"guidance_rescale = {guidance_rescale:g} must be from 0 to 1")
        if not 1 <= kept <= 10_000:
            raise InputError(f"kept = {kept} must be from 1 to 10000")
        if kept > 1 and cache is None:
            raise InputError(f"kept = {kept} trajectories of a frame need a folder; give cache")
        self.teacher_steps, self.steps, self.guidance, self.null = teacher_steps, steps, guidance, null
        self.guidance_rescale, self.kept = guidance_rescale, kept
        self.cache = None if cache is None else Path(cache).expanduser()

    def attach(self, host: Host, schedule: NoiseSchedule) -> None:
        """Make the teacher."""
        self.teacher = sampling_teacher(host, schedule, self.teacher_steps, self.null)
        if self.cache is not None:
            said = (self.teacher_steps, self.steps, self.guidance, self.null, self.guidance_rescale, schedule.prediction_type)
            values = [*self.teacher.state_dict().values(), schedule.alphas_cumprod]
            self.folder = self.cache / f"trajectories-{_digest(said, values)}"

    def step(self, host: Host, lesson: Lesson) -> Mapping[str, Tensor]:
        """Return the error of the student's step."""
        schedule = lesson.schedule
        places = self._places(lesson)
        ends = torch.cat([torch.tensor([CLEAN]), grid(schedule.steps, self.steps)]).to(lesson.t)
        i, rows = lesson.t * self.steps // schedule.steps, torch.arange(len(lesson.t))
        start, x = ends[i + 1], places[rows, i + 1]
        target = leading_to(schedule, x, start, places[rows, i], ends[i])
        prediction = host(x, start, lesson.encode(host)).float()
        return {"step": lesson.loss(host, prediction, target, t=start, noisy=x)}

    def walk(self, lesson: Lesson) -> Tensor:
        """Return where the teacher is (N, steps + 1, C, h, w) at the student's timesteps, from clean latents to the noise."""
        at = [CLEAN, *grid(lesson.schedule.steps, self.teacher_steps).tolist()]
        teacher = Guided(lesson, self.teacher, self.guidance, self.null, self.guidance_rescale)
        x, places = lesson.noise, [lesson.noise]
        for k in range(self.teacher_steps, 0, -1):
            here, there = (torch.full_like(lesson.t, at[j]) for j in (k, k - 1))
            x = jump(lesson.schedule, x, here, teacher(x, here), there)
            if (k - 1) % (self.teacher_steps // self.steps) == 0:
                places.append(x)
        return torch.stack(places[::-1], 1)

    def sampling(self) -> Mapping[str, Any]:
        """Return as many steps of DDIM's step on noise levels (`euler`)."""
        return {"sampler": "euler", "steps": self.steps} | ({"guidance": 1.0} if self.guidance != 1 else {})

    @torch.no_grad()
    def _places(self, lesson: Lesson) -> Tensor:
        """Return kept trajectories of the lesson's frames (N, steps + 1, C, h, w), after those that are not there."""
        if self.cache is None:
            return self.walk(lesson)
        frames, views = lesson.grid.scenes * lesson.grid.frames, lesson.grid.views
        chosen = torch.randint(self.kept, (frames,)).tolist()
        paths = [self.folder / f"{_frame(lesson, b)}-{k}.safetensors" for b, k in enumerate(chosen)]
        if not all(path.is_file() for path in paths):
            for path, places in zip(paths, self.walk(lesson).split(views), strict=True):
                if not path.is_file():
                    files.make_subfolder(self.cache, self.folder.name)
                    weights.save_state({"places": places}, path)
        read = [self._read(path, (views, self.steps + 1, *lesson.clean.shape[1:])) for path in paths]
        return torch.cat(read).to(lesson.clean)

    @staticmethod
    def _read(path: Path, shape: tuple[int, ...]) -> Tensor:
        found = weights.load_file(path).get("places")
        if found is None or tuple(found.shape) != shape:
            raise InputError(f"{path} is no trajectory of {shape[1] - 1} steps for {shape[0]} views; delete it and start again")
        return found


def _frame(lesson: Lesson, b: int) -> str:
    """Name all that the teacher is told of a frame: its conditions, and which of them are kept."""
    grid = lesson.grid
    told = {f"{name}/{key}": value[b] for name, own in lesson.arrays.items() for key, value in own.items()}
    said = (grid.views, tuple(lesson.clean.shape[1:]), sorted(told), sorted((n, bool(k[b])) for n, k in lesson.keep.items()))
    return _digest(said, [told[name] for name in sorted(told)])


def _digest(said: Sequence[Any], values: Iterable[Tensor]) -> str:
    total = hashlib.sha256(repr(said).encode())
    for value in values:
        total.update(repr((value.dtype, tuple(value.shape))).encode())
        total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]

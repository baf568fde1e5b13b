"""Steps along a teacher's trajectory, which distillations take: DDIM's step, its inverse, guidance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host.host import Host
from drivegen.objectives.lesson import Lesson

CLEAN = -1
"""The timestep of clean latents: α = 1, σ = 0."""


def grid(total: int, steps: int) -> Tensor:
    """Return the timesteps (steps,) of trailing spacing, ascending: the last of each of equal parts of `total`."""
    return torch.tensor([round((i + 1) * total / steps) - 1 for i in range(steps)])


def rates(schedule: NoiseSchedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return α and σ (N, 1, 1, 1) of timesteps (N,), of which some may be `CLEAN`.

    Args:
        schedule: the noise schedule.
        t: timesteps (N,).
        like: latents that they multiply.
    """
    alpha, sigma = schedule.rates(t, like)
    clean = (t == CLEAN).to(like.device)[:, None, None, None]
    return torch.where(clean, 1.0, alpha), torch.where(clean, 0.0, sigma)


def jump(schedule: NoiseSchedule, x: Tensor, t: Tensor, prediction: Tensor, to: Tensor) -> Tensor:
    """Take DDIM's step without noise (Song et al. 2021, eq. 12).

    Args:
        schedule: the noise schedule.
        x: noisy latents (N, C, h, w).
        t: their timesteps (N,).
        prediction: of the network (N, C, h, w).
        to: the timesteps (N,) to go to.
    """
    alpha, sigma = rates(schedule, to, x)
    return alpha * schedule(x, t, prediction) + sigma * schedule.epsilon(x, t, prediction)


def leading_to(schedule: NoiseSchedule, x: Tensor, t: Tensor, landed: Tensor, to: Tensor) -> Tensor:
    """Return the prediction (N, C, h, w) with which `jump` lands where it did (Salimans and Ho 2022, algorithm 2).

    Args:
        schedule: the noise schedule.
        x: noisy latents (N, C, h, w).
        t: their timesteps (N,).
        landed: where the step ended (N, C, h, w).
        to: at which timesteps (N,).
    """
    (a, s), (alpha, sigma) = schedule.rates(t, x), rates(schedule, to, x)
    share = sigma / s
    return schedule.prediction(x, t, (landed - share * x) / (alpha - share * a))


class Guided:
    """A teacher on a lesson's conditions, with classifier-free guidance u + s·(c − u); no gradient reaches it.

    Args:
        lesson: the batch.
        teacher: the network that is asked.
        scale: s, one for all or (N, 1, 1, 1); 1 asks without guidance.
        null: plugins that are null in u; None = all.
        rescale: φ of Lin et al. (2023), eq. 15-16, as sampling has it.
        absent: plugins that take no part.
    """

    def __init__(
        self, lesson: Lesson, teacher: Host, scale: float | Tensor = 1.0, null: Sequence[str] | None = None,
        rescale: float = 0.0, absent: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self.teacher, self.scale, self.rescale, absent = teacher, scale, rescale, tuple(absent)
        with torch.no_grad():
            self.known = lesson.encode(teacher, absent=absent)
            guided = isinstance(scale, Tensor) or scale != 1
            unknown = [name for name in (teacher.plugins if null is None else null) if name not in absent]
            self.unknown = lesson.encode(teacher, unknown, absent) if guided else None

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict from noisy latents (N, C, h, w) at timesteps (N,), in fp32."""
        known = self.teacher(x, t, self.known).float()
        if self.unknown is None:
            return known
        other = self.teacher(x, t, self.unknown).float()
        guided = other + self.scale * (known - other)
        if not self.rescale:
            return guided
        ratio = known.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
        return torch.lerp(guided, guided * ratio, self.rescale)

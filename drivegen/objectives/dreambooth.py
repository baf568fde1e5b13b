"""DreamBooth: a subject is learned from a few pictures, and what the model knew of its class is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from drivegen.host.host import Host
from drivegen.objectives.contract import Objective
from drivegen.objectives.lesson import Lesson
from drivegen.support.errors import InputError


class DreamBooth(Objective):
    """The squared error of the subject's pictures, and `prior_weight` times that of pictures that the model made of its class
    (Ruiz et al. 2023, eq. 2).

    Args:
        prior_weight: λ, how much the class's pictures count.
    """

    tells_prior: ClassVar[bool] = True

    def __init__(self, prior_weight: float = 1.0) -> None:
        super().__init__()
        if not 0 <= prior_weight <= 1e4:
            raise InputError(f"prior_weight = {prior_weight:g} is out of range; allowed: 0 to 10000")
        self.prior_weight = prior_weight

    def step(self, host: Host, lesson: Lesson) -> Mapping[str, Tensor]:
        """Return the losses `subject` and `prior`, each the mean over its own frames; a batch may lack one of them."""
        noisy, target = lesson.noisy(), lesson.schedule.target(lesson.clean, lesson.noise, lesson.t)
        prediction = host(noisy, lesson.t, lesson.encode(host)).float()
        errors = (prediction - target).square()
        rows = lesson.grid.scenes * lesson.grid.frames
        prior = errors.new_zeros(rows, dtype=bool) if lesson.prior is None else lesson.prior.to(errors.device)
        losses: dict[str, Tensor] = {}
        for name, frames, weight in (("subject", ~prior, 1.0), ("prior", prior, self.prior_weight)):
            if bool(frames.any()):
                share = frames.float() * (rows / frames.sum())
                own = errors * lesson.per_scene(share)
                losses[name] = weight * lesson.loss(host, prediction, target, noisy=noisy, errors=own)
        return losses

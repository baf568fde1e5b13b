"""The objective of diffusion models: the squared error of the prediction."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from drivegen.host.host import Host
from drivegen.objectives.contract import Objective
from drivegen.objectives.lesson import Lesson


class Noise(Objective):
    """Predict what was added: the noise, v or the clean latents, as the model predicts (Ho et al. 2020, eq. 14)."""

    def step(self, host: Host, lesson: Lesson) -> Mapping[str, Tensor]:
        """Return the one loss."""
        noisy, target = lesson.noisy(), lesson.schedule.target(lesson.clean, lesson.noise, lesson.t)
        prediction = host(noisy, lesson.t, lesson.encode(host)).float()
        return {"noise": lesson.loss(host, prediction, target, noisy=noisy)}

"""Merging: a tuner that is made of several keeps what each of them does."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host.host import Host
from drivegen.objectives.contract import Objective
from drivegen.objectives.lesson import Lesson
from drivegen.support.errors import InputError


class Merging(Objective):
    """The squared difference between what the whole tuner predicts and what each of its parts predicts alone, on the frames of
    that part's own dataset (Shah et al. 2023, eq. 6).

    The datasets are in the order of the parts.
    """

    def attach(self, host: Host, schedule: NoiseSchedule) -> None:
        """Find the tuner; raises InputError unless exactly one has parts."""
        found = [name for name in host.tuners if host.tuner(name).parts]
        if len(found) != 1:
            what = f"{', '.join(found)} are" if found else "none is"
            raise InputError(f"objective merging keeps what one tuner was made of, such as ziplora; here {what} made of parts")
        self.tuner = found[0]
        self.datasets = len(host.tuner(self.tuner).parts)

    def step(self, host: Host, lesson: Lesson) -> Mapping[str, Tensor]:
        """Return a loss per part that the batch has frames of."""
        tuner = host.tuner(self.tuner)
        if lesson.root is None or not bool((lesson.root < self.datasets).any()):
            raise InputError(f"objective merging needs {self.datasets} datasets told apart, one for each of {tuner.parts}")
        noisy = lesson.noisy()
        prediction = host(noisy, lesson.t, lesson.encode(host)).float()
        losses: dict[str, Tensor] = {}
        for number, part in enumerate(tuner.parts):
            frames = lesson.root == number
            if not bool(frames.any()):
                continue
            with torch.no_grad(), tuner.alone(part):
                wanted = host(noisy, lesson.t, lesson.encode(host)).float()
            share = lesson.per_scene(frames.float() * (len(frames) / frames.sum()))
            errors = (prediction - wanted).square() * share
            losses[part] = lesson.loss(host, prediction, wanted, noisy=noisy, errors=errors)
        return losses

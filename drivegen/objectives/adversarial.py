"""Adversarial distillation: a student of one to four steps, judged by heads on the features of its teacher."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host.evaluation import Conditions
from drivegen.host.host import Host
from drivegen.objectives.contract import GroupOptions, Objective
from drivegen.objectives.lesson import Lesson
from drivegen.objectives.solver import Guided, grid
from drivegen.objectives.twin import teacher_of
from drivegen.support.errors import InputError


class Adversarial(Objective):
    """Predict clean latents that heads on the frozen teacher's features take for the pictures', and that the teacher would not
    change (ADD, Sauer et al. 2023; on latents and by the teacher's features: LADD, Sauer et al. 2024).

    Args:
        steps: in how many steps the student samples; it learns at as many timesteps.
        distillation: weight of the distance to the teacher's clean latents, which counts α at the noise that is added for it
            (ADD, eq. 4); 0 = none.
        r1: weight of the penalty on the heads' gradients at real features (ADD, eq. 3).
        head_lr: the heads' learning rate.
        sites: glob of the modules of the teacher's UNet whose outputs are judged.
        guidance: scale of the teacher's guidance in the distillation; 1 = none.
        null: plugins that guidance nulls; None = all.
        guidance_rescale: φ of that guidance, 0 = off.
    """

    def __init__(
        self, steps: int = 4, distillation: float = 2.5, r1: float = 1e-4, head_lr: float = 1e-3,
        sites: str = "down_blocks.*.resnets.*", guidance: float = 1.0, null: tuple[str, ...] | None = None,
        guidance_rescale: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= steps <= 20:
            raise InputError(f"steps = {steps} must be from 1 to 20")
        for name, value in (("distillation", distillation), ("r1", r1)):
            if not 0 <= value <= 1e6:
                raise InputError(f"{name} = {value:g} must be from 0 to 1e6")
        if not 0 < head_lr <= 1:
            raise InputError(f"head_lr = {head_lr:g} must be above 0, and at most 1")
        if not 1 <= guidance <= 100:
            raise InputError(f"guidance = {guidance:g} must be a scale from 1, which is none, to 100")
        if not 0 <= guidance_rescale <= 1:
            raise InputError(f"guidance_rescale = {guidance_rescale:g} must be from 0 to 1")
        self.steps, self.distillation, self.r1, self.head_lr = steps, distillation, r1, head_lr
        self.sites, self.guidance, self.null, self.guidance_rescale = sites, guidance, null, guidance_rescale

    def attach(self, host: Host, schedule: NoiseSchedule) -> None:
        """Make the teacher, and a head for each site."""
        for name in self.null or ():
            host.plugin(name)
        self.teacher = teacher_of(host)
        modules: dict[str, Any] = dict(self.teacher.backbone.unet.named_modules())
        self._at = [n for n, m in modules.items() if fnmatch.fnmatchcase(n, self.sites) and hasattr(m, "out_channels")]
        if not self._at:
            raise InputError(f"sites = {self.sites!r} matches no block of the UNet that states its out_channels")
        self.heads = nn.ModuleList(_head(modules[name].out_channels) for name in self._at)

    def step(self, host: Host, lesson: Lesson) -> Mapping[str, Tensor]:
        """Return the student's adversarial and distillation losses, and the heads' own."""
        schedule, known = lesson.schedule, lesson.encode(self.teacher)
        at = grid(schedule.steps, self.steps).to(lesson.t)
        t = at[torch.randint(self.steps, (lesson.grid.scenes * lesson.grid.frames,)).repeat_interleave(lesson.grid.views)]
        x = lesson.noisy(t)
        prediction = host(x, t, lesson.encode(host)).float()
        made = schedule(x, t, prediction)
        noise, later = lesson.draw(), lesson.t
        noisy = lesson.noisy(later, made, noise)
        fake, told = self._features(noisy, later, known)
        losses = {"adversarial": -self._judged([f.float() for f in fake], learn=False).mean()}
        if self.guidance != 1:
            told = Guided(lesson, self.teacher, self.guidance, self.null, self.guidance_rescale)(noisy.detach(), later)
        wanted = schedule(noisy, later, told.float()).detach()
        alpha, _ = schedule.rates(later, made)
        aimed = schedule.prediction(x, t, wanted)
        errors = alpha * (made - wanted).square()
        distance = lesson.loss(host, prediction, aimed, t=t, noisy=x, errors=errors, of_clean=True)
        losses["distillation"] = self.distillation * distance
        with torch.no_grad():
            real, _ = self._features(lesson.noisy(later, lesson.clean, noise), later, known)
        inputs = [feature.float().requires_grad_(self.r1 > 0) for feature in real]
        judged = self._judged(inputs, learn=True)
        others = self._judged([f.detach().float() for f in fake], learn=True)
        losses["heads"] = F.relu(1 - judged).mean() + F.relu(1 + others).mean()
        if self.r1 and torch.is_grad_enabled():
            slopes = torch.autograd.grad(judged.sum(), inputs, create_graph=True)
            losses["r1"] = self.r1 * torch.stack([s.flatten(1).square().sum(1).mean() for s in slopes]).sum()
        return losses

    def validate(self, host: Host, lesson: Lesson) -> Tensor:
        """Return the distillation loss alone: what heads think of it depends on when they are asked."""
        return self.step(host, lesson)["distillation"]

    def groups(self) -> Mapping[str, GroupOptions]:
        """Return how the heads are optimised."""
        return {"heads.": GroupOptions(lr=self.head_lr, betas=(0.0, 0.99), weight_decay=0.0, clip=1.0)}

    def sampling(self) -> Mapping[str, Any]:
        """Return jumps to the clean latents, at the timesteps that the student learned at."""
        options = {"original_inference_steps": self.steps}
        return {"sampler": "lcm", "steps": self.steps, "guidance": 1.0, "sampler_options": options}

    def _features(self, x: Tensor, t: Tensor, known: Conditions) -> tuple[list[Tensor], Tensor]:
        """Return the teacher's outputs at the sites, and its prediction."""
        found: list[Tensor] = []
        unet: Any = self.teacher.backbone.unet
        handles = [unet.get_submodule(name).register_forward_hook(lambda m, a, y: found.append(y)) for name in self._at]
        try:
            prediction = self.teacher(x, t, known)
        finally:
            for handle in handles:
                handle.remove()
        return found, prediction

    def _judged(self, features: Sequence[Tensor], learn: bool) -> Tensor:
        """Return all heads' opinions (N, …), above 0 for real; with learn False no gradient reaches the heads."""
        found = []
        for head, feature in zip(self.heads, features, strict=True):
            parameters = {name: p if learn else p.detach() for name, p in head.named_parameters()}
            found.append(torch.func.functional_call(head, parameters, (feature,)).flatten(1))
        return torch.cat(found, 1)


def _head(channels: int) -> nn.Module:
    groups = next(n for n in (8, 4, 2, 1) if channels % n == 0)
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1), nn.GroupNorm(groups, channels), nn.LeakyReLU(0.2), nn.Conv2d(channels, 1, 1)
    )

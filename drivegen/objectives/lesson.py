"""What an objective is given of a training step: latents, conditions, noise, and how errors are weighed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from drivegen.diffusion.loss_weighting import min_snr_weights
from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host import boundary
from drivegen.host.evaluation import Conditions
from drivegen.host.host import Host
from drivegen.plugin import Arrays, Grid, TrainingStep
from drivegen.plugin.unknown import known_part, neutral, unmarked


@dataclass(eq=False)
class Lesson:
    """One batch of N = B·T·V rows of latents (N, C, h, w), with conditions.

    Args:
        clean: the pictures' latents x0.
        grid: how the rows are laid out.
        arrays: each plugin's arrays (B, …), by instance name.
        keep: (B,) bools by plugin name, False = null in this step; missing = kept.
        t: timesteps (N,), uniform over the training's.
        noise: ε, as the settings say what the views of a scene share.
        schedule: the noise schedule.
        draw: draws more noise (N, C, h, w) of the same kind.
        gamma: γ of min-SNR weights; None for none.
    """

    clean: Tensor
    grid: Grid
    arrays: Mapping[str, Arrays]
    keep: Mapping[str, Tensor]
    t: Tensor
    noise: Tensor
    schedule: NoiseSchedule
    draw: Callable[[], Tensor]
    gamma: float | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    """What plugins add to the losses, by plugin name; `loss` writes it."""

    def noisy(self, t: Tensor | None = None, clean: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Return α·x0 + σ·ε (N, C, h, w), of this lesson's own where nothing else is given.

        Args:
            t: timesteps (N,).
            clean: x0 (N, C, h, w).
            noise: ε (N, C, h, w).
        """
        return self.schedule.add_noise(
            self.clean if clean is None else clean, self.noise if noise is None else noise, self.t if t is None else t
        )

    def per_scene(self, values: Tensor) -> Tensor:
        """Repeat values (B·T,) for the views of each scene, shaped (N, 1, 1, 1) to multiply latents."""
        return values.to(self.clean.device).repeat_interleave(self.grid.views)[:, None, None, None]

    def encode(
        self, host: Host, null: Iterable[str] = (), absent: Iterable[str] = (), arrays: Mapping[str, Arrays] | None = None
    ) -> Conditions:
        """Encode the conditions of this step.

        Args:
            host: networks and plugins.
            null: plugins that are null for every scene, whatever `keep` says.
            absent: plugins that take no part.
            arrays: in place of this lesson's own, by plugin name.
        """
        keep = {**self.keep, **{name: torch.zeros_like(self._all_kept()) for name in null}}
        return host.encode({**self.arrays, **(arrays or {})}, self.grid, keep, dict.fromkeys(absent, 0.0))

    def loss(
        self, host: Host, prediction: Tensor, target: Tensor, *, t: Tensor | None = None, noisy: Tensor | None = None,
        errors: Tensor | None = None, of_clean: bool = False,
    ) -> Tensor:  # fmt: skip
        """Return the mean error (), weighed by noise level and by every plugin; notes what plugins add in `terms`.

        Args:
            host: whose plugins are asked.
            prediction: what the network that learns made of `noisy` (N, C, h, w), in fp32.
            target: what it should have made (N, C, h, w).
            t: timesteps (N,); None is this lesson's.
            noisy: what the network was given; None is this lesson's, at t.
            errors: (N, C, h, w); None is the square of the difference.
            of_clean: the errors are of clean latents, not of predictions, which is another scale of min-SNR weights.
        """
        t = self.t if t is None else t
        errors = (prediction - target).square() if errors is None else errors
        noisy = self.noisy(t) if noisy is None else noisy
        step = TrainingStep(t, self.clean, self.noise, noisy, prediction.detach(), target, self.schedule)
        if self.gamma is not None:
            schedule = replace(self.schedule, prediction_type="sample") if of_clean else self.schedule
            errors = errors * min_snr_weights(schedule, t, self.gamma)[:, None, None, None]
        for name in host.plugins:
            plugin, own = host.plugin(name), self.arrays[name]
            if (weight := boundary.weight(name, plugin, unmarked(own), step)) is not None:
                errors = errors * neutral(own, weight)
            part = known_part(own, prediction, target, t)
            if part is not None and (term := boundary.loss(name, plugin, *part)) is not None:
                self.terms[name] = term
        return errors.mean()

    def _all_kept(self) -> Tensor:
        return torch.ones(self.grid.scenes * self.grid.frames, dtype=torch.bool, device=self.clean.device)

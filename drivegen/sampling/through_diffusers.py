"""Samplers through diffusers' schedulers, each built from the facts of a model's training and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.plugin import Denoiser
from drivegen.plugin.sampler import Run, Sampler
from drivegen.sampling.loop import sample, start_at
from drivegen.support.errors import InputError, reason

# Leading spacing goes with steps_offset 1 (Stable Diffusion); with linear spacing one step would start at 0.
LEADING: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1}
LINSPACE: dict[str, Any] = {"timestep_spacing": "linspace", "steps_offset": 0}
TRAILING: dict[str, Any] = {"timestep_spacing": "trailing", "steps_offset": 0}


class ThroughDiffusers(Sampler):
    """A scheduler class of diffusers, and the settings that it needs to be what its paper says."""

    class_name: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    equal_steps: ClassVar[bool] = False
    """Whether the scheduler goes from each timestep by the same distance, whatever its list of timesteps says."""
    otherwise: ClassVar[type[ThroughDiffusers] | None] = None
    """The same method where the distances cannot be equal; None = there is none."""

    @classmethod
    def takes_timesteps(cls) -> bool:
        """Tell whether the scheduler takes timesteps of the caller's."""
        import diffusers

        able = "timesteps" in inspect.signature(getattr(diffusers, cls.class_name).set_timesteps).parameters
        return able and not cls.settings.get("use_karras_sigmas")

    def chosen(self, run: Run) -> Mapping[str, Any]:
        """Give the scheduler's settings that follow from this sampler's options; raises InputError where a run cannot be."""
        return {}

    def in_steps(self) -> Mapping[str, Any]:
        """Give the arguments of the scheduler's ``step`` that follow from this sampler's options."""
        return {}

    def scheduler(self, run: Run) -> Any:
        """Build the scheduler of diffusers, its timesteps set; raises InputError where it cannot be built for a run."""
        import diffusers

        facts, steps, total = run.facts, run.steps, run.facts["num_train_timesteps"]
        own: ThroughDiffusers | type[ThroughDiffusers] = self
        if self.equal_steps and _left_over(steps, total):
            if self.otherwise is None:
                raise InputError(
                    f"the sampler {run.name!r} takes equal steps, and {steps} do not divide the {total} timesteps of the "
                    f"model's training; use up to {total // 20}, {total // 2}, {total}, or another sampler"
                )
            own = self.otherwise
        cls = getattr(diffusers, own.class_name)
        known = inspect.signature(cls.__init__).parameters
        spacing = _spacing(own.settings, steps, total, facts["rescale_betas_zero_snr"])
        settings = {**own.settings, **self.chosen(run), **spacing}
        try:
            scheduler = cls(**{key: value for key, value in facts.items() if key in known}, **settings)
            scheduler.set_timesteps(steps, device=run.device)
        except Exception as error:  # diffusers raises whatever a schedule that is none leads to
            what = f"the sampler {run.name!r} cannot be built for this model in {steps} steps"
            raise InputError(f"{what}: {reason(error)}") from error
        if hasattr(scheduler, "set_begin_index"):
            # Sigmas spaced by another rule than time may share a timestep; without this some classes would begin at the second.
            scheduler.set_begin_index(0)
        if run.timesteps is not None:
            try:
                scheduler.set_timesteps(timesteps=list(run.timesteps), device=run.device)
            except ValueError as error:
                raise InputError(f"the sampler {run.name!r} does not take these timesteps: {error}") from error
        return scheduler

    def timesteps(self, run: Run) -> Tensor:
        """Give the scheduler's timesteps, some of them several times where a method looks there more than once."""
        scheduler = self.scheduler(run)
        timesteps: Tensor = scheduler.timesteps if run.clean is None else start_at(scheduler, run.strength)
        return timesteps

    def schedule(self, run: Run) -> NoiseSchedule:
        """Give the scheduler's own schedule: some lift the last α off zero."""
        return NoiseSchedule.of(self.scheduler(run))

    def __call__(self, denoise: Denoiser, x: Tensor, run: Run) -> Tensor:
        """Run the scheduler."""
        scheduler = self.scheduler(run)
        timesteps = scheduler.timesteps
        if run.clean is None:
            x = x * scheduler.init_noise_sigma
        else:
            timesteps = start_at(scheduler, run.strength)
            x = scheduler.add_noise(run.clean, x, timesteps[:1].repeat(len(x))) if len(timesteps) else run.clean
        return sample(denoise, scheduler, x, timesteps, run.generators, run.callback, **self.in_steps())


def _left_over(steps: int, total: int) -> bool:
    """Tell whether steps of a whole number of timesteps leave more than a twentieth of them over."""
    return total - steps * (total // steps) > total / 20


def _spacing(settings: Mapping[str, Any], steps: int, total: int, zero_snr: bool) -> dict[str, Any]:
    """Give the spacing of timesteps: the sampler's own, or trailing where that would not start from noise.

    A model trained to zero terminal SNR starts at its last timestep (Lin et al. 2023, section 3.3). Leading spacing takes
    multiples of ⌊total / steps⌋ from 1 on: a single step would begin at 1, and where the division leaves much over the first
    begins far from noise; in as many steps as timesteps no spacing but trailing exists.
    """
    ends_early = settings.get("timestep_spacing") == "leading" and (steps == 1 or _left_over(steps, total))
    return TRAILING if zero_snr or ends_early or steps == total else {}

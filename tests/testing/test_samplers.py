"""Every sampler of drivegen's passes the samplers' battery, and the battery finds what it says it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from drivegen.catalog import samplers
from drivegen.plugin import Denoiser
from drivegen.plugin.sampler import Run, Sampler
from drivegen.testing.samplers import CHECKS, MEAN, ROWS, SHAPE, Case, is_the_gaussian

OURS = sorted(entry.kind for entry in samplers.offers() if entry.target.startswith("drivegen."))

FITTING: dict[str, dict[str, Any]] = {
    "ddpm": {"steps": 100, "tolerance": 0.05}, "euler": {"steps": 60}, "euler_a": {"steps": 120},
    "lcm": {"steps": 8}, "tcd": {"steps": 8, "options": {"eta": 1.0, "original_inference_steps": 50}},
    "sde_ve": {"options": {"corrector_steps": 1, "snr": 0.16}}, "sde_vp": {"options": {"corrector_steps": 1}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", OURS)
def test_ours_keep_the_contract(name: str, check: str) -> None:
    CHECKS[check](Case(samplers.load(name), **FITTING.get(name, {})))


def test_ddpm_of_as_many_steps_as_timesteps() -> None:
    case = Case(samplers.load("ddpm"), steps=1000, tolerance=0.02)
    is_the_gaussian(case, case.sample(case.run(rows=2), rows=2), "1000 steps")


@pytest.mark.parametrize("name", ["sde_ve", "sde_vp"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_score_sdes_without_corrector(name: str, prediction_type: str) -> None:
    case = Case(samplers.load(name), {"corrector_steps": 0}, 200, 0.015, prediction_type)
    found = case.sample(case.run())
    is_the_gaussian(case, found, "200 steps")
    corrected = Case(samplers.load(name), {"corrector_steps": 2}, 20, 0.04, prediction_type)
    is_the_gaussian(corrected, corrected.sample(corrected.run()), "20 steps of three evaluations")


def test_levels_of_the_exploding_sde_are_those_of_the_models_timesteps() -> None:
    from drivegen.sampling.score_sde import _levels

    run = Case(samplers.load("sde_ve"), steps=23).run()
    timesteps, levels = samplers.make("sde_ve").timesteps(run), _levels(run)
    a, s = run.schedule.rates(timesteps, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close((s / a).flatten(), levels, rtol=1e-4, atol=0)
    assert (float(timesteps[0]), float(timesteps[-1])) == (999.0, 0.0)
    torch.testing.assert_close(levels[1:] / levels[:-1], (levels[1] / levels[0]).expand(22))


# -- samplers that break one promise each ----------------------------------------------------------------------------------


class Honest(Sampler):
    """Jumps to what a consistency model predicts, and back to the next noise level."""

    distilled = True

    def timesteps(self, run: Run) -> Tensor:
        return run.left(torch.linspace(run.schedule.steps - 1, 0, run.steps + 1)[:-1].round().long())

    def noise(self, x: Tensor, run: Run) -> Tensor:
        return run.draw(x)

    def __call__(self, denoise: Denoiser, x: Tensor, run: Run) -> Tensor:
        clean = x if run.clean is None else run.clean
        for i, t in enumerate(self.timesteps(run)):
            a, s = run.schedule.rates(t, x)
            at = x if i == 0 else self.noise(x, run)
            x = at if i == 0 and run.clean is None else a * clean + s * at
            clean = self.stepped(run, i, t, self.clean(run, x, t, denoise(x, t)))
        return clean

    def clean(self, run: Run, x: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        return run.schedule(x, t, prediction)

    def stepped(self, run: Run, i: int, t: Tensor, x: Tensor) -> Tensor:
        return run.stepped(i, t, x)


class SharesNoise(Honest):
    """Draws all rows by the first generator."""

    def noise(self, x: Tensor, run: Run) -> Tensor:
        assert run.generators is not None
        return torch.randn(x.shape, generator=run.generators[len(x) - 1])


class Forgetful(Honest):
    """Draws by nobody's generator."""

    def noise(self, x: Tensor, run: Run) -> Tensor:
        return torch.randn_like(x)


class Quiet(Honest):
    """Calls nobody after its steps."""

    def stepped(self, run: Run, i: int, t: Tensor, x: Tensor) -> Tensor:
        return x


class Deaf(Honest):
    """Takes nothing of what the callback returns."""

    def stepped(self, run: Run, i: int, t: Tensor, x: Tensor) -> Tensor:
        run.stepped(i, t, x)
        return x


class Writing(Honest):
    """Writes to the noise."""

    def __call__(self, denoise: Denoiser, x: Tensor, run: Run) -> Tensor:
        found = super().__call__(denoise, x, run)
        x.zero_()
        return found


class Rounding(Honest):
    """Goes on in float16."""

    def noise(self, x: Tensor, run: Run) -> Tensor:
        return super().noise(x, run).half()

    def clean(self, run: Run, x: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        return super().clean(run, x, t, prediction).half()


class Blind(Honest):
    """Does not look at pictures."""

    def __call__(self, denoise: Denoiser, x: Tensor, run: Run) -> Tensor:
        return super().__call__(denoise, x, Case(Honest).run(rows=len(x)))


class Undershooting(Honest):
    """Loses a tenth of the deviation."""

    def __call__(self, denoise: Denoiser, x: Tensor, run: Run) -> Tensor:
        return MEAN + 0.9 * (super().__call__(denoise, x, run) - MEAN)


class EpsilonAlone(Honest):
    """Takes every prediction for epsilon."""

    def clean(self, run: Run, x: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        a, s = run.schedule.rates(t, x)
        return (x - s * prediction) / a


class NeedsAnOption(Honest):
    """Has an option without a default."""

    def __init__(self, much: int) -> None:
        self.much = much


class Rising(Honest):
    """Goes the wrong way."""

    def timesteps(self, run: Run) -> Tensor:
        return super().timesteps(run).flip(0)


class Late(Honest):
    """Begins at less than pure noise."""

    def timesteps(self, run: Run) -> Tensor:
        return super().timesteps(run) // 2


BROKEN: list[tuple[type[Sampler], str, str]] = [
    (Undershooting, "samples_the_gaussian", "the deviation is 0.6"), (Late, "samples_from_pure_noise", "not start at pure"),
    (EpsilonAlone, "takes_every_prediction", "v_prediction"), (Quiet, "tells_its_steps", "heard of"),
    (Rising, "tells_its_steps", "the timesteps rise"), (Deaf, "listens_to_the_callback", "is not the result"),
    (Forgetful, "draws_by_row", "gives other latents"), (SharesNoise, "draws_by_row", "fewer rows are others"),
    (Writing, "leaves_its_inputs", "the noise was written to"),
    (Rounding, "stays_in_float32", "latents in torch.float16"), (Blind, "starts_from_pictures", "strength 0 changes"),
    (NeedsAnOption, "options_are_plain", ""),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "check", "said"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_promise_is_found(cls: type[Sampler], check: str, said: str) -> None:
    options = {"much": 1} if cls is NeedsAnOption else {}
    run: Callable[[], None] = lambda: CHECKS[check](Case(cls, options, steps=8))  # noqa: E731
    with pytest.raises((AssertionError, ValueError), match=said):
        run()


@pytest.mark.parametrize("check", CHECKS)
def test_an_honest_sampler_passes(check: str) -> None:
    CHECKS[check](Case(Honest, steps=8))


def test_every_check_has_a_sampler_that_breaks_it() -> None:
    assert {check for _, check, _ in BROKEN} == set(CHECKS)
    assert (ROWS, *SHAPE) == (16, 4, 24, 24)

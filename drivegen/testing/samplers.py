"""The battery that any author of a sampler runs: `CHECKS` by name, each on a `Case`; they raise AssertionError.

@pytest.mark.parametrize("check", CHECKS)
def test_my_sampler(check):
    CHECKS[check](Case(MySampler, steps=50))

Most of them sample a Gaussian, of which the best prediction is known in closed form: no network stands between a sampler and
what it should find.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from drivegen.catalog.construct import construct_plugin
from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.plugin import Denoiser
from drivegen.plugin.sampler import Run, Sampler
from drivegen.sampling.noise import camera_generators
from drivegen.sampling.samplers import check_run
from drivegen.testing.case import refused

MEAN, DEVIATION = 0.3, 0.7
"""Of the Gaussian that is sampled."""

ROWS, SHAPE = 16, (4, 24, 24)

_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@dataclass(frozen=True)
class Case:
    """A sampler under test.

    Args:
        sampler: its class.
        options: what it is made with.
        steps: in how many it has found the Gaussian.
        tolerance: how far its mean and deviation may be from the Gaussian's.
        prediction_type: what the model predicts.
    """

    sampler: type[Sampler]
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 50
    tolerance: float = 0.03
    prediction_type: str = "epsilon"

    def made(self) -> Sampler:
        """Make the sampler."""
        return construct_plugin(self.sampler, self.options, self.sampler.__name__)

    def trained(self, prediction_type: str = "", zero_snr: bool = False) -> Any:
        """Make the scheduler of a model; prediction_type is the case's unless said otherwise."""
        from diffusers import DDPMScheduler

        kind = prediction_type or self.prediction_type
        return DDPMScheduler(**_BETAS, prediction_type=kind, rescale_betas_zero_snr=zero_snr)

    def run(self, trained: Any = None, rows: int = ROWS, **more: Any) -> Run:
        """Describe a run, each row with its own generator.

        Args:
            trained: the scheduler of the model; None makes the case's.
            rows: number of rows of latents.
            more: further fields of `Run`, replacing those of the case.
        """
        generators = camera_generators(0, [str(row) for row in range(rows)])
        trained = self.trained() if trained is None else trained
        found = Run(**{"trained": trained, "steps": self.steps, "name": "under test", "generators": generators, **more})
        check_run(self.made(), found)
        return found

    def sample(self, run: Run, denoise: Denoiser | None = None, rows: int = ROWS) -> Tensor:
        """Sample the Gaussian; the start is the same for the same rows.

        Args:
            run: of `run`.
            denoise: another denoiser; None is the Gaussian's best prediction.
            rows: number of rows of latents.
        """
        sampler = self.made()
        return sampler(denoise or gaussian(sampler.schedule(run), self.sampler.distilled), noise(rows), run)


def noise(rows: int = ROWS) -> Tensor:
    """Draw the noise that sampling starts from; fewer rows are the first of more."""
    return torch.randn(ROWS, *SHAPE, generator=torch.Generator().manual_seed(1))[:rows]


def gaussian(schedule: NoiseSchedule, distilled: bool = False) -> Denoiser:
    """Give the best prediction for data that are N(MEAN, DEVIATION²) in each value.

    With distilled, what a consistency model of the data predicts: the end of the trajectory of the probability flow, which
    keeps how many deviations x lies from its mean.
    """

    def denoise(x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
        a, s = (rate.double() for rate in schedule.rates(t, x.double()))
        variance = a**2 * DEVIATION**2 + s**2
        away = x.double() - a * MEAN
        clean = MEAN + away * (DEVIATION / variance.sqrt() if distilled else a * DEVIATION**2 / variance)
        return schedule.prediction(x.double(), t, clean).to(x)

    return denoise


def knowing(schedule: NoiseSchedule, clean: Tensor) -> Denoiser:
    """Give the prediction of a network that knows the clean latents."""
    return lambda x, t, known=None: schedule.prediction(x.double(), t, clean.double()).to(x)


def is_the_gaussian(case: Case, found: Tensor, what: str) -> None:
    """Raise AssertionError where mean or deviation of samples is beyond the case's tolerance.

    Args:
        case: with the tolerance.
        found: the samples.
        what: names them in the message.
    """
    for name, value, wanted in (("mean", found.mean(), MEAN), ("deviation", found.std(), DEVIATION)):
        said = f"{what}: the {name} is {float(value):.3f}, and {wanted} is right"
        assert abs(float(value) - wanted) <= case.tolerance, said


def samples_the_gaussian(case: Case) -> None:
    """Samples have the mean and deviation of the data."""
    is_the_gaussian(case, case.sample(case.run()), f"{case.steps} steps")


def samples_from_pure_noise(case: Case) -> None:
    """So have those of a model with zero terminal SNR, or the sampler refuses it."""
    trained = case.trained("v_prediction", zero_snr=True)
    if not case.sampler.zero_snr:
        refused(lambda: case.run(trained), "a model of zero terminal SNR, with zero_snr False")
        return
    run = case.run(trained)
    assert int(case.made().timesteps(run)[0]) == run.schedule.steps - 1, "it does not start at pure noise"
    is_the_gaussian(case, case.sample(run), "zero terminal SNR")


def takes_every_prediction(case: Case) -> None:
    """The data is found whatever the network predicts, or the sampler names the prediction that it refuses."""
    for kind in ("epsilon", "v_prediction", "sample"):
        trained = case.trained(kind)
        if kind in case.sampler.predictions:
            is_the_gaussian(case, case.sample(case.run(trained)), f"prediction_type {kind}")
        else:
            refused(partial(case.run, trained), f"prediction_type {kind}, which is not among its predictions")


def tells_its_steps(case: Case) -> None:
    """`timesteps` lie in the model's range and do not rise, and the callback is called after each."""
    heard: list[tuple[int, float]] = []

    def callback(i: int, t: Tensor, x: Tensor) -> None:
        assert x.shape == (ROWS, *SHAPE), f"the callback is given x of shape {tuple(x.shape)}"
        heard.append((i, float(t)))

    run = case.run(callback=callback)
    told = [float(t) for t in case.made().timesteps(run)]
    assert told, "no timesteps are told"
    assert all(0 <= t <= run.schedule.steps - 1 for t in told), f"timesteps beyond the model's: {told}"
    assert all(a >= b for a, b in pairwise(told)), f"the timesteps rise: {told}"
    case.sample(run)
    assert heard == list(enumerate(told)), f"the callback heard of {heard[:3]} …, and told was {told[:3]} …"


def listens_to_the_callback(case: Case) -> None:
    """Latents that the callback returns replace x."""
    last = len(case.made().timesteps(case.run())) - 1
    run = case.run(callback=lambda i, t, x: torch.full_like(x, 7.0) if i == last else None)
    assert torch.equal(case.sample(run), torch.full((ROWS, *SHAPE), 7.0)), "what the last callback returns is not the result"


def draws_by_row(case: Case) -> None:
    """A row depends on no other: of more rows the first are the same; and the same generators give the same bits."""
    whole = case.sample(case.run())
    assert torch.equal(whole, case.sample(case.run())), "the same run gives other latents"
    some = case.sample(case.run(rows=3), rows=3)
    torch.testing.assert_close(some, whole[:3], rtol=1e-4, atol=1e-4, msg=lambda said: f"fewer rows are others: {said}")


def leaves_its_inputs(case: Case) -> None:
    """Noise and pictures are not written to; latents keep shape and number format."""
    x, clean = noise(), torch.zeros(ROWS, *SHAPE)
    sampler, run = case.made(), case.run(clean=clean, strength=1.0)
    found = sampler(gaussian(sampler.schedule(run), case.sampler.distilled), x, run)
    assert torch.equal(x, noise()), "the noise was written to"
    assert not clean.any(), "the pictures were written to"
    assert found.shape == x.shape, f"the result has shape {tuple(found.shape)}"
    assert found.dtype == x.dtype, f"the result is {found.dtype}"


def stays_in_float32(case: Case) -> None:
    """Beside a network in float16 or bfloat16 latents stay float32, at every evaluation, and the data is found."""
    for half in (torch.float16, torch.bfloat16):
        run = case.run()
        exact = gaussian(case.made().schedule(run), case.sampler.distilled)

        def denoise(x: Tensor, t: Tensor, known: Mapping[str, bool] | None = None) -> Tensor:
            assert x.dtype == torch.float32, f"the network is given latents in {x.dtype}"
            return exact(x, t).to(half).to(x.dtype)  # noqa: B023

        found = case.sample(run, denoise)
        assert found.dtype == torch.float32, f"the result is {found.dtype}"
        is_the_gaussian(case, found, f"a network in {half}")


def starts_from_pictures(case: Case) -> None:
    """With strength 0 pictures come back as they are; a part of the steps leads back to what the network knows."""
    clean = MEAN + DEVIATION * torch.randn(ROWS, *SHAPE, generator=torch.Generator().manual_seed(2))
    assert torch.equal(case.sample(case.run(clean=clean, strength=0.0)), clean), "strength 0 changes the pictures"
    run = case.run(clean=clean, strength=0.5)
    left, whole = len(case.made().timesteps(run)), len(case.made().timesteps(case.run()))
    assert whole == 1 or 0 < left < whole, f"strength 0.5 runs {left} of {whole} steps"
    found = case.sample(run, knowing(case.made().schedule(run), clean))
    error = float((found - clean).abs().mean())
    assert error < 0.05, f"from the pictures' own noise it ends {error:.3f} away from them"


def options_are_plain(case: Case) -> None:
    """Options are JSON values, unknown ones are refused, and every option has a default."""
    options = json.loads(json.dumps(dict(case.options)))
    construct_plugin(case.sampler, options, "saved options")
    construct_plugin(case.sampler, {}, "no options")
    refused(lambda: construct_plugin(case.sampler, {"option_of_nobody": 1}, "options"), "an unknown option")


CHECKS: dict[str, Callable[[Case], None]] = {
    check.__name__: check
    for check in (
        samples_the_gaussian, samples_from_pure_noise, takes_every_prediction, tells_its_steps, listens_to_the_callback,
        draws_by_row, leaves_its_inputs, stays_in_float32, starts_from_pictures, options_are_plain,
    )
}  # fmt: skip
"""The battery, by name."""

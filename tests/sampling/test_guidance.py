"""Guidance: weights per plugin, and a classifier's gradient against the cases that have a closed form."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.pipeline.pipeline import Pipeline
from drivegen.pipeline.spelling import read_guidance
from drivegen.sampling import (
    Classifier,
    Sampling,
    build_scheduler,
    classifier_free,
    classifier_guided,
    sample,
    telescoping,
)
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from tests.street import street_frame
from tests.tiny_hosts import SIZE, tiny_host
from tests.tiny_models import tiny_backbone

ORDER = ("text", "boxes", "bev_map", "layout")
SHAPE = (2, 4, 8, 14)


class Table:
    """A denoiser that answers with another tensor for each set of known plugins."""

    def __init__(self, names=ORDER) -> None:
        self.names, self.asked = names, []

    def answer(self, known: frozenset[str]) -> torch.Tensor:
        seed = sum(1 << i for i, name in enumerate(self.names) if name in known)
        return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))

    def __call__(self, x, t, known=None):
        self.asked.append(frozenset(name for name in self.names if (known or {}).get(name, True)))
        return self.answer(self.asked[-1])


def run(guided) -> torch.Tensor:
    return guided(torch.zeros(SHAPE), torch.tensor(5))


def test_the_sum_telescopes_in_config_order() -> None:
    """ε(∅) + Σ wᵢ [ε(c₁…cᵢ) − ε(c₁…cᵢ₋₁)], whatever the order in which the weights are given, in K + 1 evaluations."""
    weights = {"layout": 1.5, "text": 3.0, "bev_map": 0.5}
    table = Table()
    found = run(telescoping(table, weights, ORDER))
    known = [frozenset({"boxes"})]  # what has no weight is known throughout
    for name in ("text", "bev_map", "layout"):
        known.append(known[-1] | {name})
    assert sorted(table.asked, key=len) == known
    expected = table.answer(known[0])
    for name, (before, after) in zip(("text", "bev_map", "layout"), itertools.pairwise(known), strict=True):
        expected = expected + weights[name] * (table.answer(after) - table.answer(before))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.7, 3.0, 7.5])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_equal_weights_are_classifier_free_guidance(scale: float, rescale: float) -> None:
    table = Table()
    equal = run(telescoping(table, dict.fromkeys(ORDER, scale), ORDER, rescale))
    plain = run(classifier_free(table, scale, ORDER, rescale))
    torch.testing.assert_close(equal, plain, rtol=0, atol=0)
    # Not by skipping: weights that differ by a little go through every evaluation, and agree as closely.
    nearly = {name: scale + i * 1e-7 for i, name in enumerate(ORDER)}
    torch.testing.assert_close(run(telescoping(table, nearly, ORDER, rescale)), plain, rtol=1e-5, atol=1e-5)


def test_evaluations_that_cancel_are_not_run() -> None:
    table = Table()
    assert telescoping(table, dict.fromkeys(ORDER, 1.0), ORDER) is table
    for weights, count in (
        ({"text": 2, "boxes": 2, "layout": 3}, 3), ({"text": 1, "layout": 3}, 2), ({"text": 3, "layout": 0}, 2),
        ({"text": 0}, 1), ({"text": 4, "boxes": 3, "bev_map": 2, "layout": 5}, 5),
    ):  # fmt: skip
        table.asked.clear()
        run(telescoping(table, weights, ORDER))
        assert len(table.asked) == count, weights


def test_what_the_caller_nulls_stays_null() -> None:
    table = Table()
    guided = telescoping(table, {"text": 3.0, "layout": 2.0}, ORDER)
    found = guided(torch.zeros(SHAPE), torch.tensor(5), {"text": False})
    a, b = table.answer(frozenset(("boxes", "bev_map"))), table.answer(frozenset(("boxes", "bev_map", "layout")))
    torch.testing.assert_close(found, a + 2 * (b - a))
    assert all("text" not in known for known in table.asked)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    host = tiny_host(("text", "boxes", "layout"))
    return Pipeline(Model(host, Sampling(sampler="ddim", steps=2, guidance=3.0), SIZE))


def latents(pipe: Pipeline, frame, **options) -> torch.Tensor:
    views = pipe(frame, output_type="latent", **options)
    return torch.stack([views[channel] for channel in views])


@pytest.mark.slow
def test_weights_in_the_pipeline(pipe: Pipeline) -> None:
    frame = street_frame()
    plain = latents(pipe, frame)
    equal = latents(pipe, frame, guidance_scale={"layout": 3.0, "boxes": 3.0, "text": 3.0})
    torch.testing.assert_close(equal, plain, rtol=1e-5, atol=1e-5)
    one = Pipeline(Model(pipe.host, Sampling(sampler="ddim", steps=2, guidance=3.0, null=("layout",)), SIZE))
    torch.testing.assert_close(latents(pipe, frame, guidance_scale={"layout": 3}), latents(one, frame), rtol=0, atol=0)
    views = pipe(frame, guidance_scale={"text": 3, "layout": 1.5}, output_type="latent")
    assert views.settings.guidance == {"text": 3.0, "layout": 1.5}
    assert not torch.allclose(torch.stack(list(views.values())), plain, atol=1e-3)
    for wrong, words in (({"txt": 3.0}, "did you mean 'text'"), ({"text": -1.0}, "guidance of 'text'")):
        with pytest.raises(InputError, match=words):
            pipe(frame, guidance_scale=wrong)


def test_weights_are_saved_with_a_model() -> None:
    stored = Sampling(guidance={"text": 3.0, "layout": 1.5})
    assert Sampling.from_dict(json.loads(json.dumps(stored.to_dict())), "here") == stored


def test_guidance_on_the_command_line() -> None:
    assert read_guidance([]) is None
    assert read_guidance(["2.5"]) == 2.5
    assert read_guidance(["text=3", "layout=1.5"]) == {"text": 3.0, "layout": 1.5}
    for wrong in (["many"], ["2", "3"], ["text=-1"], ["text=3", "text=4"], ["text="]):
        with pytest.raises(InputError, match="--guidance"):
            read_guidance(wrong)


# -- classifier guidance -------------------------------------------------------------------------------------------------


def gaussian(scheduler, mean: torch.Tensor | float, deviation: float):
    """The exact denoiser of data that are normal with this mean and deviation, for any prediction type."""
    alphas = scheduler.alphas_cumprod.double()

    def denoise(x, t, known=None):
        a, s = alphas[int(t)].sqrt().to(x), (1 - alphas[int(t)]).sqrt().to(x)
        gain = a * deviation**2 / (a**2 * deviation**2 + s**2)
        clean = mean + gain * (x - a * mean)
        noise = (x - a * clean) / s
        return {"epsilon": noise, "v_prediction": a * noise - s * clean, "sample": clean}[scheduler.config.prediction_type]

    return denoise


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_linear_head_tilts_a_gaussian_exactly(kind: str) -> None:
    """exp(s·c·x0) times N(μ, p²) is N(μ + s·c·p², p²): the guided denoiser is that one's own, at every timestep."""
    scheduler = build_scheduler("ddim", tiny_backbone(prediction_type=kind).scheduler, 10)
    mean, deviation, scale = torch.randn(SHAPE), 0.6, 1.7
    direction = torch.randn(SHAPE)
    plain = gaussian(scheduler, mean.double(), deviation)
    tilted = gaussian(scheduler, mean.double() + scale * direction.double() * deviation**2, deviation)
    guided = classifier_guided(plain, NoiseSchedule.of(scheduler), lambda x0: (x0 * direction).sum(), scale)
    for t in scheduler.timesteps:
        x = torch.randn(SHAPE, dtype=torch.float64)
        torch.testing.assert_close(guided(x, t), tilted(x, t), rtol=1e-5, atol=1e-5)


def test_for_unit_variance_no_backward_pass_is_needed() -> None:
    scheduler = build_scheduler("ddim", tiny_backbone().scheduler, 10)
    plain, score = gaussian(scheduler, 0.3, 1.0), lambda x0: -(x0 - 2).square().sum((1, 2, 3)) / 2
    exact, quick = (classifier_guided(plain, NoiseSchedule.of(scheduler), score, 0.5, exact) for exact in (True, False))
    for t in scheduler.timesteps:
        x = torch.randn(SHAPE, dtype=torch.float64)
        torch.testing.assert_close(exact(x, t), quick(x, t), rtol=1e-5, atol=1e-5)


def test_guided_samples_have_the_tilted_mean() -> None:
    scheduler = build_scheduler("ddim", tiny_backbone().scheduler, 100)
    guided = classifier_guided(gaussian(scheduler, 0.0, 0.5), NoiseSchedule.of(scheduler), lambda x0: x0.sum(), 2.0)
    found = sample(guided, scheduler, torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert abs(float(found.mean()) - 2.0 * 0.5**2) < 0.03
    assert abs(float(found.std()) - 0.5) < 0.03


def test_the_move_is_limited() -> None:
    scheduler = build_scheduler("ddim", tiny_backbone().scheduler, 10)
    plain, to_x0 = gaussian(scheduler, 0.0, 1.0), NoiseSchedule.of(scheduler)
    guided = classifier_guided(plain, to_x0, lambda x0: 1e6 * x0.sum(), 1.0, limit=0.25)
    x, t = torch.randn(SHAPE), scheduler.timesteps[3]
    move = to_x0(x, t, guided(x, t)) - to_x0(x, t, plain(x, t))
    assert math.isclose(float(move.square().mean().sqrt()), 0.25, rel_tol=1e-4)


def test_pure_noise_is_not_pulled() -> None:
    from diffusers import DDIMScheduler

    trained = DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
    scheduler = build_scheduler("ddim", trained, 4)
    plain = gaussian(scheduler, 0.0, 1.0)
    guided = classifier_guided(plain, NoiseSchedule.of(scheduler), lambda x0: x0.sum())
    x = torch.randn(SHAPE)
    torch.testing.assert_close(guided(x, scheduler.timesteps[0]), plain(x, scheduler.timesteps[0]), rtol=0, atol=0)
    assert not torch.allclose(guided(x, scheduler.timesteps[1]), plain(x, scheduler.timesteps[1]))


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_a_classifier_pulls_the_pictures(pipe: Pipeline, exact: bool) -> None:
    """With a head that likes bright pictures they are brighter, and the host's parameters are as they were."""
    frame = street_frame()
    for parameter in pipe.host.plugin("layout").parameters():
        parameter.requires_grad_(True)
    seen = []

    def bright(views, of):
        seen.append((tuple(views.shape), of.token))
        return views.mean((1, 2, 3)) * 2000

    classifier = Classifier(bright, exact=exact, name="bright")
    plain, pulled = pipe(frame, output_type="pt"), pipe(frame, output_type="pt", classifier=classifier)
    assert set(seen) == {((6, 3, *SIZE), frame.token)}
    assert sum(float(pulled[c].mean()) for c in plain) > sum(float(plain[c].mean()) for c in plain) + 0.05
    assert pulled.settings.classifier == f"bright: scale 1 on pixels, {'exact' if exact else 'not exact'}"
    assert all(p.requires_grad and p.grad is None for p in pipe.host.plugin("layout").parameters())
    pipe.host.requires_grad_(False)


def test_a_head_without_a_gradient_is_refused(pipe: Pipeline) -> None:
    with pytest.raises(InputError, match="does not depend on the picture"):
        pipe(street_frame(), classifier=Classifier(lambda views, frame: (views > 0).float().mean()))
    with pytest.raises(InputError, match="scale 0"):
        Classifier(lambda views, frame: views.sum(), scale=0)
    with pytest.raises(InputError, match="'pixels' or 'latents'"):
        Classifier(lambda views, frame: views.sum(), on="picture")  # type: ignore[arg-type]

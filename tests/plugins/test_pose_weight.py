"""Pose weights: plain training without strength, the formula with it, and HumanSD's weight from the decoded error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from drivegen import raster
from drivegen.catalog import registry
from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.plugin import TrainingStep
from drivegen.sampling import Sampling
from drivegen.saved import model
from drivegen.scene import Box3D
from drivegen.scene.geometry import SE3
from drivegen.support.errors import InputError
from drivegen.testing.frames import camera, frame
from tests.tiny_models import tiny_backbone
from tests.training.test_weights import loss, module

PoseWeight = registry.load("pose_weight")
BACKBONE = tiny_backbone()
GENERATOR = torch.Generator().manual_seed(3)
CLEAN, NOISE, PREDICTION = (torch.randn(3, 4, 12, 16, generator=GENERATOR) for _ in range(3))


def hosted(**options):
    return Host(tiny_backbone(), {"pose_weight": PoseWeight(**options)}).plugin("pose_weight")


def arrays(plugin, street=None) -> dict[str, Tensor]:
    batch = data.collate([data.prepare(street or frame(), {"pose_weight": plugin.weightless()})], {"pose_weight": plugin}, 3)
    return batch.arrays["pose_weight"]


def step(prediction: Tensor | None = None, t: int = 500) -> TrainingStep:
    schedule = NoiseSchedule.trained(BACKBONE.scheduler)
    times = torch.full((3,), t)
    noisy = schedule.add_noise(CLEAN, NOISE, times)
    return TrainingStep(times, CLEAN, NOISE, noisy, PREDICTION if prediction is None else prediction, NOISE, schedule)


def test_strength_zero_is_plain_training_to_the_bit_and_more_is_not() -> None:
    plain, nothing = module({}), module({"pose_weight": PoseWeight(strength=0.0, far=1.0)})
    assert torch.equal(loss(plain), loss(nothing))
    for weighting in ("plain", "min_snr"):
        base, weighed = (loss(module(p, weighting=weighting)) for p in ({}, {"pose_weight": PoseWeight(2.0)}))
        assert weighed > base


@pytest.mark.parametrize("t", [0, 400, 999])
def test_weights_follow_the_heat_map_and_the_schedule(t: int) -> None:
    alphas = NoiseSchedule.trained(BACKBONE.scheduler).alphas_cumprod[t]
    shares = {"constant": 1, "high_noise": 1 - alphas, "low_noise": alphas, "mid_noise": 4 * alphas * (1 - alphas)}
    for schedule, share in shares.items():
        plugin = hosted(strength=0.5, schedule=schedule)
        found = arrays(plugin)
        maps = [raster.heat_map(frame(), view, lambda seen: 1.0, (12, 16)) for view in frame().cameras]
        np.testing.assert_array_equal(found["heat"][0], np.stack(maps))
        expected = 1 + 0.5 * share * torch.from_numpy(np.stack(maps))[:, None]
        assert torch.allclose(plugin.weight(found, step(t=t)), expected)


def one(x: float, yaw: float = 0.0, category: str = "car"):
    box = Box3D(category, SE3.from_yaw(yaw, (x, 0.0, 1.0)), np.array([1.8, 4.0, 1.6]))
    return replace(frame(), cameras=(camera("CAM_FRONT", 0.0),), boxes=(box,))


def hottest(street, **options) -> float:
    plugin = PoseWeight(**options)
    return float(max(plugin.importance(seen) for seen in raster.seen_boxes(street, street.cameras[0])))


def test_importance_is_that_of_class_heading_distance_and_size() -> None:
    assert hottest(one(10), classes={"car": 3.0}) == 3
    assert hottest(one(10, category="pedestrian"), classes={"car": 3.0}) == 1
    assert hottest(one(10, category="animal"), classes={"other": 0.5}) == 0.5
    for yaw, kind in ((0.2, "away"), (1.6, "side"), (3.0, "towards"), (-3.0, "towards")):
        assert hottest(one(10, yaw), headings={kind: 4.0}) == 4
        assert hottest(one(10, yaw), headings={k: 9.0 for k in ("away", "side", "towards") if k != kind}) == 1
    assert hottest(one(41), far=1.0) == pytest.approx(2, rel=1e-3)
    assert hottest(one(41), far=2.0, most=3.0) == 3
    size = raster.seen_boxes(one(20), one(20).cameras[0])[0].size
    assert hottest(one(20), small=0.5) == pytest.approx((0.1 / size) ** 0.5)


# -- the decoded error ---------------------------------------------------------------------------------------------------


def test_a_right_prediction_has_no_error_above_the_threshold() -> None:
    for error, value in (("above", 1.0), ("below", 1.1)):
        plugin = hosted(strength=0.1, error=error, encoded=False)
        weights = plugin.weight(arrays(plugin), step(NOISE))
        assert torch.allclose(weights, torch.full_like(weights, value))


def test_the_two_readings_are_each_others_rest() -> None:
    """And what is not encoded is there only inside of the heat map, once above is counted."""
    weights = {}
    for error in ("above", "below"):
        plugin = hosted(strength=1.0, error=error, encoded=False, threshold=1e-4)
        weights[error] = plugin.weight(arrays(plugin), step())
    total = weights["above"] + weights["below"]
    assert torch.allclose(total, torch.full_like(total, 3.0))
    above = weights["above"] - 1
    assert (above > 0).any()
    cold = torch.nn.functional.max_pool2d(arrays(hosted())["heat"].flatten(0, 1)[:, None], 3, 1, 1) == 0
    assert (above[cold] == 0).all()


@pytest.mark.parametrize("error", ["above", "below"])
def test_encoded_it_is_humansds_weight_by_a_plain_computation(error: str) -> None:
    plugin = hosted(strength=0.1, error=error, threshold=1e-4)
    found = arrays(plugin)
    vae, scale = BACKBONE.vae, BACKBONE.vae.config.scaling_factor
    with torch.no_grad():
        decoded = vae.decode((PREDICTION - NOISE) / scale).sample - vae.decode(torch.zeros(1, 4, 12, 16)).sample
        inside = torch.nn.functional.interpolate(found["heat"][0][:, None].clamp(0, 1), (48, 64), mode="bilinear")
        mask = (decoded.abs().mean(1, keepdim=True) / 2).clamp(max=1) * inside > 1e-4
        picture = (mask if error == "above" else ~mask).float().repeat(1, 3, 1, 1)
        expected = 1 + 0.1 * vae.encode(picture).latent_dist.mode() * scale
    weights = plugin.weight(found, step())
    assert weights.shape == (3, 4, 12, 16)
    assert (weights - expected).abs().max() < 1e-4 * expected.abs().max()


def test_humansds_whole_recipe_takes_a_training_step() -> None:
    plugins = {"pose": registry.load("concat")("boxes"), "pose_weight": PoseWeight(strength=0.1, error="below")}
    made = module(plugins)
    value = loss(made)
    value.backward()
    assert torch.isfinite(value)
    assert made.host.plugin("pose").conv.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in made.host.backbone.vae.parameters())


# -- as a plugin ---------------------------------------------------------------------------------------------------------


def test_it_is_saved_without_weights_and_changes_no_picture(tmp_path) -> None:
    options = {"classes": {"car": 2.0}, "schedule": "low_noise"}
    host = Host(tiny_backbone(), {"text": registry.load("text")(), "pose_weight": PoseWeight(**options)}).eval()
    folder = model.save(host, tmp_path / "m", Sampling(steps=1), image_size=(48, 64))
    loaded = model.load(folder).host.plugin("pose_weight")
    assert loaded.config == host.plugin("pose_weight").config
    assert torch.equal(loaded.weight(arrays(loaded), step()), host.plugin("pose_weight").weight(arrays(loaded), step()))
    pipe = Pipeline.from_pretrained(folder, device="cpu", dtype="float32")
    before = pipe(frame(), seed=0, output_type="latent")
    pipe.remove_plugin("pose_weight")
    without = pipe(frame(), seed=0, output_type="latent")
    assert all(torch.equal(before[channel], without[channel]) for channel in without)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": {"cars": 1.0}}, r"classes has no 'cars' \(did you mean 'car'\?\)"),
        ({"classes": {"car": -1.0}}, r"classes\.car = -1\.0 must be"),
        ({"headings": {"left": 1.0}}, "headings has no 'left'"),
        ({"strength": -0.1}, "strength = -0.1 must be"),
        ({"far": 9.0}, "far = 9.0 is an exponent"),
        ({"schedule": "high-noise"}, r"schedule 'high-noise' is unknown \(did you mean 'high_noise'\?\)"),
        ({"error": "inside"}, "error 'inside' is unknown"),
    ],
)
def test_options_are_checked(options, words: str) -> None:
    with pytest.raises(InputError, match=words):
        PoseWeight(**options)


def test_before_it_stands_in_a_host_it_cannot_draw() -> None:
    with pytest.raises(InputError, match="once it stands in a host"):
        data.prepare(frame(), {"pose_weight": PoseWeight()})

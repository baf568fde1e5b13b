"""Loss weights of plugins: what they see of a step, and that none, or ones, are plain training to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from drivegen.diffusion.loss_weighting import min_snr_weights
from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.plugin import Plugin, TrainingStep
from drivegen.testing.frames import frame
from drivegen.training.config import TrainConfig
from drivegen.training.frames import TrainBatch
from drivegen.training.module import DriveModule
from tests.tiny_models import tiny_backbone


class Weighing(Plugin):
    """Gives what a test says, and keeps what it saw."""

    give = staticmethod(lambda step: None)
    saw: TrainingStep

    def weight(self, arrays, step):
        self.__dict__["saw"] = step
        return self.give(step)


def weighing(give) -> Weighing:
    plugin = Weighing()
    plugin.__dict__["give"] = give
    return plugin


def module(plugins: dict[str, Plugin], prediction: str = "epsilon", weighting: str = "plain") -> DriveModule:
    host = Host(tiny_backbone(prediction_type=prediction), plugins)
    made = DriveModule(host, TrainConfig(steps=1, precision="32", unet=True, weighting=weighting))
    made.log = lambda *args, **options: None  # no trainer here
    return made


def loss(made: DriveModule) -> Tensor:
    plugins = {name: made.host.plugin(name) for name in made.host.plugins}
    batch = data.collate([data.prepare(frame(), plugins)], plugins, views=3)
    torch.manual_seed(0)
    moments = torch.randn(3, 8, 12, 16)
    torch.manual_seed(1)
    return made.training_step(TrainBatch(batch, moments=moments), 0)


@pytest.mark.parametrize("sharing", ["independent", "shared"])
def test_offset_noise_is_a_constant_of_each_view_and_channel(sharing: str) -> None:
    found = []
    for offset in (0.0, 0.5):
        plugin = weighing(lambda step: None)
        host = Host(tiny_backbone(), {"a": plugin})
        made = DriveModule(host, TrainConfig(steps=1, precision="32", unet=True, noise_offset=offset, noise=sharing))  # type: ignore[arg-type]
        made.log = lambda *args, **options: None
        loss(made)
        found.append(plugin.saw.noise)
    added = found[1] - found[0]
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added), atol=1e-6, rtol=0)
    means = added.mean((2, 3))
    assert torch.unique((means * 1e4).round()).numel() == means.numel()  # another one for each view and channel
    assert 0.2 < float(means.std()) < 0.9


def ones(step: TrainingStep) -> Tensor:
    return torch.ones_like(step.clean)


@pytest.mark.parametrize("weighting", ["plain", "min_snr"])
def test_no_weight_and_weights_of_one_are_plain_training_to_the_bit(weighting: str) -> None:
    found = []
    for plugins in ({}, {"a": weighing(lambda step: None)}, {"a": weighing(ones), "b": weighing(lambda s: ones(s)[:, :1])}):
        made = module(plugins, weighting=weighting)
        value = loss(made)
        value.backward()
        found.append((value, [p.grad for p in made.host.backbone.unet.parameters()]))
    for value, gradients in found[1:]:
        assert torch.equal(value, found[0][0])
        assert all(torch.equal(a, b) for a, b in zip(gradients, found[0][1], strict=True))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_weight_sees_what_was_predicted_and_what_it_was_made_of(prediction: str) -> None:
    plugin = weighing(lambda step: None)
    made = module({"a": plugin}, prediction)
    value = loss(made)
    step, schedule = plugin.saw, made.schedule
    assert not step.prediction.requires_grad
    assert torch.equal((step.prediction - step.target).square().mean(), value)
    assert torch.equal(step.noisy, schedule.add_noise(step.clean, step.noise, step.t))
    right = TrainingStep(step.t, step.clean, step.noise, step.noisy, step.target, step.target, schedule)
    assert torch.allclose(right.x0, step.clean, atol=2e-4)
    assert right.noise_error.abs().max() < 2e-3
    alpha, sigma = schedule.rates(step.t, step.clean)
    implied = (step.noisy - alpha * step.x0) / sigma
    assert torch.allclose(implied - step.noise, step.noise_error, atol=2e-3, rtol=1e-3)
    if prediction == "epsilon":
        assert torch.allclose(step.noise_error, step.prediction - step.noise, atol=1e-4)


def test_weights_multiply_each_other_and_min_snr() -> None:
    first, second = weighing(lambda s: 1 + s.noise_error.square()), weighing(lambda s: s.x0.abs().mean(1, keepdim=True))
    made = module({"a": first, "b": second}, weighting="min_snr")
    value, step = loss(made), first.saw
    snr = min_snr_weights(NoiseSchedule.trained(made.host.backbone.scheduler), step.t, 5.0).view(-1, 1, 1, 1)
    errors = (step.prediction - step.target).square()
    expected = (errors * snr * (1 + step.noise_error.square()) * step.x0.abs().mean(1, keepdim=True)).mean()
    assert torch.allclose(value, expected, rtol=1e-6)

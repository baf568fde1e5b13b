"""Noise of training is the noise of sampling."""

from __future__ import annotations

import pytest
import torch

from drivegen.plugin import Grid
from drivegen.sampling import camera_generators, sphere_noise
from drivegen.support.errors import InputError
from drivegen.training.noise import training_noise
from tests.street import street_frame

SHAPE = (4, 8, 14)


def test_the_sphere_s_noise_is_that_of_sampling_frame_by_frame() -> None:
    rigs = [street_frame(step).cameras[:3] for step in (0, 1)]
    generator = torch.Generator().manual_seed(5)
    made = training_noise("sphere", Grid(2, 1, 3), SHAPE, rigs, generator).view(2, 3, *SHAPE)
    seeds = torch.randint(2**62, (2,), generator=torch.Generator().manual_seed(5)).tolist()
    for noise, rig, seed in zip(made, rigs, seeds, strict=True):
        generators = camera_generators(seed, [camera.channel for camera in rig])
        assert torch.equal(noise, sphere_noise(seed, rig, SHAPE, generators))
    assert not torch.equal(made[0], made[1])
    with pytest.raises(InputError, match="cameras=True"):
        training_noise("sphere", Grid(2, 1, 3), SHAPE)


def test_each_view_of_the_sphere_is_standard_normal() -> None:
    rig = street_frame(0).cameras
    torch.manual_seed(0)
    drawn = torch.stack([training_noise("sphere", Grid(1, 1, len(rig)), SHAPE, [rig]) for _ in range(30)])
    assert abs(float(drawn.mean())) < 0.02
    assert abs(float(drawn.std()) - 1) < 0.02

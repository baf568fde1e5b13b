"""Overlapping views agree on what both show: the same boxes and the same ground, at their true places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.raster import box_numbers, layout
from drivegen.sampling import agreeing, overlaps
from drivegen.scene import Box3D, Camera, Frame
from drivegen.scene.geometry import SE3
from tests.street import RIG_DEG, camera, mounting
from tests.tiny_models import tiny_backbone

SHAPE = (4, 16, 28)
RIG = [camera(channel, yaw).resized(224, 126) for channel, yaw in RIG_DEG.items()]


def at(name: str, yaw: float, y: float, size: tuple[int, int] = (224, 126), **changes: SE3) -> Camera:
    """A camera beside the middle of the vehicle, so that near places shift against far ones from view to view."""
    mount = mounting(yaw, (1.0, y, 1.6), 2.0)
    return camera(name, yaw, ego_SE3_camera=mount, **changes).resized(*size)  # type: ignore[arg-type]


OVERLAPPING = (at("left", 20, 0.6), at("right", -20, -0.6))
NEAR = Box3D("vehicle.car", SE3.from_yaw(0.3, (7.0, 0.2, 0.8)), (1.9, 2.5, 1.6))


def street(cameras: Sequence[Camera], *boxes: Box3D) -> Frame:
    return Frame("f", tuple(cameras), boxes)


def agreed(frame: Frame, clean: torch.Tensor, kind: str = "v_prediction", t: int = 600, active: bool = True) -> torch.Tensor:
    """The clean latents that come out of a denoiser whose own are `clean`."""
    to_x0 = NoiseSchedule.of(tiny_backbone(prediction_type=kind).scheduler)
    x, at = torch.randn(clean.shape, generator=torch.Generator().manual_seed(9)), torch.tensor(t)
    start = torch.zeros_like(clean)
    prediction = to_x0.shift_x0(at, start, clean - to_x0(x, at, start))
    guided = agreeing(lambda *_: prediction, to_x0, overlaps(frame, *clean.shape[2:]), lambda: active)
    return to_x0(x, at, guided(x, at))


def latents(views: int) -> torch.Tensor:
    return torch.randn(views, *SHAPE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("boxes", [(), (NEAR,)])
def test_views_of_one_pose_agree_on_their_mean(kind: str, boxes: tuple[Box3D, ...]) -> None:
    twins = [RIG[1], replace(RIG[1], channel="TWIN")]
    clean = latents(2)
    found = agreed(street(twins, *boxes), clean, kind)
    torch.testing.assert_close(found, clean.mean(0, keepdim=True).expand(2, -1, -1, -1), rtol=1e-4, atol=1e-4)


def test_only_what_two_views_show_is_changed_and_by_neighbours_alone() -> None:
    clean = latents(3)
    frame = street([*OVERLAPPING, RIG[4]], NEAR)
    found, shown = agreed(frame, clean), overlaps(frame, *SHAPE[1:])
    alone = [each.channel for each in frame.cameras].index(RIG[4].channel)  # looks back
    torch.testing.assert_close(found[alone], clean[alone], rtol=1e-5, atol=1e-5)
    flat, now = (each.flatten(2).transpose(1, 2).flatten(0, 1).double() for each in (clean, found))
    expected = flat.clone()
    for (cell, other), weight in zip(shown.pairs.tolist(), shown.weights.double(), strict=True):
        expected[cell] += weight * (flat[other] - flat[cell])
    torch.testing.assert_close(now, expected, rtol=1e-4, atol=1e-4)
    assert 0.1 < float(((now - flat).abs().amax(1) > 1e-3).double().mean()) < 0.5


def test_the_weights_of_a_cell_are_shares_and_those_of_twins_a_half() -> None:
    shown = overlaps(street(RIG, NEAR), *SHAPE[1:])
    total = torch.zeros(len(RIG) * SHAPE[1] * SHAPE[2]).index_add(0, shown.pairs[:, 0], shown.weights)
    assert float(shown.weights.min()) > 0
    assert float(total.max()) < 1
    twins = overlaps(street([RIG[1], replace(RIG[1], channel="TWIN")]), *SHAPE[1:])
    assert torch.equal(twins.weights, torch.full((2 * SHAPE[1] * SHAPE[2],), 0.5))


def world(camera: Camera, frame: Frame) -> tuple[torch.Tensor, torch.Tensor]:
    """What a view's cells show, as their means over 8 x 8 places: (4, h, w), x, y and z in metres and whether it is a box; and
    which cells show nothing that is farther than 15 m."""
    _, h, w = SHAPE
    fine = (h * 8, w * 8)
    depth = layout(frame, camera, fine).depth_m.astype(float)
    rows, columns = np.mgrid[: fine[0], : fine[1]] + 0.5
    pixels = np.stack([columns * camera.image_size[0] / fine[1], rows * camera.image_size[1] / fine[0], np.ones(fine)], -1)
    places = camera.global_SE3_camera.transform(((pixels @ np.linalg.inv(camera.K_image).T) * depth[..., None]).reshape(-1, 3))
    box = box_numbers(frame, camera, fine)[0] >= 0
    found = np.concatenate([places.reshape(*fine, 3), box[..., None]], -1).reshape(h, 8, w, 8, 4).mean((1, 3))
    near = ((depth > 0) & (depth < 15)).reshape(h, 8, w, 8).all((1, 3))
    return torch.from_numpy(found).float().permute(2, 0, 1), torch.from_numpy(near)


@pytest.mark.parametrize("driven_m", [0.0, 0.8])
@pytest.mark.parametrize("box", [NEAR, replace(NEAR, global_SE3_object=SE3.from_yaw(1.2, (6.5, -0.2, 0.8)))])
def test_what_shows_the_world_as_it_is_agrees_already(box: Box3D, driven_m: float) -> None:
    """Two views, the second from a little further on, painted with the places that they show: near ground and boxes stay, as
    they would not if the rays were paired where they meet a far sphere."""
    turned = SE3.from_yaw(0.7, (300.0, -200.0, 0.0))
    moved = replace(box, global_SE3_object=turned @ box.global_SE3_object)
    egos = (turned, turned @ SE3.from_yaw(0.0, (driven_m, 0.0, 0.0)))
    frame = street([replace(each, global_SE3_ego=ego) for each, ego in zip(OVERLAPPING, egos, strict=True)], moved)
    painted = [world(each, frame) for each in frame.cameras]
    clean = torch.stack([paint for paint, _ in painted])
    middle = clean[:, :3].mean((0, 2, 3), keepdim=True)
    clean[:, :3] -= middle  # small numbers, which fp32 keeps
    near = torch.stack([near for _, near in painted])
    found = agreed(frame, clean)
    shown = overlaps(frame, *SHAPE[1:])
    paired = torch.zeros(near.numel()).index_add(0, shown.pairs[:, 0], shown.weights).reshape(near.shape) > 0.2
    assert int((near & paired).sum()) > 40
    by = (found - clean).abs().permute(1, 0, 2, 3)
    assert float(by[:3].amax(0)[near & paired].mean()) < 0.05  # metres; a sphere's pairs move them by 0.8 to 1.9
    whole = near & paired & (clean[:, 3] > 0.99)
    assert int(whole.sum()) > 10
    assert float(by[3][whole].mean()) < 0.01  # a sphere's: 0.08 to 0.30


def test_views_that_agree_already_stay_and_nothing_happens_when_it_is_over() -> None:
    even, frame = torch.full((2, *SHAPE), 0.7), street(OVERLAPPING, NEAR)
    torch.testing.assert_close(agreed(frame, even), even, rtol=1e-5, atol=1e-5)
    clean = latents(2)
    torch.testing.assert_close(agreed(frame, clean, active=False), clean, rtol=1e-5, atol=1e-5)


def test_overlaps_of_a_ring_go_both_ways() -> None:
    _, h, w = SHAPE
    views = (overlaps(street(RIG), h, w).pairs // (h * w)).numpy()
    seen = {tuple(pair) for pair in views.tolist()}
    assert len(seen) >= len(RIG)
    assert {(b, a) for a, b in seen} == seen
    assert all((b - a) % len(RIG) in (1, len(RIG) - 1) for a, b in seen)  # neighbours in the ring alone


def test_a_camera_outside_of_the_sphere_and_views_of_two_sizes() -> None:
    away = replace(OVERLAPPING[0], channel="pole", ego_SE3_camera=mounting(180, (60.0, 0.0, 6.0), 10.0))
    finer = at("right", -20, -0.6, (448, 252))
    for frame in (street([away]), street([away, OVERLAPPING[0], finer], NEAR)):
        shown = overlaps(frame, *SHAPE[1:])
        assert bool(torch.isfinite(shown.weights).all())
        assert bool(torch.isfinite(agreed(frame, latents(len(frame.cameras)))).all())
    same, other = (overlaps(street([OVERLAPPING[0], each], NEAR), *SHAPE[1:]) for each in (OVERLAPPING[1], finer))
    assert torch.equal(same.pairs, other.pairs)
    torch.testing.assert_close(same.weights, other.weights)

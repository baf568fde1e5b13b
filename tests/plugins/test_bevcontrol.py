"""BEVControl: each part against a plain computation, view by view and neighbour by neighbour, and the plugin as a whole."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from drivegen.catalog import registry
from drivegen.host import batch as data
from drivegen.host.evaluation import Conditions
from drivegen.host.host import Host
from drivegen.host.regions import Region
from drivegen.pipeline.pipeline import Pipeline
from drivegen.plugin import Grid
from drivegen.raster import layout
from drivegen.sampling import Sampling
from drivegen.saved import model
from drivegen.scene import Box3D, Frame
from drivegen.scene.geometry import SE3
from drivegen.support.errors import InputError
from drivegen.testing.frames import camera, frame
from tests.tiny_models import randomize, tiny_backbone

RING, LINE = [[1, 2], [2, 0], [0, 1]], [[1, -1], [0, -1], [-1, -1]]
X = torch.randn(6, 4, 12, 16, generator=torch.manual_seed(0))


@cache
def hosted(coordinator: bool = True) -> Host:
    host = Host(tiny_backbone(), {"sketch": registry.load("bevcontrol")(coordinator=coordinator, channels=(8, 8, 8))})
    randomize(host.plugin("sketch"))
    return host.eval()


def arrays(*frames: Frame, coordinator: bool = True) -> dict[str, Tensor]:
    plugins = {"sketch": hosted(coordinator).plugin("sketch")}
    return data.collate([data.prepare(each, plugins) for each in frames], plugins, len(frames[0].cameras)).arrays["sketch"]


def predict(given: dict[str, Tensor], coordinator: bool = True, keep: bool = True, **more) -> Tensor:
    host, grid = hosted(coordinator), Grid(*given["map"].shape[:1], 1, given["map"].shape[1])
    conditions = host.encode({"sketch": given}, grid, {"sketch": keep})
    return host(X[: grid.rows], torch.tensor(500), replace(conditions, **more))


def near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() <= 1e-5 * b.norm())


def attended(part, queries: Tensor, keys: Tensor) -> Tensor:
    """Plain attention of one view's (L, C) to (S, C), head by head, before any output projection."""
    q, k, v = part.to_q(part.norm(queries)), part.to_k(part.norm(keys)), part.to_v(part.norm(keys))
    width = q.shape[-1] // part.heads
    heads = [slice(h * width, (h + 1) * width) for h in range(part.heads)]
    return torch.cat([(q[:, h] @ k[:, h].T / math.sqrt(width)).softmax(-1) @ v[:, h] for h in heads], 1)


@pytest.mark.parametrize("second", [RING, LINE], ids=["ring", "line"])
def test_a_block_is_the_method_written_out(second: list) -> None:
    """Controller: stream and tokens together, the stream's part kept; Coordinator: per neighbour, its stream and its tokens."""
    layer = next(iter(hosted().plugin("sketch").taps.values()))
    batch = arrays(frame(0), frame(1))
    batch["null_neighbours"] = torch.tensor([RING, second])
    host, grid = hosted(), Grid(2, 1, 3)
    with torch.no_grad():
        sketch = host.encode({"sketch": batch}, grid).signals["sketch"].data
        stream = torch.randn(6, 20, layer.to_foreground.out_features, generator=torch.manual_seed(1))
        term = layer(stream, stream, type("Now", (), {"signal": type("Signal", (), {"data": sketch})})())
        boxes = [layer.to_foreground(t[m]) for t, m in zip(sketch.foreground, sketch.mask, strict=True)]
        cells = list(layer.to_background(sketch.background))
        after = []
        for row in range(6):
            whole = [torch.cat([stream[row], tokens]) for tokens in (boxes[row], cells[row])]
            parts = zip((layer.foreground, layer.background), whole, strict=True)
            after.append(stream[row] + sum(part.to_out(attended(part, z, z)[:20]) for part, z in parts))
        for row in range(6):
            expected = after[row]
            for u in batch["null_neighbours"][row // 3, row % 3].tolist():
                if u >= 0:
                    other = row // 3 * 3 + u
                    sketched = torch.cat([boxes[other], cells[other]])
                    expected = expected + layer.globally.to_out(attended(layer.globally, after[row], after[other]))
                    expected = expected + layer.locally.to_out(attended(layer.locally, after[row], sketched))
            assert near(stream[row] + term[row], expected)


def test_spare_slots_and_the_order_of_boxes_change_nothing() -> None:
    street = frame(0)
    plain = predict(arrays(street, frame(1)))
    turned = replace(street, boxes=street.boxes[::-1])
    assert near(predict(arrays(turned, frame(1))), plain)
    given = arrays(street, frame(1))
    for name, fill in (("corners", 9.0), ("heading", 9.0), ("classes", -1), ("mask", False)):
        spare = torch.full_like(given[name][:, :, :1], fill)
        given[name] = torch.cat([given[name], spare, spare], 2)
    assert near(predict(given), plain)


@torch.no_grad()
def test_the_second_step_and_the_first_are_those_of_training() -> None:
    given, host, grid = arrays(frame(0), frame(1)), hosted(), Grid(2, 1, 3)
    with torch.enable_grad():
        expected = predict(given)
    conditions = host.encode({"sketch": given}, grid)
    steps = [host(X, torch.tensor(500), conditions) for _ in range(2)]
    assert near(steps[0], expected)
    assert torch.equal(*steps)


def test_without_coordinator_a_view_is_by_itself_and_with_it_not() -> None:
    given = arrays(frame(0), frame(1))
    for coordinator in (False, True):
        plain = predict(given, coordinator)
        one = {**given, "map": given["map"].clone()}
        one["map"][0, 1] ^= 1
        changed = (predict(one, coordinator) - plain).flatten(1).norm(dim=1) > 1e-6 * plain.norm()
        assert changed.tolist() == [coordinator, True, coordinator, False, False, False]
    assert "null_neighbours" not in arrays(frame(0), coordinator=False)


def test_null_is_no_empty_street_and_views_stay_coordinated() -> None:
    empty = replace(frame(0), boxes=(), map=None)
    assert not near(predict(arrays(empty), keep=False), predict(arrays(empty)))
    assert near(predict(arrays(empty), keep=False), predict(arrays(frame(0)), keep=False))  # up to spare slots
    alone = arrays(frame(0))
    alone["null_neighbours"] = torch.full_like(alone["null_neighbours"], -1)
    assert not near(predict(alone, keep=False), predict(arrays(frame(0)), keep=False))


def test_a_region_holds_all_that_is_added() -> None:
    given, whole = arrays(frame(0)), torch.ones(3, 1, 48, 64)
    absent = Conditions(Grid(1, 1, 3), {})
    assert near(predict(given, regions={"sketch": Region(whole)}), predict(given))
    assert near(predict(given, regions={"sketch": Region(0 * whole)}), hosted()(X[:3], torch.tensor(500), absent))


def seen(x: float, y: float, yaw: float, kind: str = "car") -> tuple[dict[str, Tensor], Frame]:
    box = Box3D(kind, SE3.from_yaw(yaw, (x, y, 1.0)), np.array([1.8, 4.0, 1.6]))
    street = Frame("one", (camera("CAM_BACK", 180.0), camera("CAM_FRONT", 0.0)), (box,))
    return arrays(street), street


@pytest.mark.parametrize("yaw", [0.0, 0.7, 2.0, -2.9])
def test_heading_is_that_of_the_layout_picture_and_corners_are_in_the_picture(yaw: float) -> None:
    given, street = seen(15.0, 3.0, yaw)
    assert given["mask"].tolist() == [[[False], [True]]]  # the ring begins behind
    view = layout(street, street.camera("CAM_FRONT"))
    covered = np.argwhere(view.box_class)
    row, column = covered.mean(0).astype(int)
    sine, cosine = view.heading[:, row, column].astype(float)
    off = float(given["heading"][0, 1, 0]) - math.atan2(sine, cosine)
    assert abs(math.remainder(off, 2 * math.pi)) < 0.1  # the pixel's ray against the middle's
    low, high = (limit(given["corners"][0, 1, 0].numpy(), 0) * (64, 48) for limit in (np.amin, np.amax))
    assert (abs(covered[:, ::-1].min(0) - low) < 1.5).all()
    assert (abs(covered[:, ::-1].max(0) + 1 - high) < 1.5).all()


def test_a_box_beside_the_camera_stays_on_its_side() -> None:
    given, _ = seen(2.0, 2.5, 0.0)
    corners = given["corners"][0, 1, 0]
    assert given["mask"][0, 1, 0]
    assert (corners[:, 0] < 0.5).all()
    assert corners.min() >= -1
    assert corners.max() <= 2
    assert (corners[:, 0] == -1).any()


def test_the_nearest_boxes_are_kept_and_other_classes_left_out() -> None:
    street = replace(frame(0), cameras=frame(0).cameras[:1])
    boxes = tuple(
        Box3D(kind, SE3.from_yaw(0.0, (x, y, 1.0)), np.array([1.8, 4.0, 1.6]))
        for kind, x, y in (("car", 20.0, 12.0), ("bus", 12.0, 12.0), ("animal", 8.0, 12.0), ("truck", 26.0, 12.0))
    )
    plugin = registry.load("bevcontrol")(max_boxes=2)
    with pytest.warns(UserWarning, match="CAM_FRONT_LEFT sees 3 boxes; the nearest 2 are kept"):
        made = plugin.prepare(replace(street, boxes=boxes))
    assert made["classes"].tolist() == [[3, 0]]


@pytest.mark.parametrize("options", [{"channels": ()}, {"channels": (8, 0)}, {"max_boxes": 0}])
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        registry.load("bevcontrol")(**options)


def test_it_is_saved_loaded_and_generates(tmp_path) -> None:
    folder = model.save(hosted(), tmp_path / "m", Sampling(steps=2, guidance=2.0, null=("sketch",)), image_size=(48, 64))
    pipe, again = (Pipeline.from_pretrained(folder, device="cpu", dtype="float32") for _ in range(2))
    street = frame(0)
    made, same = (each(street, seed=1, output_type="latent") for each in (pipe, again))
    other = pipe(replace(street, boxes=street.boxes[:1]), seed=1, output_type="latent")
    assert all(torch.equal(made[channel], same[channel]) for channel in street.channels)
    assert not all(torch.equal(made[channel], other[channel]) for channel in street.channels)
    assert torch.equal(
        model.load(folder).host.plugin("sketch").foreground.classes, hosted().plugin("sketch").foreground.classes
    )

"""Mixing at run time: when a plugin is there, and where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from drivegen import raster
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.host.regions import Region
from drivegen.pipeline.pipeline import Pipeline
from drivegen.pipeline.spelling import read_ranges
from drivegen.sampling import HostDenoiser, Sampling
from drivegen.saved.model import Model
from drivegen.scene.geometry import SE3
from drivegen.support.errors import InputError
from tests.street import street_frame
from tests.tiny_hosts import SIZE, tiny_host

LATENT = (8, 14)
NAMES = ("text", "boxes", "cross_view", "layout")


@pytest.fixture(scope="module")
def host() -> Host:
    return tiny_host(NAMES)


@pytest.fixture(scope="module")
def frame():
    return street_frame().resized(SIZE[1], SIZE[0])


@pytest.fixture(scope="module")
def batch(host, frame) -> data.Batch:
    plugins = {name: host.plugin(name) for name in host.plugins}
    return data.collate([data.prepare(frame, plugins)], plugins, len(frame.cameras))


def predict(denoiser: HostDenoiser, known=None) -> torch.Tensor:
    x = torch.randn(6, 4, *LATENT, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return denoiser(x, torch.tensor(500), known)


# -- when ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_outside_of_its_range_a_plugin_is_absent(host, batch, name: str) -> None:
    ranged = HostDenoiser(host, batch, ranges={name: (0.25, 0.75)})
    ranged.steps = 4
    there, absent = predict(HostDenoiser(host, batch)), predict(HostDenoiser(host, batch, {name: 0.0}))
    assert not torch.equal(there, absent)
    for step, expected in enumerate((absent, there, there, absent)):
        ranged.step = step
        assert torch.equal(predict(ranged), expected), step
        assert torch.equal(predict(ranged, {name: False}), expected) == (expected is absent)


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 20, 50])
def test_the_step_rule_is_that_of_diffusers(host, batch, steps: int) -> None:
    """Written as `controlnet_keep` of diffusers' ControlNet pipelines is, for every tenth: 3 of 10 steps end at 0.3."""
    tenths = [i / 10 for i in range(11)]
    for start, end in ((a, b) for a in tenths for b in tenths if a < b):
        denoiser = HostDenoiser(host, batch, ranges={"layout": (start, end)})
        denoiser.steps = steps
        for i in range(steps):
            denoiser.step = i
            keep = 1.0 - float(i / steps < start or (i + 1) / steps > end)
            assert ("layout" in denoiser._absent()) == (keep == 0), (start, end, i)


@pytest.mark.slow
def test_ranges_in_the_pipeline(host, frame) -> None:
    pipe = Pipeline(Model(host, Sampling(sampler="ddim", steps=4, guidance=1.0), SIZE))

    def run(**options):
        views = pipe(frame, output_type="latent", **options)
        return torch.stack(list(views.values())), views.settings

    whole, settings = run(ranges={"layout": (0.0, 1.0)})
    assert torch.equal(whole, run()[0])
    assert settings.ranges == {"layout": (0.0, 1.0)}
    seen = {}

    def note(key):
        return lambda pipe, i, t, state: seen.setdefault(key, []).append(state["latents"].clone())

    run(callback_on_step_end=note("with"))
    run(callback_on_step_end=note("early"), ranges={"layout": (0.0, 0.5)})
    run(callback_on_step_end=note("without"), scales={"layout": 0.0})
    same = [torch.equal(a, b) for a, b in zip(seen["with"], seen["early"], strict=True)]
    assert same == [True, True, False, False]
    assert not torch.equal(seen["early"][-1], seen["without"][-1])
    for wrong in ((0.5, 0.5), (-0.1, 1.0), (0.0, 1.5)):
        with pytest.raises(InputError, match="range of 'layout'"):
            run(ranges={"layout": wrong})
    with pytest.raises(InputError, match="did you mean 'layout'"):
        run(ranges={"layuot": (0, 1)})


def test_ranges_on_the_command_line() -> None:
    assert read_ranges([]) == {}
    assert read_ranges(["layout=0:0.6", "text=0.2:1"]) == {"layout": (0.0, 0.6), "text": (0.2, 1.0)}
    for wrong in ("layout", "layout=0.5", "layout=0:x", "layout=0.6:0.2", "layout=0:1:2"):
        with pytest.raises(InputError, match="range"):
            read_ranges([wrong])
    with pytest.raises(InputError, match="twice"):
        read_ranges(["layout=0:0.6", "layout=0:0.7"])


def test_an_absent_plugin_is_not_prepared(host, frame, monkeypatch) -> None:
    pipe = Pipeline(Model(host, Sampling(sampler="ddim", steps=1, guidance=1.0), SIZE))
    expected = pipe(frame, scales={"layout": 0}, output_type="latent")
    monkeypatch.setattr(type(host.plugin("layout")), "prepare", lambda *a: pytest.fail("prepared"))
    found = pipe(frame, scales={"layout": 0}, inputs={"layout": {}}, output_type="latent")
    assert all(torch.equal(found[c], expected[c]) for c in found)


# -- where ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["layout", "cross_view"])
def test_a_region_of_all_is_no_region_and_of_nothing_is_absence(host, batch, name: str) -> None:
    there, absent = predict(HostDenoiser(host, batch)), predict(HostDenoiser(host, batch, {name: 0.0}))
    for value, expected in ((1.0, there), (0.0, absent)):
        region = Region(torch.full((6, 1, *SIZE), value))
        torch.testing.assert_close(predict(HostDenoiser(host, batch, regions={name: region})), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_region_multiplies_at_each_resolution(host, batch) -> None:
    mask = torch.zeros(6, 1, *SIZE)
    mask[:, :, :, : SIZE[1] // 2] = 1
    mask[2] = 0
    conditions = host.encode(batch.arrays, batch.grid, scales={"cross_view": 0.0})
    x, t = torch.randn(6, 4, *LATENT), torch.full((6,), 500)
    seen = []
    handle = host.backbone.unet.register_forward_pre_hook(lambda m, a, k: seen.append(k), with_kwargs=True)
    host(x, t, conditions)
    host(x, t, replace(conditions, regions={"layout": Region(mask)}))
    handle.remove()
    free, held = ([*k["down_block_additional_residuals"], k["mid_block_additional_residual"]] for k in seen)
    assert {tuple(r.shape[-2:]) for r in free} == {(8, 14), (4, 7)}
    for a, b in zip(free, held, strict=True):
        means = mask.unflatten(2, (a.shape[2], -1)).unflatten(4, (a.shape[3], -1)).mean((3, 5))
        torch.testing.assert_close(b, a * means, rtol=1e-6, atol=1e-7)
        assert bool((b[2] == 0).all())


@torch.no_grad()
def test_taps_are_held_to_a_region(host, batch) -> None:
    """A tap's term outside of the mask is nothing: rows with an empty mask are as if the plugin were absent."""
    mask = torch.ones(6, 1, *SIZE)
    mask[3] = 0
    there = predict(HostDenoiser(host, batch))
    absent = predict(HostDenoiser(host, batch, {"cross_view": 0.0}))
    held = predict(HostDenoiser(host, batch, regions={"cross_view": Region(mask)}))
    torch.testing.assert_close(held[3], absent[3], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(held[3], there[3], atol=1e-4)
    stream = torch.randn(6, LATENT[0] * LATENT[1] // 4, 5)
    expected = stream.unflatten(1, (4, 7)) * Region(mask).at((4, 7))[:, 0, :, :, None]
    torch.testing.assert_close(Region(mask).on(stream, stream, LATENT).unflatten(1, (4, 7)), expected)


def test_regions_are_refused_where_they_mean_nothing(host, frame) -> None:
    pipe = Pipeline(Model(host, Sampling(sampler="ddim", steps=1, guidance=1.0), SIZE))
    with pytest.raises(InputError, match=r"'text'.* place in the picture"):
        pipe(frame, regions={"text": {"CAM_FRONT": True}})
    with pytest.raises(InputError, match="did you mean 'layout'"):
        pipe(frame, regions={"layuot": {"CAM_FRONT": True}})
    with pytest.raises(InputError, match="0 to 1"):
        Region(torch.full((1, 1, 2, 2), 2.0))


def test_regions_in_the_pipeline(host, frame) -> None:
    pipe = Pipeline(Model(host, Sampling(sampler="ddim", steps=1, guidance=1.0), SIZE))

    def run(**options):
        views = pipe(frame, output_type="latent", scales={"cross_view": 0.0, **options.pop("scales", {})}, **options)
        return views

    there, absent = run(), run(scales={"layout": 0.0})
    held = run(regions={"layout": {"CAM_FRONT": True}})
    assert held.settings.regions == ("layout",)
    for channel in frame.channels:
        torch.testing.assert_close(held[channel], (there if channel == "CAM_FRONT" else absent)[channel], rtol=1e-4, atol=1e-5)


# -- what a region may be ------------------------------------------------------------------------------------------------


def test_boxes_as_regions_are_where_the_layout_shows_them(frame) -> None:
    judged = 0
    for box in frame.boxes:
        alone = replace(frame, boxes=(box,))
        seen = np.stack([raster.layout(alone, camera).box_class > 0 for camera in frame.cameras])
        if seen.sum() < 60:
            continue
        judged += 1
        masks = raster.region_mask(frame, box.instance)
        assert np.array_equal(masks, raster.region_mask(frame, box))
        both, either = ((masks > 0) & seen).sum(), ((masks > 0) | seen).sum()
        assert both / either > 0.99, box.instance
    assert judged >= 3
    pair = raster.region_mask(frame, ["car-a", "truck-a"])
    assert np.array_equal(pair, np.maximum(*(raster.region_mask(frame, name) for name in ("car-a", "truck-a"))))


def test_masks_and_polygons_by_camera(frame) -> None:
    height, width = SIZE
    front = frame.channels.index("CAM_FRONT")
    left = np.zeros(SIZE, bool)
    left[:, : width // 2] = True
    corners = [(0, 0), (width // 2, 0), (width // 2, height), (0, height)]
    for user_input in (left, left.astype(np.float32), left.astype(np.uint8) * 255, Image.fromarray(left), corners):
        masks = raster.region_mask(frame, {"CAM_FRONT": user_input})
        assert np.array_equal(masks[front], left)
        assert not np.delete(masks, front, axis=0).any()
    assert raster.region_mask(frame, dict.fromkeys(frame.channels, True)).all()


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ({"CAM_FRNT": True}, "did you mean 'CAM_FRONT'"), ("car-b", "no box of instance"), (7, "a region is"),
        ([], "a region is"), ({"CAM_FRONT": np.zeros((2, 2))}, "mask is"), ({"CAM_FRONT": np.full(SIZE, 3.0)}, "0 to 1"),
        ({"CAM_FRONT": [(0, 0), (1, 1)]}, "is not a polygon"), ({"CAM_FRONT": 3}, "not int"),
    ],
)  # fmt: skip
def test_other_regions_are_refused(frame, region, words: str) -> None:
    with pytest.raises(InputError, match=words):
        raster.region_mask(frame, region)


def test_a_region_that_no_camera_sees_warns(frame) -> None:
    above = SE3.from_yaw(0.0, (300.0, 298.0, 900.0))
    far = replace(frame.boxes[0], global_SE3_object=above)
    with pytest.warns(UserWarning, match="nothing of the region"):
        raster.region_mask(frame, far)

"""Aspect buckets: each frame whole in the size nearest to its pictures' shape, a batch of one, resumed to the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from drivegen import training
from drivegen.catalog import registry
from drivegen.datasets import nuscenes
from drivegen.host.host import Host
from drivegen.scene import Scene
from drivegen.support.errors import InputError
from drivegen.testing import tiny_backbone
from drivegen.training import checkpoint as checkpoints
from drivegen.training import config as configs
from drivegen.training.buckets import BucketConfig, nearest_bucket
from drivegen.training.datamodule import DriveData
from drivegen.training.frames import TrainBatch
from drivegen.training.order import Balanced, Order
from tests.street import RIG_DEG, camera, street_frame

SIZE, SQUARE = (32, 56), (48, 40)
WIDE_PX, TALL_PX, ODD_PX = (320, 180), (120, 150), (160, 90)


@pytest.fixture(scope="module")
def rigs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of three wide cameras, one of them small; one of three tall ones; one held out of two tall ones."""
    root, scenes = tmp_path_factory.mktemp("rigs") / "city", []
    for name, steps, sizes in (
        ("wide", 3, (WIDE_PX, WIDE_PX, ODD_PX)), ("more", 1, (WIDE_PX,) * 3), ("tall", 2, (TALL_PX, TALL_PX, WIDE_PX)),
        ("held", 1, (TALL_PX,) * 2),
    ):  # fmt: skip
        frames = []
        for step in range(steps):
            frame = street_frame(step, scene=name)
            cameras = zip(frame.cameras, RIG_DEG.items(), sizes, strict=False)
            own = tuple(
                camera(channel, yaw, c.global_SE3_ego, size, timestamp_us=c.timestamp_us) for c, (channel, yaw), size in cameras
            )
            frames.append(replace(frame, token=f"{name}-{step}", cameras=own, boxes=()))
        scenes.append(Scene(name, tuple(frames), "a street", "boston-seaport", f"{name}-token"))
    nuscenes.write(scenes, root)
    return root


def test_derived_sizes_have_the_area_and_the_nearest_is_by_shape() -> None:
    found = BucketConfig(reso_steps=64, min_reso=256, max_reso=1024).besides((448, 800))
    assert {(448, 768), (576, 576), (1024, 320)} <= set(found)
    assert all(side % 64 == 0 and 256 <= side <= 1024 for size in found for side in size)
    assert all(448 * 800 - 64 * h < h * w <= 448 * 800 for h, w in found if w < 1024)
    assert BucketConfig(sizes=((448, 800), (512, 704))).besides((448, 800)) == ((512, 704),)
    buckets = ((448, 800), *found)
    assert nearest_bucket([(1600, 900)] * 6, buckets) == (448, 800)
    assert nearest_bucket([(1000, 1000)], buckets) == (576, 576)
    assert nearest_bucket([(1920, 1080)] * 3 + [(600, 800)], buckets) == nearest_bucket([(1920, 1080)] * 3, buckets)
    tall, wide = nearest_bucket([(900, 1600)], buckets), nearest_bucket([(1920, 800)], buckets)
    assert tall[0] > tall[1]
    assert wide[1] / wide[0] > 2.2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{sizes: [[448, 700]]}", "multiples of 8"),
        ("{sizes: [[448, 704], [448, 704]]}", "twice"),
        ("{sizes: [[448, 704]], reso_steps: 32}", "not read"),
        ("{reso_steps: 20}", "multiple of 8"),
        ("{min_reso: 512, max_reso: 256}", "above max_reso"),
        ("{sizes: [[32, 56]]}", "no size besides"),
        ("{sizes: [[64, 9000]]}", "up to 8192"),
        ("{max_reso: 100000}", "allowed: 8 to 8192"),
        ("{min_reso: 4000}", "no size besides"),
        ("{reso_step: 64}", "did you mean 'reso_steps'"),
        ("{sizes: [448, 704]}", r"sizes\[0\]"),
    ],
)
def test_wrong_buckets_are_refused(config: Path, given: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        configs.load(config, [f"data.buckets={given}"])


def test_batches_hold_one_size_and_processes_share_them_out() -> None:
    views = [3] * 9 + [2] * 4
    sizes = [(32, 56), (48, 40), (32, 56)] * 3 + [(32, 56), (48, 40)] * 2
    order = Order(views, 6, seed=1, sizes=sizes)
    batches = [order.batch(i) for i in range(order.per_epoch)]
    assert sorted(i for batch in batches for i in batch) == list(range(len(views)))
    assert all(len({(views[i], sizes[i]) for i in batch}) == 1 for batch in batches)
    halves = [Order(views, 6, 1, rank, 2, sizes) for rank in (0, 1)]
    seen = [i for p in range(halves[0].per_epoch) for half in halves for i in half.batch(p)]
    assert len(set(seen)) == len(seen)
    one, none = Order(views, 6, 1, sizes=[(8, 8)] * 13), Order(views, 6, 1)
    assert [one.batch(i) for i in range(9)] == [none.batch(i) for i in range(9)]
    second = [True, False] * 6 + [True]
    pairs = Balanced(views, second, 6, 1, sizes=sizes)
    assert all(len({(views[i], sizes[i]) for i in pairs.batch(p)}) == 1 for p in range(pairs.per_epoch))


def read(rigs: Path, host: Host, cache: Path | None, buckets: list[tuple[int, int]]) -> dict[str, TrainBatch]:
    data = DriveData([rigs], host, size=SIZE, images=6, val_scenes=["held"], cache=cache, buckets=buckets)
    data.setup()
    return {sample: batch for batch in data.train_dataloader() for sample in batch.conditions.samples}


@pytest.mark.slow
def test_frames_are_whole_in_their_bucket_and_sdxl_is_told_each_cameras_size_and_crop(rigs: Path, tmp_path: Path) -> None:
    kinds = ("text", "pooled_text", "picture_size", "layout")
    host = Host(tiny_backbone(family="sdxl", vae_factor=8), {kind: registry.load(kind)() for kind in kinds}).eval()
    plain, first, again = (read(rigs, host, cache, [SQUARE]) for cache in (None, tmp_path / "c", tmp_path / "c"))
    for sample, batch in plain.items():
        height, width = SQUARE if sample.startswith("tall") else SIZE
        assert batch.pixels is not None
        assert batch.pixels.shape[2:] == (height, width)
        assert len({name.split("-")[0] == "tall" for name in batch.conditions.samples}) == 1
        row = batch.conditions.samples.index(sample)
        natives = [TALL_PX, TALL_PX, WIDE_PX] if sample.startswith("tall") else [WIDE_PX, WIDE_PX, None]
        for native, told in zip(natives, batch.conditions.arrays["picture_size"]["size"][row].tolist(), strict=True):
            if native is not None:  # scaled to cover, and what is over is cut off
                scale = max(width / native[0], height / native[1])
                left = round((native[0] * scale - width) / 2)
                assert told[:2] == [native[1], native[0]]
                assert told[3:] == [left, height, width]
        for cached in (first[sample], again[sample]):
            assert cached.moments is not None
            expected = host.backbone.first_stage.moments(batch.pixels.float() / 127.5 - 1)
            torch.testing.assert_close(cached.moments.float(), expected, atol=2e-3, rtol=2e-3)
            for name, arrays in batch.conditions.arrays.items():
                for key, value in cached.conditions.arrays[name].items():
                    assert key not in arrays or torch.equal(value, arrays[key])
    files = sorted(path.name for path in tmp_path.glob("c/latents-*/*.npz"))
    assert ["-48x40" in name for name in files].count(True) == 2
    assert len(files) == 6
    without = read(rigs, host, tmp_path / "c", [])  # the same folder, one size: none of the others' is read
    assert without["tall-0"].moments is not None
    assert without["tall-0"].moments.shape[2:] == (4, 7)
    assert torch.equal(without["wide-0"].moments, first["wide-0"].moments)


@pytest.mark.slow
def test_a_run_says_its_buckets_and_resumes_to_the_same_bits(rigs: Path, config: Path, tmp_path: Path, capsys) -> None:
    values = yaml.safe_load(config.read_text())
    values["data"] |= {"roots": [str(rigs)], "val_scenes": ["held"], "buckets": {"sizes": [list(SQUARE), [8, 80]]}}
    values["train"] |= {"steps": 4, "accumulate": 1, "checkpoint_every": 2, "images": 6}
    values |= {"preview": {"every": 4, "frames": 1}, "sampling": {"steps": 1}, "logger": []}
    config.write_text(yaml.safe_dump(values))
    said = training.describe(config)
    for line in ("aspect buckets: 2 of 3 sizes have frames", "  32x56: 4 frames of 12 images, 0 held out"):
        assert line in said.splitlines()
    assert "  48x40: 2 frames of 6 images, 1 held out" in said.splitlines()
    assert training.run(config) == 0
    assert "aspect buckets: 2 of 3 sizes" in capsys.readouterr().out
    whole = checkpoints.read(tmp_path / "run" / "last.ckpt")["state_dict"]
    half = next((tmp_path / "run").glob("step-*2.ckpt"))
    assert training.run(config, [f"output={tmp_path / 'other'}"], half) == 0
    resumed = checkpoints.read(tmp_path / "other" / "last.ckpt")["state_dict"]
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    with pytest.raises(InputError, match=r"data\.buckets"):
        training.run(config, ["data.buckets.sizes=[[48, 40]]", f"output={tmp_path / 'third'}"], half)

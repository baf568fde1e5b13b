"""The city on disk: a nuScenes dataset with truth images beside the pictures."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivegen import world
from drivegen.datasets import nuscenes
from drivegen.support.errors import InputError

SIZE = (64, 112)
SEED = 7


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("city")
    world.write(root, scenes=3, frames=2, seed=SEED, size=SIZE, workers=2)
    return root


def files(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()
    }


def test_joints_are_read_as_they_were_built(dataset: Path) -> None:
    source, counted = nuscenes.open(dataset), 0
    built = [world.build(SEED, index, 2, SIZE) for index in range(3)]
    for token, frame in ((frame.token, frame) for city in built for frame in city.scene.frames):
        for box in source.frame(token).boxes:
            joints = frame.box(box.instance).joints_m
            assert (box.joints_m is None) == (joints is None)
            if joints is not None:
                np.testing.assert_array_equal(box.joints_m, joints)
                counted += 1
    assert counted


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(dataset: Path, tmp_path: Path) -> None:
    world.write(tmp_path / "again", scenes=3, frames=2, seed=SEED, size=SIZE, workers=1)
    assert files(tmp_path / "again") == files(dataset)


def test_devkit_opens_what_is_written(dataset: Path) -> None:
    from nuscenes.map_expansion.map_api import NuScenesMap
    from nuscenes.nuscenes import NuScenes
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import points_in_box

    kit = NuScenes("v1.0-mini", str(dataset), verbose=False)
    assert len(kit.scene) == 3
    assert len(kit.sample) == 6
    counted = 0
    for sample in kit.sample:
        path, boxes, _ = kit.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points
        for box in boxes:
            record = kit.get("sample_annotation", box.token)
            assert record["num_lidar_pts"] == points_in_box(box, points[:3]).sum()
            counted += record["num_lidar_pts"]
    assert counted > 500
    frame = nuscenes.open(dataset).frame(kit.sample[0]["token"])
    x, y = frame.global_SE3_ego.translation[:2]
    masks = NuScenesMap(str(dataset), frame.location).get_map_mask((x, y, 80, 80), 0, ["drivable_area", "walkway"], (160, 160))
    assert masks[0].mean() > 0.05
    assert masks[1].mean() > 0.01


def test_stored_truth_is_what_was_rendered(dataset: Path) -> None:
    data = nuscenes.open(dataset)
    city = world.build(SEED, 0, 2, SIZE)
    original = city.scene.frames[0]
    frame = data.frame(original.token)
    # what is hidden in every picture is not annotated; the order stays
    shown = {box.instance for box in frame.boxes}
    kept = [i for i, box in enumerate(original.boxes) if box.instance in shown]
    assert [original.boxes[i].instance for i in kept] == [box.instance for box in frame.boxes]
    number = np.zeros(len(original.boxes) + 1, dtype=int)
    number[np.array(kept) + 1] = np.arange(1, len(kept) + 1)
    pixels = np.zeros(len(original.boxes) + 1, dtype=int)
    for camera in frame.cameras:
        stored, drawn = world.truth(dataset, frame, camera.channel), city.render(original, camera.channel)
        assert (stored.rgb == drawn.rgb).all()
        assert (stored.classes == drawn.classes).all()
        assert (stored.instances == number[drawn.instances]).all()
        np.testing.assert_allclose(stored.depth_m, drawn.depth_m, rtol=1e-4)
        again = city.render(frame, camera.channel)  # the frame that comes back from disk draws the same picture
        assert (again.classes == drawn.classes).mean() > 0.995
        pixels += np.bincount(drawn.instances.ravel(), minlength=len(pixels))
    assert set(np.flatnonzero(pixels[1:])) <= set(kept)
    assert {box.visibility for box in frame.boxes} >= {1, 4}
    with pytest.raises(InputError, match="truth"):
        world.truth(dataset / "samples", frame, "CAM_FRONT")


@pytest.mark.slow
def test_writing_refuses_and_never_looks_complete(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="not empty"):
        world.write(dataset, 1, 1, 0, SIZE)
    with pytest.raises(InputError, match="scenes"):
        world.write(tmp_path / "none", 0, 1, 0, SIZE)
    with pytest.raises(InputError, match=r"seed 0 to 2\^63 - 1"):
        world.write(tmp_path / "none", 1, 1, 2**63, SIZE)
    from drivegen.world import stored

    whole, calls = stored.store, []

    def interrupted(*args: object) -> Path:
        calls.append(args)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return whole(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(stored, "store", interrupted)
    half = tmp_path / "half"
    with pytest.raises(KeyboardInterrupt):
        world.write(half, 3, 2, SEED, SIZE, workers=1)
    assert list(half.rglob("*.png"))
    assert not (half / "v1.0-mini").exists()
    with pytest.raises(InputError, match=f"unfinished dataset with other settings: seed was {SEED} and is 1; name another"):
        world.write(half, 3, 2, 1, SIZE, workers=1)
    # A picture that a loss of power left empty is drawn again; the whole is what an unbroken run makes.
    next(half.rglob("*.png")).write_bytes(b"")
    monkeypatch.setattr(stored, "store", whole)
    world.write(half, 3, 2, SEED, SIZE, workers=1)
    assert files(half) == files(dataset)


def run(out: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start `drivegen world` in a session of its own."""
    command = [sys.executable, "-m", "drivegen.cli.main", "world", str(out), "--size", "64x112", "--seed", str(SEED), *more]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 (a shell's background job ignores Ctrl-C)
    return subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heard)


def members(session: int) -> list[int]:
    """Processes of a session that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are listed from /proc")
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_workers_end_with_their_parent_and_the_next_run_goes_on(
    dataset: Path, tmp_path: Path, number: int, status: int
) -> None:
    out = tmp_path / "city"
    process = run(out, "--scenes", "3", "--frames", "2", "--workers", "2")
    try:
        deadline = time.monotonic() + 120
        while not list(out.rglob("*.npz")) and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr
            time.sleep(0.02)
        assert len(members(process.pid)) > 1
        with pytest.raises(InputError, match="another run"):  # before it renders anything
            world.write(out, 3, 2, SEED, SIZE)
        process.send_signal(number)
        assert process.wait(30) == status
        deadline = time.monotonic() + 10
        while members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert members(process.pid) == []
    finally:
        process.kill()
    assert not (out / "v1.0-mini").exists()
    if number == signal.SIGKILL:
        world.write(out, 3, 2, SEED, SIZE, workers=1)
        assert files(out) == files(dataset)


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_next_run_goes_on(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = os.replace, iter(range(7))

    def full(*args: Any) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(InputError, match=r"cannot write .*/city/(samples|truth)/.*: No space left on device"):
            world.write(tmp_path / "city", 3, 2, SEED, SIZE, workers=1)
    world.write(tmp_path / "city", 3, 2, SEED, SIZE, workers=1)
    assert files(tmp_path / "city") == files(dataset)

"""Time and memory of writing and checking the tables of a synthetic dataset from the records of its frames.

    python scripts/measure_tables.py --frames 10000

The records are made, with rows as a frame of six cameras and 34 boxes brings them; the pictures' files are empty, as what is
in them is not read: their SHA-256 is in the records.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from drivegen.datasets.nuscenes.parts import part
from drivegen.datasets.nuscenes.schema import make_token
from drivegen.scene import Box3D, Camera, Frame, Scene, VectorMap
from drivegen.scene.geometry import SE3
from drivegen.synthesis import tables
from drivegen.synthesis.commits import Commits

CHANNELS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
BOXES, SAMPLES = 34, 40

CHECK = """
import json, resource, sys
from drivegen.datasets import nuscenes
nuscenes.validate(sys.argv[1])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6]))
"""


def frame(scene: int, number: int, root: Path) -> tuple[Frame, dict[str, str]]:
    """One frame, and its files with made-up hashes."""
    token, chance = make_token(scene, number), np.random.default_rng([scene, number])
    names = {channel: f"samples/{channel}/{token}.png" for channel in CHANNELS}
    sweep = f"samples/LIDAR_TOP/{token}.pcd.bin"
    for name in (*names.values(), sweep):
        (root / name).touch()
    K = np.array([[180.0, 0, 112], [0, 180, 64], [0, 0, 1]])
    ego = SE3.from_yaw(0.1, (300.0 + number, 298.0, 0.0))
    time_us = 1_600_000_000_000_000 + 500_000 * number
    cameras = tuple(Camera(c, K, 224, 128, SE3.identity(), ego, timestamp_us=time_us) for c in CHANNELS)
    boxes = tuple(
        Box3D("vehicle.car", SE3.from_yaw(chance.uniform(-3, 3), chance.uniform(0, 600, 3)), (1.9, 4.5, 1.7),
              make_token(scene, "instance", i), visibility=4, num_lidar_pts=3)
        for i in range(BOXES)
    )  # fmt: skip
    found = Frame(token, cameras, boxes, None, "Rain", "here", f"scene-{scene}", time_us, ego)
    return found, {name: f"{chance.integers(2**62):064x}" for name in (*names.values(), sweep)}


def make(out: Path, count: int) -> list[dict[str, Any]]:
    """Write the records of so many frames; return them as jobs."""
    import drivegen.datasets.nuscenes.rows as rows
    from drivegen.datasets.nuscenes.files import Sample

    rows.find_image = lambda root, camera, stem, where: Sample(".png", f"samples/{camera.channel}/{camera.timestamp_us}.png")
    rows.find_lidar = lambda root, source, stem, where: Sample(".pcd.bin", f"{stem}.pcd.bin")
    commits, jobs = Commits(out), []
    commits.begin()
    for channel in (*CHANNELS, "LIDAR_TOP"):
        (out / "samples" / channel).mkdir(parents=True)
    for scene in range(-(-count // SAMPLES)):
        for number in range(min(SAMPLES, count - scene * SAMPLES)):
            one, files = frame(scene, number, out)
            own = part(Scene(f"scene-{scene}__v", (one,), "Rain", "here"), 0, out, "generated")
            lines = [
                {"file": name, "sha256": sha, "sample_token": one.token, "prompt": "Rain " * 20} for name, sha in files.items()
            ]
            path = commits._path(one.token)
            path.write_text(json.dumps({"lines": lines[:-1], "files": files, "rows": own}))
            jobs.append({"scene": f"scene-{scene}", "label": "v", "number": number, "token": one.token})
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    count = parser.parse_args().frames
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        jobs = make(out, count)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        wall, processor = time.monotonic(), time.process_time()
        tables.finish(out, "v1.0-made", jobs, (), {"here": VectorMap("here")}, set())
        wall, processor = time.monotonic() - wall, time.process_time() - processor
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        size = sum(path.stat().st_size for path in (out / "v1.0-made").iterdir()) / 1e6
        rows = len(json.loads((out / "v1.0-made" / "sample_annotation.json").read_bytes()))
        print(f"{count} frames, {rows} annotations, {size:.0f} MB of tables: {wall:.1f} s, {processor:.1f} s of processor, "
              f"{after:.2f} GB at most ({before:.2f} before)")  # fmt: skip
        checked = json.loads(subprocess.check_output([sys.executable, "-c", CHECK, folder], cwd=Path(__file__).parents[1]))
        print(f"reading all of it as `drivegen verify` does, but for the pictures: {checked[0]:.1f} s of processor, "
              f"{checked[1]:.2f} GB at most")  # fmt: skip


if __name__ == "__main__":
    main()

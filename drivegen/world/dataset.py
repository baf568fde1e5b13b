"""Write scenes of the city as a nuScenes dataset."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np

from drivegen.scene import Box3D, Frame, Scene
from drivegen.support.errors import InputError
from drivegen.support.progress import progress
from drivegen.world.city import CityScene, build

_Job = tuple[str, int, int, int, tuple[int, int]]


def write(
    out: str | Path, scenes: int, frames: int, seed: int, size: tuple[int, int] = (128, 224), workers: int | None = None,
) -> None:  # fmt: skip
    """Render `scenes` scenes of `frames` samples into the nuScenes dataset `out`, with truth images and lidar.

    size (height, width) in pixels; workers None takes every core that may be used; the bytes do not depend on it. Tables are
    written last, so an interrupted run looks incomplete. Raises InputError when `out` is not empty or a number is out of range.
    """
    out = Path(out)
    if scenes < 1 or frames < 1 or not 0 <= seed < 2**63 or min(size) < 16:
        raise InputError(
            f"cannot write {scenes} scenes of {frames} frames, seed {seed}, size {size[0]}x{size[1]}; "
            "scenes and frames must be 1 or more, the seed 0 to 2^63 - 1, sizes 16 pixels or more"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty; give a new folder, or empty it")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; give 1 or more, or leave it out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error}") from error
    count = min(workers or len(os.sched_getaffinity(0)), scenes)
    jobs = [(str(out), seed, i, frames, size) for i in range(scenes)]
    _compile(seed)
    done: dict[int, Scene] = {}
    method = _start_method()
    with progress("rendering", scenes * frames, "frames") as advance:
        for scene in _rendered(jobs, count, method):
            done[int(scene.name.removeprefix("scene-"))] = scene
            advance(frames)
    from drivegen.datasets import nuscenes

    nuscenes.write([done[i] for i in range(scenes)], out)


def _compile(seed: int) -> None:
    """Compile the renderer, or load it from numba's cache, before the workers start."""
    from drivegen.world.lidar import sweep

    city = build(seed, 0, 1, (16, 16))
    frame = city.scene.frames[0]
    city.render(frame, frame.channels[0])
    sweep(city.prepared(frame), frame.global_SE3_ego @ frame.ego_SE3_lidar)


def _start_method() -> str:
    """Choose how workers start, before a progress bar adds its thread.

    A forked worker has the compiled renderer already and does not import the caller's script a second time; but a fork of a
    process with threads (torch's, a test runner's) can hang on a lock that one of them held.
    """
    threads = threading.active_count() > 1 or "torch" in sys.modules
    return "fork" if "fork" in multiprocessing.get_all_start_methods() and not threads else "spawn"


def _rendered(jobs: list[_Job], count: int, method: str) -> Iterator[Scene]:
    """Yield the rendered scenes of the jobs as they are done, in `count` processes."""
    if count == 1:
        yield from (render_scene(*job) for job in jobs)
        return
    pool = ProcessPoolExecutor(count, multiprocessing.get_context(method), initializer=_single_thread)
    try:
        for future in as_completed([pool.submit(render_scene, *job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise InputError("a rendering process was ended from outside (out of memory?); use fewer workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _single_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def render_scene(out: str, seed: int, index: int, frames: int, size: tuple[int, int]) -> Scene:
    """Render one scene's pictures, truth and lidar below `out`; return it with their paths and with visibilities."""
    city = build(seed, index, frames, size)
    return replace(city.scene, frames=tuple(render_frame(city, frame, Path(out)) for frame in city.scene.frames))


def render_frame(city: CityScene, frame: Frame, root: Path) -> Frame:
    """Render one frame, edited or not, as `render_scene` does each; return it as annotated: with paths and visibilities."""
    from drivegen.world.lidar import sweep
    from drivegen.world.render import render
    from drivegen.world.stored import store

    prepared = city.prepared(frame)
    counts = (np.zeros(len(frame.boxes) + 1, dtype=np.int64), np.zeros(len(frame.boxes) + 1, dtype=np.int64))
    views = [render(prepared, camera, counts) for camera in frame.cameras]
    # Nobody annotates what stands hidden in every picture; a condition that asks for it could only be disobeyed.
    kept = [i for i in range(len(frame.boxes)) if counts[1][i + 1] > 0 or counts[0][i + 1] == 0]
    renumbered = np.zeros(len(frame.boxes) + 1, dtype=np.int32)
    renumbered[np.array(kept, dtype=np.int64) + 1] = np.arange(1, len(kept) + 1)
    cameras = []
    for camera, view in zip(frame.cameras, views, strict=True):
        name = f"{city.seed}-{frame.scene_name}__{camera.channel}__{camera.timestamp_us}"
        path = store(root, camera.channel, name, replace(view, instances=renumbered[view.instances]))
        cameras.append(replace(camera, image_path=path))
    points = sweep(prepared, frame.global_SE3_ego @ frame.ego_SE3_lidar)
    path = root / "samples" / "LIDAR_TOP" / f"{city.seed}-{frame.scene_name}__LIDAR_TOP__{frame.timestamp_us}.pcd.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(points.tobytes())
    boxes = tuple(_with_visibility(frame.boxes[i], int(counts[1][i + 1]), int(counts[0][i + 1])) for i in kept)
    return replace(frame, cameras=tuple(cameras), boxes=boxes, lidar_path=path)


def _with_visibility(box: Box3D, seen: int, alone: int) -> Box3D:
    """Set nuScenes' level: 1 for 0-40 % of the object's pixels in all views, 2 to 60 %, 3 to 80 %, 4 above."""
    share = seen / alone if alone else 0.0
    return replace(box, visibility=1 + (share > 0.4) + (share > 0.6) + (share > 0.8))

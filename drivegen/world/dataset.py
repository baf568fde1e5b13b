"""Write scenes of the city as a nuScenes dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from drivegen.scene import Box3D, Frame, Scene
from drivegen.support.cores import cores
from drivegen.support.errors import InputError
from drivegen.support.files import make_subfolder, write_atomically
from drivegen.support.locks import locked_folder
from drivegen.support.progress import progress
from drivegen.support.signals import raised_by_sigterm
from drivegen.world.city import CityScene, build, check_wording, with_joints
from drivegen.world.journal import Journal, Levels, Settings
from drivegen.world.kernels import sources_digest
from drivegen.world.workers import in_processes, start_method

_Job = tuple[Path, Settings, int]

TABLES = "v1.0-mini"


def write(
    out: str | Path,
    scenes: int,
    frames: int,
    seed: int,
    size: tuple[int, int] = (128, 224),
    workers: int | None = None,
    wording: str = "plain",
) -> None:
    """Render scenes of the city into a nuScenes dataset, with truth images and lidar.

    The tables come last, so that an interrupted run can be told from a complete one; the same call again continues after the
    last complete scene.

    Args:
        out: the dataset's folder: new, empty, or one of an unfinished run with the same settings.
        scenes: number of scenes.
        frames: samples of each, at 2 Hz.
        seed: which city; the same seed gives the same bytes.
        size: (height, width) of each picture in pixels.
        workers: number of processes; None takes one per available core. The bytes do not depend on it.
        wording: of the scenes' descriptions, as in `build`.

    Raises InputError when `out` holds anything else, another run is writing into it, a number is out of range, or the disk is
    full.
    """
    out = Path(out)
    if scenes < 1 or frames < 1 or not 0 <= seed < 2**63 or min(size) < 16:
        raise InputError(
            f"cannot write {scenes} scenes of {frames} frames, seed {seed}, size {size[0]}x{size[1]}; "
            "scenes and frames must be 1 or more, the seed 0 to 2^63 - 1, sizes 16 pixels or more"
        )
    check_wording(wording)
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; give 1 or more, or leave it out")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a new folder")
    method = start_method()  # before anything starts a thread
    settings = Settings(scenes, frames, seed, (size[0], size[1]), sources_digest(), wording)
    with raised_by_sigterm(), locked_folder(out):
        journal = Journal(out, settings)
        journal.begin()
        if not (out / TABLES).is_dir():  # else it was ended between the last two steps
            _compile(seed)
            jobs = [(out, settings, index) for index in range(scenes)]
            _finish(out, jobs, min(workers or cores(), scenes), method)
        journal.end()


def _finish(out: Path, jobs: Sequence[_Job], count: int, method: str) -> None:
    """Render what is not there yet, and write the tables."""
    from drivegen.datasets import nuscenes

    done: dict[int, Scene] = {}
    frames = jobs[0][1].frames
    with progress("rendering", len(jobs) * frames, "frames") as advance:
        for index, scene in in_processes(_scene, jobs, count, method):
            done[index] = scene
            advance(frames)
    nuscenes.write([done[index] for index in sorted(done)], out, TABLES)


def _compile(seed: int) -> None:
    """Compile the renderer, or load it from numba's cache, before the workers start."""
    from drivegen.world.lidar import sweep

    city = build(seed, 0, 1, (16, 16))
    frame = city.scene.frames[0]
    city.render(frame, frame.channels[0])
    sweep(city.prepared(frame), frame.global_SE3_ego @ frame.ego_SE3_lidar)


def _scene(job: _Job) -> tuple[int, Scene]:
    """Render one scene, unless the journal has it whole; return it with its number, as it is annotated."""
    root, settings, index = job
    journal = Journal(root, settings)
    city = build(settings.seed, index, settings.frames, settings.size, settings.wording)
    levels = journal.read(index, city, _paths)
    if levels is None:
        levels = [_draw(city, frame, root) for frame in city.scene.frames]
        journal.add(index, city, levels, _paths)
    frames = (_annotated(city, frame, root, seen) for frame, seen in zip(city.scene.frames, levels, strict=True))
    return index, replace(city.scene, frames=tuple(frames))


def render_frame(city: CityScene, frame: Frame, root: Path) -> Frame:
    """Render one frame's pictures, truth and lidar.

    Returns the annotated frame: with paths and visibilities, and without the boxes that no camera sees.

    Args:
        city: the scene with its surroundings.
        frame: one of its frames, edited or not.
        root: the dataset's folder.
    """
    return _annotated(city, frame, root, _draw(city, frame, root))


def _draw(city: CityScene, frame: Frame, root: Path) -> Levels:
    """Write a frame's files; return the boxes that are annotated, each with nuScenes' level of visibility."""
    from drivegen.world.lidar import sweep
    from drivegen.world.render import render
    from drivegen.world.stored import store

    prepared = city.prepared(frame)
    counts = (np.zeros(len(frame.boxes) + 1, dtype=np.int64), np.zeros(len(frame.boxes) + 1, dtype=np.int64))
    views = [render(prepared, camera, counts) for camera in frame.cameras]
    # Objects hidden in every picture are not annotated: a condition on them could not be fulfilled.
    kept = [i for i in range(len(frame.boxes)) if counts[1][i + 1] > 0 or counts[0][i + 1] == 0]
    renumbered = np.zeros(len(frame.boxes) + 1, dtype=np.int32)
    renumbered[np.array(kept, dtype=np.int64) + 1] = np.arange(1, len(kept) + 1)
    for camera, view in zip(frame.cameras, views, strict=True):
        name = _name(city, frame, camera.channel, camera.timestamp_us)
        store(root, camera.channel, name, replace(view, instances=renumbered[view.instances]))
    points = sweep(prepared, frame.global_SE3_ego @ frame.ego_SE3_lidar)
    path = _lidar_path(city, frame, root)
    make_subfolder(root, "samples", "LIDAR_TOP")
    write_atomically(path, points.tobytes(), sync=False)
    return [(i, _visibility(int(counts[1][i + 1]), int(counts[0][i + 1]))) for i in kept]


def _annotated(city: CityScene, frame: Frame, root: Path, levels: Levels) -> Frame:
    from drivegen.world.stored import picture_path

    cameras = []
    for camera in frame.cameras:
        name = _name(city, frame, camera.channel, camera.timestamp_us)
        cameras.append(replace(camera, image_path=picture_path(root, camera.channel, name)))
    frame = with_joints(frame, city.offset)  # an edited figure walks as its place has it
    boxes: list[Box3D] = [replace(frame.boxes[i], visibility=level) for i, level in levels]
    return replace(frame, cameras=tuple(cameras), boxes=tuple(boxes), lidar_path=_lidar_path(city, frame, root))


def _paths(city: CityScene, root: Path) -> list[Path]:
    """List the files of a scene."""
    from drivegen.world.stored import picture_path, truth_path

    found = []
    for frame in city.scene.frames:
        for camera in frame.cameras:
            name = _name(city, frame, camera.channel, camera.timestamp_us)
            found += [picture_path(root, camera.channel, name), truth_path(root, camera.channel, name)]
        found.append(_lidar_path(city, frame, root))
    return found


def _name(city: CityScene, frame: Frame, channel: str, timestamp_us: int) -> str:
    return f"{city.seed}-{frame.scene_name}__{channel}__{timestamp_us}"


def _lidar_path(city: CityScene, frame: Frame, root: Path) -> Path:
    return root / "samples" / "LIDAR_TOP" / f"{_name(city, frame, 'LIDAR_TOP', frame.timestamp_us)}.pcd.bin"


def _visibility(seen: int, alone: int) -> int:
    """Return nuScenes' level: 1 for 0-40 % of the object's pixels in all views, 2 to 60 %, 3 to 80 %, 4 above."""
    share = seen / alone if alone else 0.0
    return 1 + (share > 0.4) + (share > 0.6) + (share > 0.8)

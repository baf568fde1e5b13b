"""The datasets that a measurement looks at: unseen scenes of the city, and the same with the front camera turned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from drivegen import world
from drivegen.datasets import nuscenes
from drivegen.evaluate.variants import TURNED, Key, turned
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from drivegen.support.files import replacing
from drivegen.support.locks import waited_for
from drivegen.support.progress import track


@dataclass(frozen=True, eq=False)
class City:
    """A written dataset of the city and its frames by number."""

    root: Path
    frames: Mapping[Key, Frame]

    def view(self, key: Key, channel: str) -> world.View:
        """Load what a camera sees in the renders."""
        return world.truth(self.root, self.frames[key], channel)


def plain_city(root: Path, scenes: int, frames: int, seed: int, size: tuple[int, int], workers: int | None = None) -> City:
    """Open the dataset of unseen scenes; write it first where it does not exist.

    Args:
        root: its folder.
        scenes: number of scenes.
        frames: per scene.
        seed: which city.
        size: (height, width) of each picture in pixels.
        workers: number of processes; None takes one per available core.
    """
    with _being_made(root) as missing:
        if missing:
            with replacing(root) as new:  # an interrupted one is never read
                world.write(new, scenes, frames, seed, size, workers)
    return open_city(root, scenes, frames)


def turned_city(root: Path, scenes: int, frames: int, seed: int, size: tuple[int, int]) -> City:
    """Open, or write first, the same scenes as seen by the turned front camera and its unturned neighbours.

    Args:
        root: its folder.
        scenes: number of scenes.
        frames: per scene.
        seed: which city.
        size: (height, width) of each picture in pixels.
    """
    with _being_made(root) as missing:
        if missing:
            with replacing(root) as new:
                _write_turned(new, scenes, frames, seed, size)
    return open_city(root, scenes, frames)


@contextmanager
def _being_made(root: Path) -> Iterator[bool]:
    """Tell whether a dataset is missing, after another process that is writing it has ended."""
    if root.exists():
        yield False
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    lock = root.with_name(f".{root.name}.lock")
    with waited_for(lock):
        yield not root.exists()
        lock.unlink(missing_ok=True)


def _write_turned(root: Path, scenes: int, frames: int, seed: int, size: tuple[int, int]) -> None:
    from drivegen.world.dataset import render_frame

    done = []
    for index in track(range(scenes), f"rendering with {TURNED} turned"):
        city = world.build(seed, index, frames, size)
        edited = (turned(frame, Key(index, i)) for i, frame in enumerate(city.scene.frames))
        done.append(replace(city.scene, frames=tuple(render_frame(city, frame, root) for frame in edited)))
    nuscenes.write(done, root)


def open_city(root: Path, scenes: int, frames: int, neighbours: tuple[float, float] = (0.0, 0.0)) -> City:
    """Open a dataset that is there.

    Args:
        root: its folder.
        scenes: number of scenes that it must have.
        frames: of each.
        neighbours: seconds of past and future that come with each frame.
    """
    dataset = nuscenes.open(root)
    names = sorted(dataset.scenes)
    if len(names) != scenes:
        raise InputError(f"{root} has {len(names)} scenes and {scenes} are asked for; name another --out, or remove it")
    found = {}
    for index, name in enumerate(names):
        tokens = dataset.samples(name)
        if len(tokens) != frames:
            counted = f"{len(tokens)} frames and {frames} are asked for"
            raise InputError(f"{root}: {name} has {counted}; name another --out, or remove it")
        found.update({Key(index, i): dataset.frame_with_neighbours(token, *neighbours) for i, token in enumerate(tokens)})
    return City(root, found)

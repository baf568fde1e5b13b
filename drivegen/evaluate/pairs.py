"""A real dataset and what was generated of it: which generated frame belongs to which recorded one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivegen import datasets
from drivegen.datasets import SceneSource
from drivegen.pipeline import manifest
from drivegen.scene import Frame
from drivegen.scene.pictures import load_image
from drivegen.support.errors import InputError

Images = dict[str, NDArray[np.uint8]]
"""Pictures (H, W, 3) by camera channel."""


@dataclass(frozen=True)
class Pair:
    """A generated frame and the recorded frame that it was made of, by their tokens; scene is the generated one's.

    files are the pictures of a generation without tables, by channel, and size their (width, height); else None.
    """

    generated: str
    real: str
    scene: str
    files: tuple[tuple[str, Path], ...] | None = None
    size: tuple[int, int] | None = None


class Pairs(Sequence[Pair]):
    """What `evaluate` looks at, in the generated dataset's order; frames are read when they are asked for.

    Args:
        real: the recorded dataset.
        generated: a dataset made of it, or the output folder of `drivegen generate`.
        num: the first so many frames; None takes all.

    Raises InputError where nothing of `generated` was made of `real`.
    """

    def __init__(self, real: SceneSource, generated: SceneSource | Path, num: int | None = None) -> None:
        self.real, self.generated = real, generated
        known = set(real.samples())
        self.folder = folder = generated if isinstance(generated, Path) else generated.root
        """The generated dataset's."""
        found = list(_of_folder(folder)) if isinstance(generated, Path) else list(_of_dataset(generated))
        self.pairs = [pair for pair in found if pair.real in known]
        if isinstance(generated, Path):  # its generations are of the recorded scenes, those of one seed each
            scenes = {token: scene for scene in real.scenes for token in real.samples(scene)}
            self.pairs = [
                replace(pair, scene="/".join([scenes[pair.real], *Path(pair.generated).parts[1:]])) for pair in self.pairs
            ]
        self.left_out = len(found) - len(self.pairs)
        """Generated frames whose recorded one is not there."""
        if not self.pairs:
            example = f"; its first says {found[0].real!r}" if found else ""
            raise InputError(
                f"none of the {len(found)} frames of {folder} is made of one of the {len(known)} samples of {real.root}"
                f"{example}; name the dataset that it was made of"
            )
        self.pairs = self.pairs[:num]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: Any) -> Any:
        return self.pairs[i]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) of the generated pictures."""
        first = self.pairs[0]
        return first.size or self.generated_frame(first).cameras[0].image_size

    def generated_frame(self, pair: Pair) -> Frame:
        """Read a generated frame; raises InputError where its pictures are not all of one size."""
        if isinstance(self.generated, Path):
            assert pair.files is not None
            assert pair.size is not None
            frame = self.real.frame(pair.real).resized(*pair.size)
            files = dict(pair.files)
            cameras = tuple(camera for camera in frame.cameras if camera.channel in files)
            if not cameras:
                raise InputError(
                    f"{self.generated}: {pair.scene} has pictures of {', '.join(files)}, and its recorded frame no such camera"
                )
            frame = replace(frame, cameras=cameras)
            frame = frame.with_pictures({camera.channel: files[camera.channel] for camera in cameras})
        else:
            frame = self.generated.frame(pair.generated)
        if others := {camera.image_size for camera in frame.cameras} - {pair.size or self.size_of(frame)}:
            size = "x".join(map(str, others.pop()))
            raise InputError(f"frame {frame.token!r} has a picture of {size}; pictures of one size are needed")
        return frame

    def size_of(self, frame: Frame) -> tuple[int, int]:
        """(width, height) that the pictures of a generated frame must have."""
        return self.__dict__.get("size") or frame.cameras[0].image_size

    def real_frame(self, pair: Pair, like: Frame) -> Frame:
        """Read the recorded frame at the generated size, with the generated frame's cameras as far as it has them."""
        frame = self.real.frame(pair.real).resized(*self.size)
        shared = tuple(camera for camera in frame.cameras if camera.channel in like.channels)
        return replace(frame, cameras=shared) if shared else frame


def load(frame: Frame) -> Images:
    """Load a frame's pictures at their generated size."""
    return {camera.channel: np.asarray(load_image(camera)) for camera in frame.cameras}


def open_pairs(
    real: Path, generated: Path, version: str | None = None, generated_version: str | None = None, num: int | None = None
) -> Pairs:
    """Open both sides.

    Args:
        real: the recorded dataset.
        generated: a dataset made of it, or the output folder of `drivegen generate`.
        version: the recorded one's, where it has several.
        generated_version: the other's.
        num: the first so many frames; None takes all.
    """
    if not generated.is_dir():
        raise InputError(f"{generated} is not a folder; give a dataset that was generated, or a folder of drivegen generate")
    source = datasets.open(real, version)
    tables = any(path.is_dir() for path in generated.glob("v1.0-*"))
    if not tables and (generated / manifest.NAME).is_file():
        return Pairs(source, generated, num)
    return Pairs(source, datasets.open(generated, generated_version), num)


def _of_dataset(generated: SceneSource) -> Iterator[Pair]:
    """Find what each sample was made of: the manifest says it, or it has the same token."""
    made_of = {line["sample_token"]: line["source_sample"] for line in _lines(generated.root) if "source_sample" in line}
    for scene in generated.scenes:
        for token in generated.samples(scene):
            yield Pair(token, str(made_of.get(token, token)), scene)


def _of_folder(folder: Path) -> Iterator[Pair]:
    """Find the generations of a folder without tables; each has its pictures in a folder of its own."""
    found: dict[Path, list[dict[str, Any]]] = {}
    for line in _lines(folder):
        found.setdefault(Path(str(line["file"])).parent, []).append(line)
    for place, lines in found.items():
        try:
            files = tuple((str(line["camera"]), _inside(folder, str(line["file"]))) for line in lines)
            height, width = (int(side) for side in lines[0]["size"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / manifest.NAME}: {place} lacks or has a wrong {error}; generate it again") from error
        yield Pair(place.as_posix(), str(lines[0]["sample_token"]), place.as_posix(), files, (width, height))


def _inside(folder: Path, name: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{folder / manifest.NAME} names {name!r}, which is outside of the folder")
    return folder / name


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / manifest.NAME
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                line["sample_token"], line["file"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise InputError(f"{path}, line {number} is not a manifest's; mend it, or generate the folder again") from error
            yield line

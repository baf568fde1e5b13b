"""A split of a dataset, as a format's exporter gets it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from drivegen.datasets.nuscenes.read import Dataset
from drivegen.datasets.nuscenes.recordings import sample_times_us
from drivegen.export.samples import Sample, read_scene
from drivegen.support.errors import InputError
from drivegen.support.progress import progress

APART_US = 10_000_000
"""Between scenes that are moved apart in time."""


@dataclass
class Part:
    """One split: its name (train, val, test), scenes in time order, and what its exporter needs beside samples.

    prefix goes before every path, as the trainer's working folder needs it; annotated says whether annotations belong into the
    files (not for test); notes counts what the user should know; samples and boxes count what was read.
    """

    name: str
    data: Dataset
    scenes: tuple[str, ...]
    prefix: str
    needs_lidar: bool
    notes: Counter[str] = field(default_factory=Counter)
    boxes: int = 0

    def __post_init__(self) -> None:
        order = {name: i for i, name in enumerate(self.data.scenes)}
        self.scenes = tuple(sorted(self.scenes, key=lambda name: (sample_times_us(self.data, name)[0], order[name])))

    @property
    def annotated(self) -> bool:
        """Whether the files hold annotations."""
        return self.name != "test"

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(len(self.data.samples(scene)) for scene in self.scenes)

    def path(self, file: str) -> str:
        """Return a file's path as the trainer is to open it."""
        return f"{self.prefix}/{file}" if self.prefix else file

    def shifts(self) -> dict[str, int]:
        """Return by how many microseconds scenes are moved so that none overlaps another in time; others are left out.

        Loaders of sequences sort samples by time and take those side by side for one drive; scenes made of one recording have
        the same times. Raises InputError where the times within a scene do not increase.
        """
        found, free_from = {}, None
        for scene in self.scenes:
            times = sample_times_us(self.data, scene)
            for earlier, later in pairwise(times):
                if later <= earlier:
                    raise InputError(
                        f"scene {scene!r}: times of samples must increase for a sequence, got {earlier}, {later} µs"
                    )
            shift = 0 if free_from is None or times[0] > free_from else free_from + APART_US - times[0]
            if shift:
                found[scene] = shift
            free_from = times[-1] + shift
        return found

    def read(self) -> Iterator[Sample]:
        """Read the samples, scene after scene; notes what trainers will leave out."""
        rigs: Counter[str] = Counter()
        with progress(f"exporting {self.name}", self.samples, "samples") as advance:
            for scene in self.scenes:
                for sample in read_scene(self.data, scene):
                    if self.needs_lidar and sample.lidar is None:
                        raise InputError(
                            f"sample {sample.token} of scene {scene!r} has no LIDAR_TOP, in whose frame this format gives "
                            "boxes; export coco, or write the scenes with drivegen.nuscenes.write, which adds empty sweeps"
                        )
                    self._note(sample)
                    rigs[", ".join(camera.channel for camera in sample.cameras)] += 1
                    self.boxes += len(sample.boxes) if self.annotated else 0
                    yield sample
                    advance()
        for rig, count in rigs.most_common()[1:]:
            self.notes[f"{self.name} sample with other cameras than most ({rig}): trainers stack the views of a batch"] += count

    def _note(self, sample: Sample) -> None:
        if self.needs_lidar and sample.lidar is not None and not (self.data.root / sample.lidar.file).is_file():
            self.notes["sweep that is not there: trainers with lidar cannot read it"] += 1
        for box, radar in zip(sample.boxes, sample.radar_points, strict=True) if self.annotated else ():
            if box.detection_class is None:
                self.notes[f"box of {box.category!r}, which is none of the ten detection classes: trainers leave it out"] += 1
            elif self.needs_lidar and (box.num_lidar_pts or 0) + radar <= 0:
                self.notes["box without lidar or radar points: trainers leave it out"] += 1

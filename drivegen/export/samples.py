"""A sample with all that trainers are told of it, read from the tables and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from drivegen.datasets.nuscenes.files import count_points
from drivegen.datasets.nuscenes.read import Dataset
from drivegen.datasets.nuscenes.recordings import LIDAR, Recording, key_frames, scene_place, sweeps
from drivegen.scene import Box3D, Frame, Moment
from drivegen.scene.pictures import open_image
from drivegen.support.errors import InputError

MOST_SWEEPS = 10
"""Of the lidar, before each key frame: as many as the trainers' own converters write."""

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
"""The order in which trainers' converters list nuScenes' cameras; networks may learn an embedding per place in it."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample of a scene. index counts from 0 in its scene; previous and next are tokens, "" at the scene's ends.

    cameras are in the order of CAMERAS, others behind by name; sweeps are before the lidar's key frame, the nearest first;
    radar_points counts those in each of the boxes.
    """

    token: str
    scene: str
    scene_token: str
    location: str
    index: int
    previous: str
    next: str
    timestamp_us: int
    cameras: tuple[Recording, ...]
    lidar: Recording | None
    sweeps: tuple[Recording, ...]
    boxes: tuple[Box3D, ...]
    radar_points: tuple[int, ...]

    @property
    def reference(self) -> Recording:
        """The lidar's key frame, in whose frame and at whose time boxes are given."""
        assert self.lidar is not None, "formats with needs_lidar get no sample without it"
        return self.lidar

    def shifted(self, by_us: int) -> Sample:
        """Return this sample with all times moved."""

        def moved(recording: Recording) -> Recording:
            return replace(recording, timestamp_us=recording.timestamp_us + by_us)

        return replace(
            self, timestamp_us=self.timestamp_us + by_us, cameras=tuple(map(moved, self.cameras)),
            lidar=None if self.lidar is None else moved(self.lidar), sweeps=tuple(map(moved, self.sweeps)),
        )  # fmt: skip


def read_scene(data: Dataset, scene: str) -> Iterator[Sample]:
    """Read the samples of a scene, in time order; the headers of their pictures are read too.

    Raises InputError naming the row for broken links, missing pictures, pictures of another size than their row says, and
    values that `Camera`, `Box3D` or `SE3` refuse.
    """
    (scene_token, location), tokens = scene_place(data, scene), data.samples(scene)
    for index, token in enumerate(tokens):
        moment, found = data.moment(token), key_frames(data, token)
        lidar = found.pop(LIDAR, None)
        for camera in found.values():
            where = f"sample_data row {camera.token} ({camera.channel})"
            open_image(data.root / camera.file, where, (camera.width_px, camera.height_px)).close()
        yield Sample(
            token, scene, scene_token, location, index, tokens[index - 1] if index else "", (*tokens, "")[index + 1],
            moment.timestamp_us, tuple(sorted(found.values(), key=_place)), lidar, sweeps(data, token, MOST_SWEEPS),
            _counted(data, moment, lidar), tuple(_radar_points(data, box.token) for box in moment.boxes),
        )  # fmt: skip


def _counted(data: Dataset, moment: Moment, lidar: Recording | None) -> tuple[Box3D, ...]:
    """Return a sample's boxes, with lidar points counted where the table does not say how many there are."""
    if lidar is None or not moment.cameras or all(box.num_lidar_pts is not None for box in moment.boxes):
        return moment.boxes
    path = data.root / lidar.file
    frame = Frame(
        moment.token, moment.cameras, moment.boxes, global_SE3_ego=lidar.ego.transform, ego_SE3_lidar=lidar.mount.transform,
        lidar_path=path if path.is_file() else None,
    )  # fmt: skip
    return tuple(replace(box, num_lidar_pts=count) for box, count in zip(moment.boxes, count_points(frame), strict=True))


def _place(camera: Recording) -> tuple[int, str]:
    known = CAMERAS.index(camera.channel) if camera.channel in CAMERAS else len(CAMERAS)
    return known, camera.channel


def _radar_points(data: Dataset, annotation: str) -> int:
    count = data.tables.get("sample_annotation", annotation).get("num_radar_pts", 0)
    if count is None or (isinstance(count, float) and count != count):
        return 0
    if isinstance(count, bool) or not isinstance(count, (int, float)) or count % 1:
        raise InputError(f"sample_annotation row {annotation}: num_radar_pts is {count!r}; it must be a whole number")
    return int(count)

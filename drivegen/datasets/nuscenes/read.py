"""Read a dataset in the nuScenes schema."""

from __future__ import annotations

import hashlib
import warnings
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from drivegen.datasets.base import SceneSource, stat_digest
from drivegen.datasets.extras import read_extra
from drivegen.datasets.nuscenes import extras as stored_extras
from drivegen.datasets.nuscenes.load import at, camera_rows, check, load, time_us
from drivegen.datasets.nuscenes.notices import notices
from drivegen.datasets.nuscenes.objects import Objects
from drivegen.datasets.nuscenes.schema import inside, map_path
from drivegen.datasets.nuscenes.splits import read_splits
from drivegen.datasets.nuscenes.vectormap import read_map
from drivegen.datasets.nuscenes.versions import choose_version, versions
from drivegen.scene import Camera, Frame, Moment, Scene, VectorMap
from drivegen.scene.geometry import SE3
from drivegen.scene.moments import seconds
from drivegen.support.errors import InputError, nearest
from drivegen.support.values import file_path

MOMENTS_KEPT = 64
"""Neighbouring moments that stay in memory: those of one frame are nearly those of the next."""

_NO_CAMERA = "has no camera image; a frame needs 1 to 8 key-frame images"


def open(root: str | Path, version: str | None = None) -> Dataset:
    """Open the nuScenes dataset below root; version may be omitted where only one folder holds tables.

    Raises InputError when there is none, there are several and none is named, or the tables do not fit together.
    """
    return Dataset.open(root, version)


class Dataset(SceneSource):
    """A nuScenes dataset: scenes, samples, frames.

    root and version as given; tables are the rows, linked. A location without ``maps/expansion/<location>.json`` has no
    map: `frame.map` is None, and a warning says so once, where the dataset is opened. A category outside of nuScenes'
    detection classes is kept, and its `detection_class` is None. Fields are checked where they are used: a lidar needs no size.
    A sample without LIDAR_TOP takes the ego pose of the camera nearest in time, and the usual lidar mounting.
    """

    layout = "a folder with the nuScenes tables, such as v1.0-trainval/, beside samples/"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return bool(versions(root))

    @classmethod
    def open(cls, root: str | Path, version: str | None = None) -> Dataset:
        root = file_path(root, "data root")
        return cls(root, choose_version(root, version))

    def __init__(self, root: Path, version: str, notify: bool = True) -> None:
        """Open a version.

        Args:
            root: the data root.
            version: the name of the folder with the tables.
            notify: warn of what reading leaves out: locations without a map, lens distortion.
        """
        self.root, self.version = Path(root), version
        self.tables = load(self.root, version)
        for table in ("scene", "category", "sensor"):  # the short tables; rows of the others when they are read
            for row in getattr(self.tables, table):
                check(table, row)
        self.objects = Objects(self.root, version, self.tables)
        self._maps: dict[str, VectorMap | None] = {}
        self._moments: dict[str, Moment] = {}
        self._last: tuple[str, dict[str, dict[str, Any]]] = "", {}
        for notice in notices(self.root, self.tables) if notify else ():
            warnings.warn(f"dataset {self.root / version}: {notice}", stacklevel=2)

    @cached_property
    def devkit(self) -> Any:
        """The `NuScenes` object of nuscenes-devkit for this version, for rendering and evaluation; loaded when asked for."""
        from nuscenes.nuscenes import NuScenes

        return NuScenes(self.version, str(self.root), verbose=False)

    @property
    def scenes(self) -> tuple[str, ...]:
        """Scene names, in the order of the table."""
        return tuple(row["name"] for row in self.tables.scene)

    def scenes_of_split(self, name: str) -> tuple[str, ...]:
        """Names of this dataset's scenes in one of nuScenes' own splits (``train``, ``mini_val`` …), or of its splits.json."""
        from nuscenes.utils.splits import create_splits_scenes

        members = set(create_splits_scenes().get(name, ())) | set(self.own_splits.get(name, ()))
        return tuple(scene for scene in self.scenes if scene in members)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits of ``splits.json``, which the devkit reads beside the tables."""
        return tuple(self.own_splits)

    @cached_property
    def own_splits(self) -> dict[str, list[str]]:
        """Names of scenes by split, as ``splits.json`` has them; {} without that file."""
        return read_splits(self.root / self.version / "splits.json")

    def views(self, sample_token: str) -> int:
        """Count the cameras of a sample."""
        return len(camera_rows(self._data(sample_token)))

    def picture_sizes(self, sample_token: str) -> tuple[tuple[int, int], ...]:
        """List the (width, height) of a sample's pictures, as the tables state them."""
        found: tuple[tuple[Any, Any], ...] = tuple(
            (row.get("width"), row.get("height")) for row in camera_rows(self._data(sample_token))
        )
        whole = all(isinstance(side, int) and side > 0 for size in found for side in size)
        return found if whole else super().picture_sizes(sample_token)  # which says what is wrong, or reads them

    def fingerprint(self, sample_token: str) -> str:
        """Return a digest of the tables, the maps, and the sample's pictures and lidar points, by their sizes and times."""
        files = [self.root / row["filename"] for row in self._data(sample_token).values()]
        files += stored_extras.paths(self._extras(sample_token))
        return hashlib.sha256(f"{self._tables_digest} {stat_digest(files)}".encode()).hexdigest()[:12]

    def files(self, sample_token: str) -> tuple[Path, ...]:
        """List a sample's pictures, whether they exist or not."""
        rows = camera_rows(self._data(sample_token))
        pictures = [inside(self.root, row["filename"], f"sample_data row {row['token']}") for row in rows]
        return (*pictures, *stored_extras.paths(self._extras(sample_token)))

    def _extras(self, sample_token: str) -> dict[str, Any]:
        """Return a sample's own ``extras`` by plugin name: JSON values, and in them the path of what is {"file": name}."""
        where = f"sample row {sample_token}"
        found = self.objects.get("sample", sample_token, where).get("extras", {})
        return {
            name: stored_extras.resolved(value, partial(inside, self.root, where=f"{where}: extras of {name!r}"))
            for name, value in found.items()
        }

    def nearby(self, sample_token: str, past_s: float, future_s: float) -> tuple[str, ...]:
        """Follow a sample's links; see `SceneSource.nearby`. Beyond a timestamp that does not increase, everything is unknown.

        Args:
            sample_token: of the sample.
            past_s: seconds before it; 0 for none.
            future_s: seconds after it; 0 for none.
        """
        past_s, future_s = seconds(past_s, "past_s"), seconds(future_s, "future_s")
        self._data(sample_token)  # refuses a token that is not there
        before = self._along("prev", sample_token, past_s)
        return (*before[::-1], *self._along("next", sample_token, future_s))

    def _along(self, link: str, sample_token: str, seconds: float) -> list[str]:
        where = f"sample row {sample_token}"
        sample, found, reached = self.objects.get("sample", sample_token, where), [], 0.0
        start = sample["timestamp"]
        while reached < seconds and sample.get(link):
            sample = self.objects.get("sample", sample[link], f"sample row {sample['token']}")
            distance = (sample["timestamp"] - start) * (1e-6 if link == "next" else -1e-6)
            if distance <= reached:
                break
            reached = distance
            found.append(sample["token"])
        return found

    def moment(self, sample_token: str) -> Moment:
        """Read a sample as a neighbour of another one: ego pose, boxes, cameras; no picture is opened."""
        found = self._moments.get(sample_token)
        if found is not None:
            return found
        where, rows = f"sample row {sample_token}", self._data(sample_token)
        sample = self.objects.get("sample", sample_token, where)
        cameras = tuple(self.objects.camera(row, look=False) for row in camera_rows(rows))
        boxes = tuple(self.objects.box(token) for token in sample["anns"])
        with at(where):
            pose = self._reference(sample, rows, cameras)[0]
            moment = Moment(time_us(sample), pose, boxes, cameras, sample_token)
        if len(self._moments) >= MOMENTS_KEPT:
            self._moments = {}
        self._moments[sample_token] = moment
        return moment

    @cached_property
    def _tables_digest(self) -> str:
        files = [*(self.root / self.version).glob("*.json"), *self.root.glob("maps/expansion/*.json")]
        return stat_digest(sorted(files))

    def _data(self, sample_token: str) -> dict[str, dict[str, Any]]:
        """Return the key frames of a sample that are read, by channel: cameras, and LIDAR_TOP.

        Those of the last sample stay, as more is asked of the same one.
        """
        last, rows = self._last
        if last == sample_token and rows:
            return rows
        where = f"sample row {sample_token}"
        if not isinstance(sample_token, str) or sample_token not in self.tables._token2ind["sample"]:
            raise InputError(f"dataset {self.root / self.version} has no sample {sample_token!r}; `samples()` lists them")
        rows = {}
        for channel, token in self.objects.get("sample", sample_token, where)["data"].items():
            row = self.tables.get("sample_data", token)
            camera = row["sensor_modality"] == "camera"
            if camera or channel == "LIDAR_TOP":
                check("sample_data", row, "camera data" if camera else "")
                rows[channel] = row
        self._last = sample_token, rows
        return rows

    def samples(self, scene: str | None = None) -> tuple[str, ...]:
        """Sample tokens in time order, of one scene (name or token) or of all, scene after scene."""
        if scene is None:
            return tuple(token for row in self.tables.scene for token in self._samples(row))
        return self._samples(self._scene_row(scene))

    def scene(self, name_or_token: str) -> Scene:
        """Read a whole scene."""
        row = self._scene_row(name_or_token)
        location = self.objects.get("log", row["log_token"], f"scene row {row['token']}")["location"]
        frames = tuple(self.frame(token) for token in self._samples(row))
        return Scene(row["name"], frames, row.get("description") or "", location, row["token"])

    def frame(self, sample_token: str) -> Frame:
        """Read one sample: cameras each with its own ego pose, boxes, map, text.

        Raises InputError naming row and path for an unknown token, a broken link, a missing or refused image, and values that
        `Camera`, `Box3D` or `SE3` refuse.
        """
        where, rows = f"sample row {sample_token}", self._data(sample_token)
        sample = self.objects.get("sample", sample_token, where)
        scene = self.objects.get("scene", sample["scene_token"], where)
        location = self.objects.get("log", scene["log_token"], f"scene row {scene['token']}")["location"]
        cameras = tuple(self.objects.camera(row) for row in camera_rows(rows))
        boxes = tuple(self.objects.box(token) for token in sample["anns"])
        extras = {
            name: stored_extras.read(value, partial(read_extra, where=f"{where}: extras of {name!r}"))
            for name, value in self._extras(sample_token).items()
        }
        with at(where):
            if not cameras:
                raise InputError(_NO_CAMERA)
            pose, lidar_mounting, path = self._reference(sample, rows, cameras)
            return Frame(
                sample_token, cameras, boxes, self._map(location), _description(sample, scene), location,
                scene["name"], time_us(sample), pose, lidar_path=path, extras=extras, **lidar_mounting,
            )  # fmt: skip

    def _reference(
        self, sample: dict[str, Any], rows: dict[str, dict[str, Any]], cameras: tuple[Camera, ...]
    ) -> tuple[SE3, dict[str, Any], Path | None]:
        """Return the ego pose at a sample's own time, the lidar's mounting and its file; {} and None without a lidar."""
        lidar = rows.get("LIDAR_TOP")
        if lidar is None and not cameras:
            raise InputError(_NO_CAMERA)
        if lidar is None:
            closest = min(cameras, key=lambda camera: abs(camera.timestamp_us - time_us(sample)))
            return closest.global_SE3_ego, {}, None
        at = f"sample_data row {lidar['token']}"
        pose = self.objects.pose("ego_pose", lidar["ego_pose_token"], at)
        mounting = {"ego_SE3_lidar": self.objects.pose("calibrated_sensor", lidar["calibrated_sensor_token"], at)}
        return pose, mounting, inside(self.root, lidar["filename"], at)

    def _scene_row(self, name_or_token: str) -> dict[str, Any]:
        for row in self.tables.scene:
            if name_or_token in (row["name"], row["token"]):
                return row
        raise InputError(
            f"dataset {self.root / self.version} has no scene {name_or_token!r}{nearest(name_or_token, self.scenes)}; "
            f"it has {', '.join(self.scenes[:10])}{' …' if len(self.scenes) > 10 else ''}"
        )

    def _samples(self, scene: dict[str, Any]) -> tuple[str, ...]:
        tokens: dict[str, None] = {}
        token = scene["first_sample_token"]
        while token:
            if token in tokens:
                raise InputError(f"sample row {token}: the chain of next tokens comes back to it; correct sample.json")
            tokens[token] = None
            token = self.objects.get("sample", token, f"scene row {scene['token']}", "chained sample").get("next")
        return tuple(tokens)

    def _map(self, location: str) -> VectorMap | None:
        if location not in self._maps:
            path = map_path(self.root, location) if location else None
            self._maps[location] = read_map(path, location) if path is not None and path.is_file() else None
        return self._maps[location]


def _description(sample: dict[str, Any], scene: dict[str, Any]) -> str:
    """Return a sample's own description, or its scene's."""
    found = (row["description"] for row in (sample, scene) if row.get("description") is not None)
    return next(found, "")

"""Rows of the thirteen tables, built scene by scene."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from drivegen.datasets.nuscenes.extras import storable
from drivegen.datasets.nuscenes.files import Sample, count_points, find_image, find_lidar
from drivegen.datasets.nuscenes.making import Making
from drivegen.datasets.nuscenes.schema import (
    CATEGORIES,
    FULL_CATEGORY,
    TABLES,
    VISIBILITY_LEVELS,
    check_text,
    make_token,
)
from drivegen.scene import Box3D, Camera, Frame, Scene
from drivegen.scene.geometry import SE3, whole
from drivegen.support.errors import InputError

CHANNEL = re.compile(r"[A-Za-z0-9_-]+")


class Rows:
    """The tables under construction: scenes are checked, then sample files are written and named in their rows."""

    def __init__(self, root: Path, vehicle: str = "drivegen") -> None:
        self.root, self.vehicle = root, vehicle
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        self.logs_by_location: dict[str, list[str]] = {}
        self._seen: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in TABLES}
        self._files: list[tuple[dict[str, Any], str, Sample]] = []
        for level, name in VISIBILITY_LEVELS.items():
            self._add("visibility", token=str(level), level=name, description="")
        for category in CATEGORIES:
            self._add("category", token=make_token("category", category), name=category, description="")

    def _add(self, table: str, **row: Any) -> dict[str, Any]:
        self._seen[table][row["token"]] = row
        self.tables[table].append(row)
        return row

    def _once(self, table: str, token: str, **row: Any) -> str:
        if token not in self._seen[table]:
            self._add(table, token=token, **row)
        return token

    def add_scene(self, scene: Scene) -> None:
        """Add a scene with its log, samples, sensors' data and annotations; nothing is written."""
        for what in ("name", "token", "description"):
            check_text(getattr(scene, what), f"scene {scene.name!r}: {what}")
        if not scene.name or any(row["name"] == scene.name for row in self.tables["scene"]):
            raise InputError(f"scene name {scene.name!r} is empty or taken; every scene needs its own")
        times = [frame.timestamp_us for frame in scene.frames]
        if any(b <= a for a, b in pairwise(times)):
            raise InputError(f"scene {scene.name!r}: frame times must increase (timestamp_us), got {times[:6]}")
        token = self._fresh("scene", scene.token, scene.name)
        first = scene.frames[0]
        location = scene_location(scene)
        log = make_token("log", scene.name)
        day = datetime.fromtimestamp(first.timestamp_us / 1e6, UTC).strftime("%Y-%m-%d")
        self._add("log", token=log, logfile=scene.name, vehicle=self.vehicle, date_captured=day, location=location)
        self.logs_by_location.setdefault(location, []).append(log)
        description = scene.description or first.description
        samples: list[dict[str, Any]] = []
        data: dict[str, list[dict[str, Any]]] = {}
        tracks: dict[str, list[dict[str, Any]]] = {}
        for index, frame in enumerate(scene.frames):
            sample = self._sample(scene, frame, index, token, description)
            samples.append(sample)
            for camera in frame.cameras:
                data.setdefault(camera.channel, []).append(self._camera(scene, frame, camera, sample, index))
            data.setdefault("LIDAR_TOP", []).append(self._lidar(scene, frame, sample, index))
            self._boxes(scene, frame, sample, tracks)
        for chain in (samples, *data.values()):
            link(chain)
        close_tracks(tracks, self._seen["instance"])
        self._add("scene", token=token, log_token=log, nbr_samples=len(samples), first_sample_token=samples[0]["token"],
                  last_sample_token=samples[-1]["token"], name=scene.name, description=description)  # fmt: skip

    def add_files(self, made: Making) -> None:
        """Write the sample files that do not exist yet, and name all in their rows."""
        for row, field, sample in self._files:
            row[field] = sample.add(made)

    def name_files(self) -> None:
        """Name the sample files, which are all there, in their rows."""
        for row, field, sample in self._files:
            row[field] = sample.there

    def add_map(self, location: str, filename: str, logs: list[str]) -> None:
        """Add the map row of a location.

        Args:
            location: name of the map.
            filename: of its mask, relative to root.
            logs: tokens of the logs that were recorded there.
        """
        self._add("map", token=make_token("map", location), category="semantic_prior", filename=filename, log_tokens=logs)

    def _fresh(self, table: str, given: str, *content: object) -> str:
        token = given or make_token(table, *content)
        if token in self._seen[table]:
            raise InputError(f"{table} token {token!r} is used twice; give each its own, or leave it empty")
        return token

    def _sample(self, scene: Scene, frame: Frame, index: int, scene_token: str, description: str) -> dict[str, Any]:
        for what in ("token", "description"):
            check_text(getattr(frame, what), f"scene {scene.name!r}, frame {index}: {what}")
        row: dict[str, Any] = {
            "token": self._fresh("sample", frame.token, scene.name, index), "timestamp": int(frame.timestamp_us), "prev": "",
            "next": "", "scene_token": scene_token,
        }  # fmt: skip
        if frame.description and frame.description != description:
            row["description"] = frame.description  # one of our own: nuScenes has one text per scene, an edited frame its own
        if frame.extras:
            row["extras"] = {}
            for name, value in frame.extras.items():
                stem = f"extras/{_plain(name)}/{_plain(scene.name)}__{index:04d}"
                made, named = storable(value, self.root, stem, f"{_at(scene, frame)}: extras of {name!r}")
                row["extras"][check_text(name, f"{_at(scene, frame)}: extras")] = made
                self._files += [(field, "file", sample) for field, sample in named]
        return self._add("sample", **row)

    def _mount(self, scene: Scene, channel: str, modality: str, mount: SE3, intrinsic: list[Any]) -> str:
        sensor = self._once("sensor", make_token("sensor", channel), channel=channel, modality=modality)
        fields = _pose_fields(mount)
        token = make_token("calibrated_sensor", scene.name, channel, fields, intrinsic)
        return self._once("calibrated_sensor", token, sensor_token=sensor, **fields, camera_intrinsic=intrinsic)

    def _camera(self, scene: Scene, frame: Frame, camera: Camera, sample: dict[str, Any], index: int) -> dict[str, Any]:
        where = f"{_at(scene, frame)}, camera {camera.channel!r}"
        if not CHANNEL.fullmatch(check_text(camera.channel, f"{where}: name")) or camera.channel == "LIDAR_TOP":
            raise InputError(f"{where}: its name cannot name a folder; use letters, digits, '_' and '-', and not LIDAR_TOP")
        file = find_image(self.root, camera, _stem(scene, camera.channel, index), where)
        mount = self._mount(scene, camera.channel, "camera", camera.ego_SE3_camera, camera.K_native.tolist())
        return self._sample_data(sample, camera.channel, mount, camera.global_SE3_ego, int(camera.timestamp_us), file,
                                 camera.width_px, camera.height_px)  # fmt: skip

    def _lidar(self, scene: Scene, frame: Frame, sample: dict[str, Any], index: int) -> dict[str, Any]:
        file = find_lidar(self.root, frame.lidar_path, _stem(scene, "LIDAR_TOP", index), _at(scene, frame))
        mount = self._mount(scene, "LIDAR_TOP", "lidar", frame.ego_SE3_lidar, [])
        return self._sample_data(sample, "LIDAR_TOP", mount, frame.global_SE3_ego, int(frame.timestamp_us), file, 0, 0)

    def _sample_data(self, sample: dict[str, Any], channel: str, mount: str, pose: SE3, timestamp_us: int, file: Sample,
                     width: int, height: int) -> dict[str, Any]:  # fmt: skip
        token = make_token("sample_data", sample["token"], channel)
        kind = "pcd" if channel == "LIDAR_TOP" else file.suffix.lstrip(".")
        ego = self._once("ego_pose", token, timestamp=timestamp_us, **_pose_fields(pose))
        row = self._add("sample_data", token=token, sample_token=sample["token"], ego_pose_token=ego,
                        calibrated_sensor_token=mount, timestamp=timestamp_us, fileformat=kind, is_key_frame=True,
                        height=height, width=width, filename="", prev="", next="")  # fmt: skip
        self._files.append((row, "filename", file))
        return row

    def _boxes(self, scene: Scene, frame: Frame, sample: dict[str, Any], tracks: dict[str, list[Any]]) -> None:
        for index, box in enumerate(frame.boxes):
            _check_box(box, f"{_at(scene, frame)}, box {index}")
        counts = count_points(frame)
        here = set()
        for index, (box, points) in enumerate(zip(frame.boxes, counts, strict=True)):
            instance = self._instance(scene, box, sample, index, tracks)
            if instance in here:
                raise InputError(f"{_at(scene, frame)}: two boxes of instance {box.instance!r}; give each its own")
            here.add(instance)
            token = box.token
            if not token or token in self._seen["sample_annotation"]:  # an edited copy of a frame keeps its boxes' tokens
                token = make_token("sample_annotation", sample["token"], instance)
            attributes = [self._once("attribute", make_token("attribute", box.attribute), name=box.attribute, description="")]
            row = self._add(
                "sample_annotation", token=token, sample_token=sample["token"], instance_token=instance,
                visibility_token=str(box.visibility or ""), attribute_tokens=attributes if box.attribute else [],
                size=box.size_wlh_m.tolist(), **_pose_fields(box.global_SE3_object), prev="", next="", num_lidar_pts=points,
                num_radar_pts=0, **_joints_field(box),
            )  # fmt: skip
            tracks.setdefault(instance, []).append(row)

    def _instance(self, scene: Scene, box: Box3D, sample: dict[str, Any], index: int, tracks: dict[str, list[Any]]) -> str:
        name = FULL_CATEGORY.get(box.category, box.category)
        category = self._once("category", make_token("category", name), name=name, description="")
        given = box.instance or make_token("instance", sample["token"], index)
        # An instance has one category and one scene: the same name elsewhere is another object.
        for token in (given, make_token("instance", scene.name, given), make_token("instance", scene.name, given, name)):
            row = self._seen["instance"].get(token)
            if row is None:
                return self._add("instance", token=token, category_token=category)["token"]
            if token in tracks and row["category_token"] == category:
                return token
        raise InputError(f"scene {scene.name!r}: instance {given!r} cannot be given a token of its own; rename it")


def link(chain: list[dict[str, Any]]) -> None:
    """Name each row's neighbours in it."""
    for earlier, later in pairwise(chain):
        earlier["next"], later["prev"] = later["token"], earlier["token"]


def close_tracks(tracks: dict[str, list[dict[str, Any]]], instances: dict[str, dict[str, Any]]) -> None:
    """Link the annotations of each instance, and name first, last and their number in its row.

    Args:
        tracks: annotations in time order, by the instance's token.
        instances: rows by token.
    """
    for instance, chain in tracks.items():
        link(chain)
        instances[instance] |= {
            "nbr_annotations": len(chain),
            "first_annotation_token": chain[0]["token"],
            "last_annotation_token": chain[-1]["token"],
        }


def scene_location(scene: Scene) -> str:
    """Return the location of a scene: its own, else its first frame's, else its map's."""
    frame = scene.frames[0]
    return scene.location or frame.location or (frame.map.location if frame.map else "")


def _joints_field(box: Box3D) -> dict[str, list[list[float | None]]]:
    """Give the joints of a box, null for what is not known; no field where it has none, as nuScenes' tables have none."""
    if box.joints_m is None:
        return {}
    return {"joints_m": [[None if math.isnan(x) else x for x in joint] for joint in box.joints_m.tolist()]}


def _pose_fields(pose: SE3) -> dict[str, list[float]]:
    return {"rotation": pose.quaternion.tolist(), "translation": pose.translation.tolist()}


def _stem(scene: Scene, channel: str, index: int) -> str:
    return f"samples/{channel}/{_plain(scene.name)}__{channel}__{index:04d}"


def _plain(name: str) -> str:
    return re.sub(r"[^\w-]", "_", name).encode()[:120].decode(errors="ignore")  # a file's name has 255 bytes


def _at(scene: Scene, frame: Frame) -> str:
    return f"scene {scene.name!r}, frame {frame.token!r}"


def _check_box(box: Box3D, where: str) -> None:
    for what in ("category", "instance", "token", "attribute"):
        check_text(getattr(box, what), f"{where}: {what}")
    if box.num_lidar_pts is not None:
        whole(box.num_lidar_pts, -1, 2**31, f"{where}: num_lidar_pts")  # some converters say -1 for unknown

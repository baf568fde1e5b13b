"""A scene's objects as tracks, and whether a changed one fits among the others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from drivegen.scene import Box3D, Scene
from drivegen.scene.geometry import Array
from drivegen.scene.room import collisions, ego_box
from drivegen.synthesis.lidar import read_sweep
from drivegen.synthesis.walls import ABOUT_BOX_M, RAISED_M

RETURNS = 3
"""So many returns of a sweep show that something stands there."""

Track = dict[int, Box3D]
"""An object's boxes by number of the frame."""


class Tracks:
    """The objects of a scene's key frames: by frame, and within it by the object's name throughout the scene."""

    def __init__(self, scene: Scene) -> None:
        self.frames: list[dict[str, Box3D]] = []
        for frame in scene.frames:
            named = {box.instance or f"{frame.token}/{i}": box for i, box in enumerate(frame.boxes)}
            self.frames.append(named)
        self.times_s = np.array([frame.timestamp_us for frame in scene.frames]) / 1e6
        self.ego: Track = dict(enumerate(ego_box(frame.global_SE3_ego) for frame in scene.frames))

    def names(self) -> list[str]:
        """Name every object, in the order in which they appear."""
        return list(dict.fromkeys(name for frame in self.frames for name in frame))

    def track(self, name: str) -> Track:
        """Return an object's boxes."""
        return {i: frame[name] for i, frame in enumerate(self.frames) if name in frame}

    def remove(self, name: str) -> None:
        """Remove an object."""
        for frame in self.frames:
            frame.pop(name, None)

    def put(self, name: str, track: Track) -> None:
        """Replace an object's boxes by changed ones."""
        for i, box in track.items():
            self.frames[i][name] = box

    def fits(self, name: str, track: Mapping[int, Box3D]) -> bool:
        """Tell whether changed boxes, seen from above, overlap no ego, and no object that they did not overlap before."""
        for i, box in track.items():
            others = [*(other for key, other in self.frames[i].items() if key != name), self.ego[i]]
            if collisions(box, self.frames[i].get(name), others):
                return False
        return True


class Surroundings:
    """What stands around a scene's vehicle and is no object, as far as the sweeps of its key frames show it."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._places: dict[int, Array] = {}

    def occupied(self, number: int, box: Box3D) -> bool:
        """Tell whether the lidar saw something in the place of a box that belongs to none of the scene's own.

        Args:
            number: of the key frame.
            box: as it would stand there.
        """
        half = box.size_wlh_m[[1, 0, 2]] / 2
        local = box.global_SE3_object.inverse().transform(near := self._near(number, box))
        found = near[(np.abs(local[:, :2]) < half[:2]).all(1) & (local[:, 2] > RAISED_M - half[2]) & (local[:, 2] < half[2])]
        for own in self._scene.frames[number].boxes if len(found) >= RETURNS else ():
            there = np.abs(own.global_SE3_object.inverse().transform(found))
            found = found[(there > own.size_wlh_m[[1, 0, 2]] / 2 + ABOUT_BOX_M).any(1)]
        return len(found) >= RETURNS

    def _near(self, number: int, box: Box3D) -> Array:
        """Return the returns about a box, in the global frame."""
        if number not in self._places:
            frame = self._scene.frames[number]
            there = frame.lidar_path is not None and frame.lidar_path.is_file()
            local = read_sweep(frame.lidar_path)[:, :3] if frame.lidar_path is not None and there else np.zeros((0, 3))
            self._places[number] = (frame.global_SE3_ego @ frame.ego_SE3_lidar).transform(local)
        places = self._places[number]
        away = np.abs(places - box.global_SE3_object.translation).max(1)
        return np.asarray(places[away < np.linalg.norm(box.size_wlh_m) / 2])

"""A scene's objects as tracks, and whether a changed one fits among the others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from shapely import Polygon
from shapely import union_all as union
from shapely.geometry.base import BaseGeometry
from shapely.prepared import prep

from drivegen.scene import Box3D, Scene
from drivegen.scene.geometry import SE3

EGO_SIZE_M = (1.73, 4.08, 1.56)
"""(width, length, height) of nuScenes' vehicle, a Renault Zoe, which nothing may be moved into."""

EGO_CENTRE_M = 1.3
"""How far its middle is before the rear axle, the origin of the ego frame."""

LANE_LAYERS = ("lane", "lane_connector")

Track = dict[int, Box3D]
"""An object's boxes by number of the frame."""


class Tracks:
    """The objects of a scene's key frames: by frame, and within it by the object's name throughout the scene."""

    def __init__(self, scene: Scene) -> None:
        self.frames: list[dict[str, Box3D]] = []
        for frame in scene.frames:
            named = {box.instance or f"{frame.token}/{i}": box for i, box in enumerate(frame.boxes)}
            self.frames.append(named)
        self.ego: Track = dict(enumerate(_ego_box(frame.global_SE3_ego) for frame in scene.frames))

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
            before = self.frames[i].get(name)
            shape, was = footprint(box), None if before is None else footprint(before)
            for other in _near(box, others):
                there = footprint(other)
                if shape.intersects(there) and not (was is not None and was.intersects(there)):
                    return False
        return True


class Lanes:
    """The lanes of a scene's map."""

    def __init__(self, scene: Scene) -> None:
        area = next((frame.map for frame in scene.frames if frame.map is not None), None)
        polygons = [] if area is None else [p for layer in LANE_LAYERS for p in area.polygons.get(layer, ())]
        if area is not None and polygons:
            centre = np.mean([frame.global_SE3_ego.translation[:2] for frame in scene.frames], axis=0)
            reach = max(float(np.abs(frame.global_SE3_ego.translation[:2] - centre).max()) for frame in scene.frames) + 150
            near = area.near(centre, reach)
            polygons = [p for layer in LANE_LAYERS for p in near.polygons.get(layer, ())]
        shapes = [Polygon(p.exterior, p.holes).buffer(0) for p in polygons]
        self.there = bool(shapes)
        self._area = prep(union(shapes)) if shapes else None

    def hold(self, box: Box3D) -> bool:
        """Tell whether a box's middle is on a lane."""
        from shapely import Point

        return self._area is not None and bool(self._area.contains(Point(box.global_SE3_object.translation[:2])))


def footprint(box: Box3D) -> BaseGeometry:
    """Return the area of a box seen from above."""
    return Polygon(box.corners()[[2, 3, 7, 6], :2])


def _near(box: Box3D, others: list[Box3D]) -> list[Box3D]:
    """Keep boxes whose circle about them, seen from above, meets that of a box."""
    places = np.array([other.global_SE3_object.translation[:2] for other in others])
    radii = np.array([np.hypot(*other.size_wlh_m[:2]) / 2 for other in others])
    apart = np.linalg.norm(places - box.global_SE3_object.translation[:2], axis=1)
    close = apart <= radii + np.hypot(*box.size_wlh_m[:2]) / 2
    return [other for other, is_close in zip(others, close, strict=True) if is_close]


def _ego_box(pose: SE3) -> Box3D:
    centre = SE3.from_yaw(0.0, (EGO_CENTRE_M, 0.0, EGO_SIZE_M[2] / 2))
    return Box3D("vehicle.ego", pose @ centre, np.array(EGO_SIZE_M))

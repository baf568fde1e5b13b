"""Two small frames that hold some of everything, for the battery."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from drivegen.scene import Box3D, Camera, Frame, MapLine, MapPolygon, Moment, VectorMap
from drivegen.scene.geometry import SE3

_LOOKS_AHEAD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def camera(channel: str, yaw_deg: float, size: tuple[int, int] = (64, 48), focal_px: float = 40.0) -> Camera:
    """Make a level camera 1.5 m above the ego origin.

    Args:
        channel: its name.
        yaw_deg: direction that it looks along, counter-clockwise.
        size: (width, height) in pixels.
        focal_px: focal length.
    """
    K = np.array([[focal_px, 0, size[0] / 2], [0, focal_px, size[1] / 2], [0, 0, 1]])
    mount = SE3(SE3.from_yaw(math.radians(yaw_deg)).rotation @ _LOOKS_AHEAD, np.array([1.0, 0.0, 1.5]))
    return Camera(channel, K, size[0], size[1], mount, SE3.identity())


def frame(seed: int = 0, views: int = 3) -> Frame:
    """Make a street with a crossing and six boxes (five where seed is odd) about the origin, seen by `views` cameras.

    Its neighbours are every half second from 3 s before it to 3 s after it; the vehicle and all boxes drive in circles.
    """
    random = np.random.default_rng(seed)
    kinds = ("car", "pedestrian", "truck", "bus", "bicycle", "traffic_cone")
    boxes = []
    for i, kind in enumerate(kinds):
        place = SE3.from_yaw(random.uniform(-3, 3), (*random.uniform(-25, 25, 2), 1.0))
        boxes.append(Box3D(kind, place, np.array([1.8, 4.0, 1.6]) * random.uniform(0.8, 1.2), instance=f"{kind}-{i}"))
    boxes = boxes[: 6 - seed % 2]  # frames that count alike would hide a count that leaks
    road = np.array([[-40.0, -6], [40, -6], [40, 6], [-40, 6]])
    crossing = np.array([[8.0, -6], [12, -6], [12, 6], [8, 6]]) + random.uniform(-2, 2)
    town = VectorMap(
        "boston-seaport",
        {"drivable_area": (MapPolygon(road),), "ped_crossing": (MapPolygon(crossing),)},
        {"lane_divider": (MapLine(np.array([[-40.0, 0], [40, 0]])),)},
    )
    names = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
    yaws = (55.0, 0.0, -55.0, -110.0, 180.0, 110.0)
    cameras = tuple(camera(n, y + random.uniform(-5, 5)) for n, y in list(zip(names, yaws, strict=True))[:views])
    text = ("Day, clear. A street with cars.", "Night, rain. A crossing.")[seed % 2]
    here = Frame(f"frame-{seed}", cameras, tuple(boxes), town, text, "boston-seaport", timestamp_us=10_000_000 + seed)
    return replace(here, neighbours=_around(here, speed_mps=5.0 + seed))


def _around(here: Frame, speed_mps: float) -> tuple[Moment, ...]:
    moments = []
    for half in (*range(-6, 0), *range(1, 7)):
        seconds = half / 2
        step = SE3.from_yaw(0.1 * seconds, (speed_mps * seconds, 0.02 * speed_mps * seconds**2, 0.0))
        boxes = [replace(box, global_SE3_object=box.global_SE3_object @ step) for box in here.boxes]
        cameras = [replace(each, global_SE3_ego=step) for each in here.cameras]
        moments.append(Moment(here.timestamp_us + half * 500_000, step, tuple(boxes), tuple(cameras), f"{here.token}{half:+d}"))
    return tuple(moments)


def elsewhere(original: Frame) -> Frame:
    """Return the frame with another street, other boxes, description, time, past and future, and moved cameras.

    Channels, sizes and extras stay.
    """
    other = frame(4)
    turn = SE3.from_yaw(0.02, (0.1, 0.2, 0.3))  # little, so that the cameras' order stays
    moved = replace(
        original, token=f"{original.token}-elsewhere", boxes=other.boxes[:4], map=other.map,
        description=f"{original.description} Elsewhere.", location="singapore-onenorth",
        timestamp_us=original.timestamp_us + 5 * 3_600_000_000, neighbours=(),
        cameras=tuple(replace(each, ego_SE3_camera=turn @ each.ego_SE3_camera) for each in original.cameras),
    )  # fmt: skip
    return replace(moved, neighbours=_around(moved, speed_mps=9.0) if original.neighbours else ())

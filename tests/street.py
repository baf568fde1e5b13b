"""A small street made by hand, for tests: six cameras, a few boxes, every bird's-eye class."""

from __future__ import annotations

import math

import numpy as np

from drivegen.scene import Box3D, Camera, Frame, MapLine, MapPolygon, Scene, VectorMap
from drivegen.scene.geometry import SE3

RIG_DEG = {
    "CAM_FRONT_LEFT": 55, "CAM_FRONT": 0, "CAM_FRONT_RIGHT": -55, "CAM_BACK_RIGHT": -110, "CAM_BACK": 180, "CAM_BACK_LEFT": 110,
}  # fmt: skip
FORWARD = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])  # columns: a forward camera's x, y, z in the ego frame


def mounting(yaw_deg: float, position: tuple[float, float, float] = (1.0, 0.0, 1.6), pitch_deg: float = 0.0) -> SE3:
    p = math.radians(pitch_deg)
    down = np.array([[math.cos(p), 0, math.sin(p)], [0, 1, 0], [-math.sin(p), 0, math.cos(p)]])
    return SE3(SE3.from_yaw(math.radians(yaw_deg)).rotation @ down @ FORWARD, position)


def camera(channel: str, yaw_deg: float, ego: SE3 | None = None, size: tuple[int, int] = (320, 180), **changes) -> Camera:
    K = np.array([[0.8 * size[0], 0, size[0] / 2], [0, 0.8 * size[0], size[1] / 2], [0, 0, 1.0]])
    fields = {"ego_SE3_camera": mounting(yaw_deg, pitch_deg=2.0), "global_SE3_ego": ego or SE3.identity()} | changes
    return Camera(channel, K, *size, **fields)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=float)


def street_map(location: str = "boston-seaport") -> VectorMap:
    """A street along x at y = 300, a block with a yard beside it, crossings, dividers that bend."""
    along = np.linspace(200, 400, 41)
    bend = np.stack([along, 300 + 2 * np.sin(along / 20)], -1)
    return VectorMap(
        location,
        {
            "drivable_area": (
                MapPolygon(rectangle(180, 290, 420, 310), token="road"),
                MapPolygon(rectangle(290, 310, 302, 380), token="side"),
                MapPolygon(rectangle(310, 316, 360, 360), (rectangle(320, 325, 345, 350),), "block"),
            ),
            "ped_crossing": (MapPolygon(np.array([[284.3, 290], [287.7, 290], [288.2, 310], [284.9, 310]]), token="zebra"),),
            "walkway": (
                MapPolygon(rectangle(200, 285.5, 400, 290), token="south"),
                MapPolygon(rectangle(302, 310, 400, 314.2), token="north"),
            ),
            "stop_line": (MapPolygon(rectangle(281.0, 300.2, 282.6, 309.7), token="stop"),),
            "carpark_area": (MapPolygon(np.array([[330, 300], [352.5, 305], [350, 312], [329, 308.0]]), token="park"),),
            "road_block": (MapPolygon(rectangle(220, 300, 280, 310), token="block-w"),),
            "lane": (MapPolygon(rectangle(220, 300, 280, 305), token="lane-w"),),
        },
        {
            "road_divider": (MapLine(bend, "middle"),),
            "lane_divider": tuple(MapLine(bend + np.array([0, y]), f"lane-{y}") for y in (4, -4)),
        },
    )


def street_boxes(step: int = 0) -> tuple[Box3D, ...]:
    rows = [
        ("vehicle.car", (322 + step, 297.8, 0.8), 0.02, (1.9, 4.5, 1.6), "car-a"),
        ("vehicle.truck", (275.0, 303, 1.6), math.pi, (2.5, 8.0, 3.2), "truck-a"),
        ("human.pedestrian.adult", (312, 312 - 0.5 * step, 0.9), 1.2, (0.6, 0.7, 1.8), "person-a"),
        ("vehicle.bicycle", (309, 291.5, 0.8), -0.4, (0.6, 1.7, 1.5), "bike-a"),
        ("movable_object.barrier", (318, 306, 0.5), 0.7, (2.0, 0.5, 1.0), "barrier-a"),
        ("animal", (307.5, 302, 0.4), 2.0, (0.3, 0.8, 0.7), "dog-a"),
    ]
    return tuple(
        Box3D(category, SE3.from_yaw(yaw, center), size, name, f"{name}-{step}", visibility=4, attribute="vehicle.moving")
        for category, center, yaw, size, name in rows
    )


def street_frame(step: int = 0, heading_rad: float = 0.1, scene: str = "street", vector_map: VectorMap | None = None) -> Frame:
    """The ego at (300, 298), moving east; each camera fires a little later than the one before."""

    def ego(late_s: float) -> SE3:
        return SE3.from_yaw(heading_rad, (300 + 2 * step + 4 * late_s, 298, 0))

    time = 1_600_000_000_000_000 + 500_000 * step
    cameras = tuple(
        camera(name, yaw, ego(0.01 * i), timestamp_us=time + 10_000 * i) for i, (name, yaw) in enumerate(RIG_DEG.items())
    )
    return Frame(
        f"{scene}-{step}", cameras, street_boxes(step), vector_map or street_map(), "a street by hand, day", "boston-seaport",
        scene, time, ego(0.0),
    )  # fmt: skip


def street_scene(frames: int = 3, name: str = "street") -> Scene:
    shared = street_map()
    drive = tuple(street_frame(step, scene=name, vector_map=shared) for step in range(frames))
    return Scene(name, drive, "a street by hand, day", "boston-seaport", f"{name}-token")

"""A spinning lidar like nuScenes' (Velodyne HDL-32E): its rays, and a sweep of boxes on level ground.

Angles and range are those of the sensor's data sheet.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drivegen.scene import Box3D
from drivegen.scene.geometry import SE3, Array
from drivegen.synthesis.rays import Rays

BEAMS, AZIMUTHS = 32, 1084
LOWEST_DEG, HIGHEST_DEG = -30.67, 10.67
RANGE_M = 70.0
INTENSITY = 20.0
"""Of points that no sensor measured."""


def rays(global_SE3_lidar: SE3) -> tuple[Rays, Array]:
    """Return the rays of a turn, each as long as the sensor's range, and the ring (N,) of each."""
    elevation = np.radians(np.linspace(LOWEST_DEG, HIGHEST_DEG, BEAMS))
    azimuth = (np.arange(AZIMUTHS) + 0.5) * (2 * np.pi / AZIMUTHS)
    e, a = np.meshgrid(elevation, azimuth, indexing="ij")
    ring = np.repeat(np.arange(BEAMS, dtype=np.float64), AZIMUTHS)
    ways = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1).reshape(-1, 3) * RANGE_M
    return Rays(global_SE3_lidar.translation, global_SE3_lidar.transform(ways)), ring


def cast(boxes: Sequence[Box3D], global_SE3_ego: SE3, global_SE3_lidar: SE3) -> Array:
    """Return a sweep (N, 5), in the lidar frame, of boxes on level ground: x, y, z in metres, intensity, ring.

    Args:
        boxes: what stands there.
        global_SE3_ego: the vehicle; the ground is where its wheels are.
        global_SE3_lidar: the sensor.
    """
    turn, ring = rays(global_SE3_lidar)
    shares, _ = turn.first(boxes)
    up = global_SE3_ego.rotation[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        ground = ((global_SE3_ego.translation - turn.eye) @ up) / (turn.way @ up)
    shares = np.minimum(shares, np.where(ground > 0, ground, np.inf))
    met = np.flatnonzero(shares <= 1)
    return measured(turn.at(shares[met], met), ring[met], global_SE3_lidar)


def measured(places: Array, ring: Array, global_SE3_lidar: SE3) -> Array:
    """Return points (N, 5) of a sweep.

    Args:
        places: (N, 3) in the global frame.
        ring: (N,) of each.
        global_SE3_lidar: the sensor.
    """
    local = global_SE3_lidar.inverse().transform(places)
    return np.column_stack([local, np.full(len(local), INTENSITY), ring])

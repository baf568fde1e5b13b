"""Camera rigs: nuScenes' six cameras, or a rig of another car."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from drivegen.scene.geometry import SE3, Array

_MOUNTS = {
    "CAM_FRONT_LEFT": (1.52, 0.49, 1.51, 55.0, 70.0),
    "CAM_FRONT": (1.70, 0.02, 1.51, 0.0, 70.0),
    "CAM_FRONT_RIGHT": (1.55, -0.49, 1.49, -55.0, 70.0),
    "CAM_BACK_RIGHT": (1.01, -0.48, 1.56, -110.0, 70.0),
    "CAM_BACK": (0.03, 0.0, 1.57, 180.0, 110.0),
    "CAM_BACK_LEFT": (1.04, 0.48, 1.56, 110.0, 70.0),
    "CAM_LEFT": (1.3, 0.5, 1.55, 82.0, 70.0),
    "CAM_RIGHT": (1.3, -0.5, 1.55, -82.0, 70.0),
}
"""x, y, z in metres (nuScenes' mountings), yaw and horizontal field of view in degrees."""

SIX = tuple(_MOUNTS)[:6]


@dataclass(frozen=True, eq=False)
class Mount:
    """A camera of a rig: rendered size (height, width) with intrinsics, mounting, and how long after the sample it fires."""

    channel: str
    size: tuple[int, int]
    K: Array
    ego_SE3_camera: SE3
    delay_s: float


def look(yaw_rad: float, pitch_rad: float, position: tuple[float, float, float]) -> SE3:
    """Return a camera's mounting ego_SE3_camera.

    Args:
        yaw_rad: turn of the optical axis to the left.
        pitch_rad: turn of the optical axis down.
        position: (3) metres, in the ego frame.
    """
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    cp, sp = math.cos(pitch_rad), math.sin(pitch_rad)
    forward = np.array([c * cp, s * cp, -sp])
    right = np.array([s, -c, 0.0])
    return SE3(np.stack([right, np.cross(forward, right), forward], axis=1), np.array(position))


def draw_rig(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Mount, ...]:
    """Draw a rig for images of `size` (height, width): one third with 3 to 8 turned, zoomed cameras."""
    height, width = size
    other = rng.uniform() < 1 / 3
    channels = list(SIX)
    if other:
        count = int(rng.integers(3, 9))
        rest = [c for c in _MOUNTS if c != "CAM_FRONT"]
        if count <= 6:
            rest = rest[:5]
        channels = ["CAM_FRONT", *(rest[i] for i in sorted(rng.choice(len(rest), count - 1, replace=False)))]
    lift = float(rng.uniform(-0.3, 0.3)) if other else 0.0
    mounts = []
    for channel in channels:
        x, y, z, yaw, fov = _MOUNTS[channel]
        focal = width / 2 / math.tan(math.radians(fov) / 2)
        pitch = 0.0
        if other:
            yaw += float(rng.uniform(-25, 25))
            focal *= float(rng.uniform(0.8, 1.2))
            pitch = float(rng.uniform(-0.03, 0.03))
        # the principal point lies above the middle: a driving camera looks at the road (nuScenes crops the sky likewise)
        K = np.array([[focal, 0, width / 2 + rng.uniform(-0.01, 0.01) * width], [0, focal, height * 0.48], [0, 0, 1.0]])
        delay = float(rng.uniform(-0.05, 0.05))
        mounts.append(Mount(channel, size, K, look(math.radians(yaw), pitch, (x, y, z + lift)), delay))
    return tuple(mounts)

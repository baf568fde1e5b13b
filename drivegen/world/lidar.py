"""Lidar sweeps cast against the same geometry that the cameras see."""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import NDArray

from drivegen.scene.geometry import SE3, Array
from drivegen.world.cast import FAR, TILE_PX, bin_rectangles, nearest_hit, screen_bounds
from drivegen.world.classes import BUILDING, CLASSES
from drivegen.world.parts import CLASS, Parts
from drivegen.world.render import Prepared

BEAMS, AZIMUTHS = 32, 720
LOWEST_RAD, HIGHEST_RAD = math.radians(-30.67), math.radians(10.67)
RANGE_M = 90.0
_FACE_PX, _FOCAL_PX, _HEIGHT_PX = 192, 96.0, 320


@nb.njit(cache=True)
def _sweep(numbers, labels, bins, eye, rotation, face, out, found):  # type: ignore[no-untyped-def]
    """Cast the rays of one quarter of the sweep; out (BEAMS, AZIMUTHS / 4, 3) directions times range, found the class or -1."""
    bounds, starts, items = bins
    columns = (_FACE_PX + TILE_PX - 1) // TILE_PX
    beams, azimuths = found.shape
    quarter = azimuths // 4
    for beam in range(beams):
        tangent = np.tan(LOWEST_RAD + (HIGHEST_RAD - LOWEST_RAD) * beam / (beams - 1))
        for k in range(quarter):
            turn = (k + 0.5) * 2 * np.pi / azimuths - np.pi / 4
            x, y = np.tan(turn), -tangent / np.cos(turn)
            u, v = int(x * _FOCAL_PX + _FACE_PX / 2), int(y * _FOCAL_PX + _HEIGHT_PX / 2)
            cell = (v // TILE_PX) * columns + u // TILE_PX
            dx = rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2]
            dy = rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2]
            dz = rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2]
            limit = -eye[2] / dz if dz < 0 else FAR
            t, i = nearest_hit(numbers, labels, bounds, starts, items, cell, eye[0], eye[1], eye[2], dx, dy, dz, limit)
            norm = (dx * dx + dy * dy + dz * dz) ** 0.5
            found[beam, face * quarter + k] = -1
            if t * norm < RANGE_M:
                found[beam, face * quarter + k] = labels[i, CLASS] if i >= 0 else 0
                out[beam, face * quarter + k, 0] = t * dx
                out[beam, face * quarter + k, 1] = t * dy
                out[beam, face * quarter + k, 2] = t * dz


def _bins(parts: Parts, eye: Array, rotation: Array) -> tuple[Array, Array, Array]:
    pose = np.ascontiguousarray(np.concatenate([rotation.T, -(rotation.T @ eye)[:, None]], axis=1))
    K = np.array([[_FOCAL_PX, 0, _FACE_PX / 2], [0, _FOCAL_PX, _HEIGHT_PX / 2], [0, 0, 1.0]])
    bounds = screen_bounds(parts.numbers, len(parts.numbers), pose, K, _FACE_PX, _HEIGHT_PX, False, 0.02)
    bounds[:, :4] += (-1, -1, 1, 1)
    order = np.argsort(bounds[:, 4], kind="stable")
    return bounds, *bin_rectangles(bounds, order, TILE_PX, _FACE_PX // TILE_PX, _HEIGHT_PX // TILE_PX)


def sweep(prepared: Prepared, global_SE3_lidar: SE3) -> NDArray[np.float32]:
    """Return the points (N, 5) of one sweep in the lidar frame: x, y, z in metres, intensity 0-255, ring."""
    eye = global_SE3_lidar.translation - np.array([*prepared.offset, 0.0])
    points = np.zeros((BEAMS, AZIMUTHS, 3))
    found = np.full((BEAMS, AZIMUTHS), -1, dtype=np.int32)
    yaw = global_SE3_lidar.yaw_rad
    for face in range(4):
        a = yaw - face * math.pi / 2
        forward, right = np.array([math.cos(a), math.sin(a), 0.0]), np.array([math.sin(a), -math.cos(a), 0.0])
        rotation = np.ascontiguousarray(np.stack([right, np.array([0.0, 0.0, -1.0]), forward], axis=1))
        bins = _bins(prepared.parts, eye, rotation)
        _sweep(prepared.parts.numbers, prepared.parts.labels, bins, eye, rotation, face, points, found)
    hit = found >= 0
    local = points[hit] @ global_SE3_lidar.rotation
    reflect = np.array([12.0 if i < BUILDING else 30.0 + 5 * (i % 7) for i in range(len(CLASSES))])[found[hit]]
    rings = np.broadcast_to(np.arange(BEAMS)[:, None], found.shape)[hit]
    return np.concatenate([local, reflect[:, None], rings[:, None]], axis=1).astype(np.float32)

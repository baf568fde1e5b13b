"""Noise that overlapping views share: drawn on a sphere around the vehicle and seen by each camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivegen.sampling.noise import generator_of
from drivegen.scene.cameras import Camera
from drivegen.scene.geometry import SE3, Array, project

RADIUS_M = 30.0
"""Distance at which corresponding cells of two views see the same noise: about that of façades beside a street."""

POINTS_PER_CELL = 256
"""Points on the whole sphere for each cell of one view; a nuScenes camera then has 3 (corner) to 12 points in a cell."""


def sphere_noise(
    seed: int, cameras: Sequence[Camera], shape: tuple[int, int, int], generators: Sequence[torch.Generator]
) -> Tensor:
    """Draw standard normal noise (N, C, h, w) in fp32 on the CPU that is equal where cameras see the same part of a sphere.

    Points spread evenly over a sphere of RADIUS_M around the ego origin carry independent normal values; a cell of a view's
    latents is the sum of the values that it sees over the square root of their number. Each point falls into one cell of a
    view, so each single view is exactly white noise. The sum over a footprint is the integral noise of Chang et al., "How I
    Warped Your Noise" (2024).

    Args:
        seed: draws the values on the sphere.
        cameras: the N views.
        shape: (C, h, w) of a view's latents.
        generators: one per camera, for cells that see no point.
    """
    channels, height, width = shape
    points = _spread(2 ** math.ceil(math.log2(POINTS_PER_CELL * height * width)))
    field = torch.randn(len(points), channels, generator=generator_of(f"{seed}/sphere"), dtype=torch.float32)
    out = []
    for camera, generator in zip(cameras, generators, strict=True):
        seen, cells = map(torch.from_numpy, _seen(_view(camera), len(points), height, width))
        total = torch.zeros(height * width, channels, dtype=torch.float32).index_add_(0, cells, field[seen])
        count = torch.bincount(cells, minlength=height * width)[:, None]
        own = torch.randn(height * width, channels, generator=generator, dtype=torch.float32)
        out.append(torch.where(count > 0, total / count.clamp(min=1).sqrt(), own).T.reshape(shape))
    return torch.stack(out)


@lru_cache(maxsize=2)
def _spread(count: int) -> Array:
    """Place points (count, 3) evenly on the sphere along a Fibonacci spiral, in metres in the ego frame."""
    i = np.arange(count) + 0.5
    z, angle = 1 - 2 * i / count, i * math.pi * (3 - math.sqrt(5))
    ring = np.sqrt(1 - z * z)
    return RADIUS_M * np.stack([ring * np.cos(angle), ring * np.sin(angle), z], -1)


_View = tuple[bytes, bytes, bytes, tuple[int, int]]
"""A camera without its place in the world: intrinsics, mounting (rotation, translation), size of its images."""


def _view(camera: Camera) -> _View:
    pose = camera.ego_SE3_camera
    return camera.K_image.tobytes(), pose.rotation.tobytes(), pose.translation.tobytes(), camera.image_size


@lru_cache(maxsize=16)  # the frames of a drive have the same rig
def _seen(view: _View, count: int, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    K, rotation, translation = (np.frombuffer(part) for part in view[:3])
    K, pose, points = K.reshape(3, 3), SE3(rotation.reshape(3, 3), translation), _spread(count)
    ahead = _ahead(K, pose, view[3], points)
    seen, cells = _cells(K, pose, view[3], points[ahead], (height, width))
    return ahead[seen], cells


def _ahead(K: Array, pose: SE3, image_size: tuple[int, int], points: Array) -> NDArray[np.int64]:
    """Return the indices of the points of the sphere within a cone that holds all that a camera sees: most are not."""
    corners = np.array([[x, y, 1.0] for x in (0, image_size[0]) for y in (0, image_size[1])]) @ np.linalg.inv(K).T
    widest = np.arctan2(np.hypot(corners[:, 0], corners[:, 1]), corners[:, 2]).max()
    # From the middle of the sphere a point is at most so much further off the axis than from a camera inside of it.
    off = float(np.linalg.norm(pose.translation)) / RADIUS_M
    aside = math.asin(off) if off < 1 else math.pi
    least = math.cos(min(math.pi, float(widest) + aside)) - 1e-6
    return np.flatnonzero(points @ pose.rotation[:, 2] >= RADIUS_M * least)


def rays_of(camera: Camera, height: int, width: int) -> Array:
    """Return the directions (height · width, 3) of rays through the middles of a camera's cells, z = 1 along its optical axis.

    Args:
        camera: the camera, in whose frame they are.
        height: number of rows of cells.
        width: number of cells in a row.
    """
    rows, columns = (values.ravel() for values in np.mgrid[:height, :width])
    pixels = (np.stack([columns, rows], -1) + 0.5) * np.array(camera.image_size) / (width, height)
    found: Array = np.c_[pixels, np.ones(len(pixels))] @ np.linalg.inv(camera.K_image).T
    return found


def sphere_depth(camera: Camera, rays: Array) -> Array:
    """Return at what distance along the optical axis rays (P, 3) of `rays_of` meet the sphere: (P,) in metres, NaN if never."""
    out, start = rays @ camera.ego_SE3_camera.rotation.T, camera.ego_SE3_camera.translation
    half, square = out @ start, (out**2).sum(-1)
    with np.errstate(invalid="ignore"):
        depth: Array = (np.sqrt(half**2 + square * (RADIUS_M**2 - start @ start)) - half) / square
    return depth


def cells_that_see(camera: Camera, points: Array, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the points that a camera sees, and the cells in which it sees them, numbered along rows.

    Args:
        camera: the camera.
        points: (P, 3) metres, in the global frame.
        height: number of rows of cells.
        width: number of cells in a row.
    """
    return _cells(camera.K_image, camera.global_SE3_camera, camera.image_size, points, (height, width))


def _cells(
    K: Array, camera: SE3, image_size: tuple[int, int], points: Array, cells: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    height, width = cells
    size = np.array(image_size)
    pixels, depth = project(K, camera.inverse().transform(points))
    inside = (depth > 0) & (pixels >= 0).all(-1) & (pixels < size).all(-1)
    at = np.floor(pixels[inside] * (np.array([width, height]) / size)).astype(np.int64)
    return np.flatnonzero(inside), at[:, 1] * width + at[:, 0]

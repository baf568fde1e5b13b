"""Rigid transforms, pinhole projection and near-plane clipping.

Transforms are named ``target_SE3_source``: ``ego_SE3_camera.transform(p_camera)`` is in the ego frame, and adjacent names
match in a product. Quaternions are (w, x, y, z). Camera frame: z forward, x right, y down; ego frame: x forward, y left,
z up; lidar frame: x right, y forward, z up. Pixel coordinates start at the image's upper left corner: the pixel in column 3
covers 3 to 4 and has its centre at 3.5, so that scaling an image scales them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drivegen.support import values
from drivegen.support.errors import InputError

Array = NDArray[np.float64]
T = TypeVar("T")

FAR_AWAY_M = 1e9
"""Coordinates beyond this are a mistake: 25 times around the Earth, where a double still tells a tenth of a micrometre."""

NEAR_M = 0.1
"""Distance of the near plane in front of a camera, in metres: nearer geometry is clipped, not mirrored."""


def numbers(given: ArrayLike, what: str) -> Array:
    """Copy numbers of any shape into an array; InputError for anything else (a text, rows of different lengths)."""
    try:
        return np.array(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what} is {given!r:.80}; it must be an array of numbers") from error


def finite(given: ArrayLike, shape: tuple[int, ...], what: str) -> Array:
    """Copy finite numbers into a read-only array; raises InputError for other values or another shape.

    Args:
        given: any sequence or array.
        shape: the shape that it must have.
        what: its name in the error.
    """
    array = numbers(given, what)
    if array.shape != shape:
        raise InputError(f"{what} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{what} is not finite: {array.tolist()}")
    array.flags.writeable = False
    return array


def whole(value: Any, low: int, high: int, what: str) -> int:
    """Return a whole number given in any type (a NumPy integer, 32.0) as an int; raises InputError for anything else.

    Args:
        value: the number.
        low: smallest allowed value.
        high: greatest allowed value.
        what: its name in the error.
    """
    try:
        number = int(value)
        if number == value and low <= number <= high and not isinstance(value, (bool, np.bool_)):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"{what} is {value!r}; it must be a whole number from {low} to {high}")


def instance_of(value: Any, kind: type, what: str, fix: str = "") -> None:
    """Raise InputError for a value of another type, such as a matrix in place of an SE3.

    Args:
        value: any object.
        kind: the type that it must have.
        what: its name in the error.
        fix: how to make the right type, for the error.
    """
    if not isinstance(value, kind):
        raise InputError(f"{what} is {type(value).__name__}, not {kind.__name__}{fix and f'; {fix}'}")


def items_of(given: Any, kind: type[T], what: str) -> tuple[T, ...]:
    """Return a sequence as a tuple; raises InputError where it is none, or an item has another type.

    Args:
        given: the sequence.
        kind: the type of its items.
        what: its name in the error.
    """
    try:
        items = tuple(given)
    except TypeError as error:
        raise InputError(f"{what} is {type(given).__name__}; give a list of {kind.__name__}") from error
    if not all(isinstance(value, kind) for value in items):
        for index, value in enumerate(items):
            instance_of(value, kind, f"{what}[{index}]")
    return items


def file_path(value: Any, what: str) -> Path | None:
    """Return a file name of any type as a path, None as None; InputError for anything else (a picture itself, say)."""
    if value is None or isinstance(value, (str, PurePath)):
        return None if value is None else Path(value)
    raise InputError(f"{what} is {type(value).__name__}, not the path of a file; save it to one and give its name")


def timestamp(value: Any, what: str) -> int:
    """Return a time in microseconds since 1970 as an int; InputError outside of the years 5 to 9892, as nanoseconds are."""
    try:
        return whole(value, -62 * 10**15, 250 * 10**15, f"{what}: timestamp_us")
    except InputError as error:
        raise InputError(f"{error}, in microseconds (nanoseconds need dividing by 1000)") from error


@dataclass(frozen=True, eq=False)
class SE3:
    """A rigid transform: ``transform(p) = rotation @ p + translation``.

    rotation (3, 3) orthonormal with determinant 1; translation (3,) in metres. Raises InputError when either is not finite
    or the rotation is not a rotation to 1e-3.
    """

    rotation: Array
    translation: Array

    def __post_init__(self) -> None:
        rotation, translation = numbers(self.rotation, "SE3: rotation"), numbers(self.translation, "SE3: translation")
        if rotation.shape != (3, 3) or translation.shape != (3,):
            raise InputError(f"SE3 needs a (3, 3) rotation and a (3,) translation, got {rotation.shape}, {translation.shape}")
        if not (np.isfinite(rotation).all() and np.isfinite(translation).all()):
            raise InputError(f"SE3 is not finite: rotation {rotation.tolist()}, translation {translation.tolist()}")
        if np.abs(translation).max() > FAR_AWAY_M:
            raise InputError(f"SE3 is {translation.tolist()} m away; coordinates go to {FAR_AWAY_M:g} m")
        if abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
            raise InputError(f"not a rotation matrix: {rotation.tolist()}; its rows must be orthonormal, determinant +1")
        rotation.flags.writeable = translation.flags.writeable = False
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)

    @classmethod
    def identity(cls) -> SE3:
        """Return the transform that changes nothing."""
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_quaternion(cls, quaternion: ArrayLike, translation: ArrayLike) -> SE3:
        """Build from a quaternion (w, x, y, z) of unit length to 1e-3 and a translation (3,) in metres."""
        q = numbers(quaternion, "quaternion")
        if q.shape != (4,) or not np.isfinite(q).all() or abs(np.linalg.norm(q) - 1) > 1e-3:
            raise InputError(f"quaternion {q.tolist()} is not four finite numbers of unit length (w, x, y, z)")
        w, x, y, z = q / np.linalg.norm(q)
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        return cls(rotation, numbers(translation, "SE3: translation"))

    @classmethod
    def from_yaw(cls, yaw_rad: float, translation: ArrayLike = (0.0, 0.0, 0.0)) -> SE3:
        """Build a turn about z (counter-clockwise seen from above) followed by a translation (3,) in metres."""
        yaw_rad = values.number(yaw_rad, "SE3: yaw_rad")
        c, s = math.cos(yaw_rad), math.sin(yaw_rad)
        return cls(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), numbers(translation, "SE3: translation"))

    @staticmethod
    def check(value: Any, what: str) -> None:
        """Raise InputError where a value is no SE3: a 4x4 matrix, say."""
        instance_of(value, SE3, what, "make one of a 4x4 matrix m with SE3(m[:3, :3], m[:3, 3])")

    @property
    def quaternion(self) -> Array:
        """The rotation as (w, x, y, z) with w >= 0 (Shepperd 1978: the largest component is found first)."""
        r = self.rotation
        squares = np.array(
            [
                1 + r[0, 0] + r[1, 1] + r[2, 2],
                1 + r[0, 0] - r[1, 1] - r[2, 2],
                1 - r[0, 0] + r[1, 1] - r[2, 2],
                1 - r[0, 0] - r[1, 1] + r[2, 2],
            ]
        )
        i = int(squares.argmax())
        wx, wy, wz = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
        xy, xz, yz = r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1]
        rows = [[squares[0], wx, wy, wz], [wx, squares[1], xy, xz], [wy, xy, squares[2], yz], [wz, xz, yz, squares[3]]]
        q = np.array(rows[i])
        q /= np.linalg.norm(q)
        return -q if q[0] < 0 else q

    @property
    def yaw_rad(self) -> float:
        """Heading of the source's x axis about the target's z axis, in radians."""
        return math.atan2(self.rotation[1, 0], self.rotation[0, 0])

    @property
    def matrix(self) -> Array:
        """The homogeneous (4, 4) matrix."""
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = self.rotation, self.translation
        return out

    def inverse(self) -> SE3:
        """Return ``source_SE3_target``."""
        return SE3(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: SE3) -> SE3:
        return SE3(self.rotation @ other.rotation, self.rotation @ other.translation + self.translation)

    def transform(self, points: ArrayLike) -> Array:
        """Map points (..., 3) from the source frame to the target frame, in metres."""
        return np.asarray(points, dtype=np.float64) @ self.rotation.T + self.translation


def project(K: Array, points_camera: ArrayLike) -> tuple[Array, Array]:
    """Project camera-frame points (..., 3) to pixels (..., 2) and depths (...) in metres.

    Points at or behind the camera plane get NaN pixels, never mirrored ones; clip first (`clip_polygon`, `clip_segments`).
    """
    points = np.asarray(points_camera, dtype=np.float64)
    depth = points[..., 2]
    homogeneous = points @ K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = np.where(depth[..., None] > 0, homogeneous[..., :2] / homogeneous[..., 2:], np.nan)
    return pixels, depth


def clip_polygon(points_camera: Array, near_m: float = NEAR_M) -> Array:
    """Clip a planar polygon (P, 3) of the camera frame to z >= near_m; (Q, 3), Q = 0 when all of it is behind.

    One plane of Sutherland and Hodgman (1974).
    """
    z = points_camera[:, 2]
    if (z >= near_m).all():
        return points_camera
    if (z < near_m).all():
        return points_camera[:0]
    out = []
    for a, b in zip(points_camera, np.roll(points_camera, -1, axis=0), strict=True):
        if a[2] >= near_m:
            out.append(a)
        if (a[2] >= near_m) != (b[2] >= near_m):
            out.append(a + (b - a) * ((near_m - a[2]) / (b[2] - a[2])))
    return np.array(out).reshape(-1, 3)


def clip_segments(ends: Array, near_m: float = NEAR_M) -> Array:
    """Clip camera-frame segments (..., 2, 3) to z >= near_m; NaN where all of one is behind."""
    a, b = ends[..., 0, :], ends[..., 1, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = a + (b - a) * ((near_m - a[..., 2]) / (b[..., 2] - a[..., 2]))[..., None]
    a_in, b_in = a[..., 2:] >= near_m, b[..., 2:] >= near_m
    out = np.stack([np.where(a_in, a, cut), np.where(b_in, b, cut)], axis=-2)
    return np.where((a_in | b_in)[..., None, :], out, np.nan)

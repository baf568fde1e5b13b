"""Pinhole cameras on a vehicle: calibration, the step to the generated image, and the ring that several of them make."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from drivegen.scene.geometry import SE3, Array, file_path, finite, instance_of, timestamp, whole
from drivegen.support import values
from drivegen.support.errors import InputError

NEIGHBOUR_LIMIT_RAD = math.radians(100.0)
"""A camera further round than this is not a neighbour."""

MAX_SIDE_PX = 1_000_000
"""Width and height of a picture beyond this are a mistake."""


@dataclass(frozen=True)
class ResizeCrop:
    """The step from a native image to the generated one: scale by `scale`, then cut (left_px, top_px, width_px, height_px).

    left_px and top_px are in pixels of the scaled image. Raises InputError for numbers that are none, or no size.
    """

    scale: float
    left_px: float
    top_px: float
    width_px: int
    height_px: int

    def __post_init__(self) -> None:
        for name in ("scale", "left_px", "top_px"):
            object.__setattr__(self, name, values.number(getattr(self, name), f"resize: {name}"))
        if not self.scale > 0:
            raise InputError(f"resize: scale {self.scale} must be above 0")
        for name in ("width_px", "height_px"):
            object.__setattr__(self, name, whole(getattr(self, name), 1, MAX_SIDE_PX, f"resize: {name}"))

    @classmethod
    def cover(cls, native: tuple[int, int], size: tuple[int, int], keep_row_px: float | None = None) -> ResizeCrop:
        """Fill `size` (width, height) from a `native` (width, height) image: sides cut evenly, height cut from the top.

        The road is at the bottom of a driving image, so the sky is what goes (MagicDrive does the same: 1600x900 to 400x225,
        one row off the top).

        Args:
            native: (width, height) in pixels.
            size: (width, height) of the generated image.
            keep_row_px: a native row that stays at its share of the height, so that height is cut above and below it; None
                cuts from the top alone.
        """
        scale = max(size[0] / native[0], size[1] / native[1])
        over = native[1] * scale - size[1]
        top = over if keep_row_px is None else over * min(max(keep_row_px / native[1], 0.0), 1.0)
        return cls(scale, (native[0] * scale - size[0]) / 2, top, size[0], size[1])

    @property
    def matrix(self) -> Array:
        """(3, 3): homogeneous native pixels to generated pixels."""
        return np.array([[self.scale, 0, -self.left_px], [0, self.scale, -self.top_px], [0, 0, 1.0]])


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera at its own moment.

    K_native (3, 3) in pixels of the native image; ego_SE3_camera the mounting; global_SE3_ego the ego pose when *this* camera
    fired (nuScenes cameras fire at different times); image_path the picture, where there is one.
    """

    channel: str
    K_native: Array
    width_px: int
    height_px: int
    ego_SE3_camera: SE3
    global_SE3_ego: SE3
    timestamp_us: int = 0
    image_path: Path | None = None
    resize: ResizeCrop | None = None

    def __post_init__(self) -> None:
        where = f"camera {self.channel!r}"
        if not values.text(self.channel, "camera: channel"):
            raise InputError("camera: channel is empty; name it, such as 'CAM_FRONT'")
        K = finite(self.K_native, (3, 3), f"{where}: intrinsics")
        if K[0, 0] <= 0 or K[1, 1] <= 0 or not np.allclose(K[[1, 2, 2, 2], [0, 0, 1, 2]], (0, 0, 0, 1)):
            fix = "fx, fy > 0, 0 below the diagonal and a last row 0 0 1 are needed"
            raise InputError(f"{where}: intrinsics {K.tolist()} are not a pinhole's; {fix}")
        if min(K[0, 0], K[1, 1]) < 1e-3 or np.abs(K).max() > 1e8:
            raise InputError(f"{where}: intrinsics {K.tolist()} are out of range; they are in pixels, 0.001 to 1e8")
        for name in ("ego_SE3_camera", "global_SE3_ego"):
            SE3.check(getattr(self, name), f"{where}: {name}")
        for name in ("width_px", "height_px"):
            object.__setattr__(self, name, whole(getattr(self, name), 1, MAX_SIDE_PX, f"{where}: image size: {name}"))
        object.__setattr__(self, "timestamp_us", timestamp(self.timestamp_us, where))
        object.__setattr__(self, "image_path", file_path(self.image_path, f"{where}: image_path"))
        object.__setattr__(self, "K_native", K)
        if self.resize is not None:
            instance_of(self.resize, ResizeCrop, f"{where}: resize")

    @property
    def K_image(self) -> Array:
        """Intrinsics (3, 3) in pixels of the generated image."""
        return self.K_native if self.resize is None else self.resize.matrix @ self.K_native

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the generated image, in pixels."""
        return (self.width_px, self.height_px) if self.resize is None else (self.resize.width_px, self.resize.height_px)

    @property
    def global_SE3_camera(self) -> SE3:
        """Camera pose in the global frame when it fired."""
        return self.global_SE3_ego @ self.ego_SE3_camera

    @property
    def yaw_rad(self) -> float:
        """Direction of the optical axis seen from above, in the ego frame (0 = ahead, counter-clockwise)."""
        return math.atan2(self.ego_SE3_camera.rotation[1, 2], self.ego_SE3_camera.rotation[0, 2])

    def resized(self, width_px: int, height_px: int) -> Camera:
        """Return this camera set to generate width_px x height_px images (`ResizeCrop.cover`).

        A portrait camera, not wider than high, keeps its principal point where it is in the picture: cut from the top, it would
        show asphalt alone. A resize that gives this size already stays as it is. Warns where the horizon is cut off.
        """
        for side in (width_px, height_px):
            whole(side, 1, MAX_SIDE_PX, f"camera {self.channel!r}: generated image size {width_px!r}x{height_px!r}: side")
        if self.resize is not None and (self.resize.width_px, self.resize.height_px) == (width_px, height_px):
            return self
        keep = float(self.K_native[1, 2]) if self.height_px >= self.width_px else None
        resize = ResizeCrop.cover((self.width_px, self.height_px), (width_px, height_px), keep)
        row = self.horizon_row_px
        if row is not None and 0 <= row < self.height_px and not 0 <= row * resize.scale - resize.top_px < height_px:
            native, image = f"{self.width_px}x{self.height_px}", f"{width_px}x{height_px}"
            fix = "generate higher images, or give the camera a resize of its own"
            warnings.warn(f"camera {self.channel!r}: {image} images of its {native} have no horizon; {fix}", stacklevel=2)
        return replace(self, resize=resize)

    def with_picture(self, image_path: str | Path) -> Camera:
        """Return the camera that took the generated image: its native size and intrinsics are those of that image."""
        width, height = self.image_size
        taken = {"K_native": self.K_image, "width_px": width, "height_px": height, "image_path": image_path}
        return replace(self, resize=None, **taken)  # type: ignore[arg-type]

    @property
    def horizon_row_px(self) -> float | None:
        """Row of the native image where level ground ends, straight ahead; None for a camera that looks straight down."""
        axis = self.ego_SE3_camera.rotation[:, 2]
        level = self.ego_SE3_camera.rotation.T @ np.array([axis[0], axis[1], 0.0])
        if level[2] < 1e-6:
            return None
        return float(self.K_native[1, 1] * level[1] / level[2] + self.K_native[1, 2])


def ring_order(cameras: Iterable[Camera]) -> tuple[Camera, ...]:
    """Sort cameras clockwise seen from above, starting left of the most forward one (FL, F, FR, BR, B, BL)."""
    clockwise = sorted(cameras, key=lambda c: (-c.yaw_rad, c.channel))
    if not clockwise:
        return ()
    front = min(range(len(clockwise)), key=lambda i: (abs(clockwise[i].yaw_rad), clockwise[i].channel))
    start = (front - 1) % len(clockwise)
    return tuple(clockwise[start:] + clockwise[:start])


def ring_neighbours(cameras: tuple[Camera, ...]) -> tuple[tuple[int, ...], ...]:
    """Give each camera of a ring the indices of the next one on either side within 100 degrees; duplicates merge."""
    count = len(cameras)

    def apart(a: Camera, b: Camera) -> float:
        return abs((a.yaw_rad - b.yaw_rad + math.pi) % (2 * math.pi) - math.pi)

    table = []
    for i in range(count):
        sides = dict.fromkeys(j for j in ((i - 1) % count, (i + 1) % count) if j != i)
        table.append(tuple(j for j in sides if apart(cameras[i], cameras[j]) <= NEIGHBOUR_LIMIT_RAD))
    return tuple(table)

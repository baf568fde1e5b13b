"""Sample files of a dataset being written: pictures, lidar points, the map mask."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drivegen.datasets.nuscenes.making import Making
from drivegen.scene import Camera, Frame, VectorMap
from drivegen.scene.picture_checks import MAX_PIXELS
from drivegen.scene.pictures import grey_png, open_image
from drivegen.support.errors import InputError

MASK_MAX_PIXELS = 400_000_000
"""A location larger than this at 10 px/m gets a 1x1 mask: the devkit's `render_egoposes_on_map` is then of no use there."""


@dataclass(frozen=True)
class Sample:
    """A sample file that was checked: `there` names it below root if it exists; if not, `stem`, `suffix` and `read` say what to
    write.
    """

    suffix: str
    there: str = ""
    stem: str = ""
    read: Callable[[], bytes] = bytes

    def add(self, made: Making) -> str:
        """Write the file, if it is not there; return its name relative to root."""
        return self.there or _add(made, self.stem, self.suffix, self.read())


def find_image(root: Path, camera: Camera, stem: str, where: str) -> Sample:
    """Check the header of a camera's picture, and choose: use it in place, copy it, or write a grey one.

    Args:
        root: the dataset's folder.
        camera: the camera.
        stem: name of a written file, without its ending.
        where: names the frame in the error.

    Raises InputError where readers would refuse the picture for this camera.
    """
    size = (camera.width_px, camera.height_px)
    if camera.image_path is None:
        if camera.width_px * camera.height_px > MAX_PIXELS:
            fix = "correct width_px and height_px"
            raise InputError(f"{where}: its picture would have {size[0]}x{size[1]} pixels, more than {MAX_PIXELS:,}; {fix}")
        return Sample(".png", stem=stem, read=partial(grey_png, *size))
    open_image(camera.image_path, where, size, "camera").close()
    return found_or_copied(root, camera.image_path, stem, camera.image_path.suffix)


def find_lidar(root: Path, source: Path | None, stem: str, where: str) -> Sample:
    """Check the file of lidar points (float32 x, y, z, intensity, ring), and choose: use it in place, or copy it.

    Args:
        root: the dataset's folder.
        source: the file; None writes an empty one.
        stem: name of a written file, without its ending.
        where: names the frame in the error.
    """
    if source is None:
        return Sample(".pcd.bin", stem=stem)
    if not source.is_file():
        raise InputError(f"{where}: lidar file {source} is missing; restore it, or leave out lidar_path")
    if size := source.stat().st_size % 20:
        fix = "points are rows of five float32: x, y, z, intensity, ring"
        raise InputError(f"{where}: lidar file {source} has {size} bytes more than whole points; {fix}")
    return found_or_copied(root, source, stem, ".pcd.bin")


def found_or_copied(root: Path, source: Path, stem: str, suffix: str) -> Sample:
    """Choose for an existing file: use it in place where it lies below root, else copy it.

    Args:
        root: the dataset's folder.
        source: the file.
        stem: name of the copy, without its ending.
        suffix: the copy's ending.
    """
    # By its name too: samples/ may be a link to another disk, and what lies behind it is below root for readers.
    for path, below in ((source.resolve(), root.resolve()), (Path(os.path.abspath(source)), Path(os.path.abspath(root)))):
        if path.is_relative_to(below) and path.exists() and path.samefile(source):
            return Sample(path.suffix, there=path.relative_to(below).as_posix())
    return Sample(suffix, stem=stem, read=source.read_bytes)


def _add(made: Making, stem: str, suffix: str, data: bytes) -> str:
    """Write a file under a name that its content is part of: scenes or datasets in one root never take each other's files."""
    name = f"{stem}-{hashlib.sha256(data).hexdigest()[:12]}{suffix}"
    path = made.root / name
    if not os.path.lexists(path):
        made.file(name, data)
    elif not path.is_file() or path.read_bytes() != data:
        raise InputError(f"{path} exists already and is not what its name says; remove it, or choose another root")
    return name


def count_points(frame: Frame) -> list[int]:
    """Count the lidar points in each box whose `num_lidar_pts` is None; the devkit's `points_in_box`, bit for bit."""
    known = [box.num_lidar_pts for box in frame.boxes]
    if frame.lidar_path is None or None not in known:
        return [int(count or 0) for count in known]
    points = np.fromfile(frame.lidar_path, dtype=np.float32).reshape(-1, 5)[:, :3]
    return [_count(frame, i, points) if count is None else int(count) for i, count in enumerate(known)]


def points_per_box(frame: Frame, points: NDArray[Any]) -> list[int]:
    """Count the points (N, 3 or more) of a sweep, in the lidar frame, in each of a frame's boxes, as a file would hold them."""
    rounded = points[:, :3].astype(np.float32)
    return [_count(frame, i, rounded) for i in range(len(frame.boxes))]


def _count(frame: Frame, index: int, points: np.ndarray) -> int:
    box = frame.boxes[index]
    lidar_SE3_global = (frame.global_SE3_ego @ frame.ego_SE3_lidar).inverse()
    center = lidar_SE3_global.transform(box.global_SE3_object.translation)
    close = points[((points - center) ** 2).sum(1) <= (box.size_wlh_m**2).sum() / 4 + 0.01]
    if not len(close):
        return 0
    from nuscenes.utils.data_classes import Box
    from nuscenes.utils.geometry_utils import points_in_box
    from pyquaternion import Quaternion

    pose = box.global_SE3_object
    other = Box(pose.translation.tolist(), box.size_wlh_m.tolist(), Quaternion(pose.quaternion.tolist()))
    for step in (frame.global_SE3_ego, frame.ego_SE3_lidar):  # the devkit's own order of operations
        other.translate(-step.translation)
        other.rotate(Quaternion(step.quaternion.tolist()).inverse)
    return int(points_in_box(other, close.T).sum())


def add_map_mask(made: Making, location: str, vector_map: VectorMap | None) -> str:
    """Write the mask of drivable area and pavement that the devkit requires of a location (10 px/m, origin at the lower left).

    Args:
        made: where files are written.
        location: name of the map.
        vector_map: the map; None writes an empty mask.
    """
    import cv2

    layers = ("drivable_area", "walkway")
    areas = [] if vector_map is None else [area for layer in layers for area in vector_map.polygons.get(layer, ())]
    width = height = 1
    if areas:
        width, height = (int(v) for v in np.ceil(np.max([a.exterior.max(0) for a in areas], axis=0) * 10).clip(1))
    if width * height > MASK_MAX_PIXELS:
        areas, width, height = [], 1, 1
    mask = np.zeros((height, width), np.uint8)
    for area in areas:
        rings = (ring * (10, -10) + (0, height) for ring in (area.exterior, *area.holes))
        cv2.fillPoly(mask, [ring.round().astype(np.int32) for ring in rings], 255)
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return _add(made, f"maps/{location or 'none'}", ".png", buffer.getvalue())

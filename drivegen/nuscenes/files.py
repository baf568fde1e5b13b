"""Sample files of a dataset being written: pictures, lidar points, the map mask."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from drivegen.errors import InputError
from drivegen.nuscenes.images import grey_png
from drivegen.scene import Camera, Frame, VectorMap

MASK_MAX_PIXELS = 400_000_000
"""A location larger than this at 10 px/m gets a 1x1 mask: the devkit's `render_egoposes_on_map` is then of no use there."""


def place_image(root: Path, camera: Camera, stem: str) -> str:
    """Return the file name, relative to root, of a camera's picture: where it is, a copy, or a grey one."""
    if camera.image_path is not None:
        source = Path(camera.image_path)
        return _place(root, source, f"samples/{camera.channel}/{stem}", source.suffix, f"camera {camera.channel!r}")
    return _add(root, f"samples/{camera.channel}/{stem}", ".png", grey_png(camera.width_px, camera.height_px))


def place_lidar(root: Path, source: Path | None, stem: str) -> str:
    """Return the file name, relative to root, of the lidar points (float32 x, y, z, intensity, ring)."""
    stem = f"samples/LIDAR_TOP/{stem}"
    return _add(root, stem, ".pcd.bin", b"") if source is None else _place(root, Path(source), stem, ".pcd.bin", "LIDAR_TOP")


def _place(root: Path, source: Path, stem: str, suffix: str, where: str) -> str:
    if not source.is_file():
        raise InputError(f"{where}: file {source} is missing")
    if source.resolve().is_relative_to(root.resolve()):
        return source.resolve().relative_to(root.resolve()).as_posix()
    return _add(root, stem, suffix, source.read_bytes())


def _add(root: Path, stem: str, suffix: str, data: bytes) -> str:
    """Write a file under a name that its content is part of: scenes or datasets in one root never take each other's files."""
    name = f"{stem}-{hashlib.sha256(data).hexdigest()[:12]}{suffix}"
    path = root / name
    if path.is_file():
        if path.read_bytes() != data:
            raise InputError(f"{path} exists already and is not what its name says; remove it, or choose another root")
        return name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
    return name


def count_points(frame: Frame, lidar: Path) -> list[int]:
    """Count the lidar points in each box whose `num_lidar_pts` is None; the devkit's `points_in_box`, bit for bit."""
    if all(box.num_lidar_pts is not None for box in frame.boxes):
        return [int(box.num_lidar_pts or 0) for box in frame.boxes]
    values = np.fromfile(lidar, dtype=np.float32)
    if len(values) % 5:
        raise InputError(f"lidar file {lidar} holds {len(values)} numbers, not rows of five (x, y, z, intensity, ring)")
    points = values.reshape(-1, 5)[:, :3]
    known = [box.num_lidar_pts for box in frame.boxes]
    return [_count(frame, i, points) if count is None else int(count) for i, count in enumerate(known)]


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


def place_map_mask(root: Path, location: str, vector_map: VectorMap | None) -> str:
    """Write the mask of drivable area and pavement that the devkit wants of a location (10 px/m, origin at the lower left)."""
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
    return _add(root, f"maps/{location or 'none'}", ".png", buffer.getvalue())

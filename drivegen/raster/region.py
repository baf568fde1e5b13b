"""Parts of the picture: masks from pictures, polygons in pixels, or boxes of the scene."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from drivegen.raster.boxes import box_faces
from drivegen.scene import Box3D, Camera, Frame
from drivegen.support.errors import InputError

Mask = NDArray[np.float32]


def region_mask(frame: Frame, region: Any) -> Mask:
    """Turn a region into masks (V, H, W) of 0 to 1 at the generated size, a view each; 1 = inside.

    A region is a box (`Box3D`, or the instance name of one of the frame's), several of them, or by channel what is inside of
    that camera's picture (of others, nothing): True for all, a mask (PIL image, or array (H, W) of bool, 0 to 1, or uint8 0 to
    255), or a polygon as a list of (x, y) pixels of the generated image. Raises InputError for anything else; warns when
    nothing is inside.
    """
    if isinstance(region, Mapping):
        for channel in region:
            frame.camera(channel)
        masks = [_view(camera, region.get(camera.channel, False)) for camera in frame.cameras]
    else:
        boxes = [_box(frame, one) for one in ([region] if isinstance(region, (str, Box3D)) else _several(region))]
        masks = [_of_boxes(camera, boxes) for camera in frame.cameras]
    out = np.stack(masks)
    if not out.any():
        warnings.warn(f"frame {frame.token!r}: nothing of the region is in any camera's picture", stacklevel=2)
    return out


def _several(region: Any) -> Sequence[Any]:
    if isinstance(region, Sequence) and region and all(isinstance(one, (str, Box3D)) for one in region):
        return region
    raise InputError(f"a region is a box, its instance name, several of these, or a mask by channel; not {region!r:.80}")


def _box(frame: Frame, box: str | Box3D) -> Box3D:
    return frame.box(box) if isinstance(box, str) else box


def _of_boxes(camera: Camera, boxes: Sequence[Box3D]) -> Mask:
    width, height = camera.image_size
    mask = np.zeros((height, width), np.float32)
    for box in boxes:
        _fill(mask, shapely.union_all([shapely.make_valid(shapely.Polygon(face.pixels)) for face in box_faces(camera, box)]))
    return mask


def _fill(mask: Mask, shape: BaseGeometry) -> None:
    """Set the pixels whose centre lies in a shape."""
    if shape.is_empty:
        return
    height, width = mask.shape
    low, high = np.array(shape.bounds).reshape(2, 2).clip(0, (width, height))
    (left, top), (right, bottom) = np.floor(low).astype(int), np.ceil(high).astype(int)
    ys, xs = np.mgrid[top:bottom, left:right] + 0.5
    shapely.prepare(shape)
    mask[top:bottom, left:right][shapely.contains_xy(shape, xs, ys)] = 1


def _view(camera: Camera, given: Any) -> Mask:
    width, height = camera.image_size
    if isinstance(given, bool):
        return np.full((height, width), given, np.float32)
    if isinstance(given, (list, tuple)):
        try:
            polygon = shapely.Polygon(np.array(given, dtype=np.float64).reshape(-1, 2))
        except (ValueError, TypeError, shapely.errors.GEOSException) as error:
            raise InputError(f"{camera.channel}: {given!r:.80} is not a polygon of three or more (x, y) pixels") from error
        mask = np.zeros((height, width), np.float32)
        _fill(mask, shapely.make_valid(polygon))
        return mask
    if hasattr(given, "convert"):
        given = np.asarray(given.convert("L").resize((width, height)))
    if not isinstance(given, np.ndarray):
        raise InputError(f"{camera.channel}: a region is True, a mask or a polygon, not {type(given).__name__}")
    mask = given.astype(np.float32) / (255 if given.dtype == np.uint8 else 1)
    if mask.shape != (height, width) or not (np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1):
        what = f"shape {given.shape}, values {given.min():g} to {given.max():g}" if given.size else f"shape {given.shape}"
        raise InputError(f"{camera.channel}: a mask is ({height}, {width}) of bool, 0 to 1, or uint8 0 to 255; this has {what}")
    return mask

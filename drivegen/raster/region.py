"""Parts of the picture: masks from pictures, polygons in pixels, or boxes of the scene."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry.base import BaseGeometry

from drivegen.raster.boxes import box_faces
from drivegen.scene import Box3D, Camera, Frame
from drivegen.scene.pictures import user_array, user_image
from drivegen.support.errors import InputError

Mask = NDArray[np.float32]


def region_mask(frame: Frame, region: Any) -> Mask:
    """Convert a region to masks (V, H, W) of 0 to 1 at the generated size, one per view; 1 = inside.

    A region is a box (`Box3D`, or the instance name of one of the frame's), several of them, or a mapping from channel to the
    inside of that camera's picture (cameras that are not named have nothing inside): True for all, a mask (PIL image, file, or
    array (H, W) of bool, 0 to 1, or uint8 0 to 255), or a polygon as a list of (x, y) pixels of the generated image. Raises
    InputError for anything else; warns when nothing is inside.
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
    where = f"{camera.channel}: mask"
    if not isinstance(given, np.ndarray):
        if not isinstance(given, (str, os.PathLike, Image.Image)):
            raise InputError(f"{camera.channel}: a region is True, a mask or a polygon, not {type(given).__name__}")
        given = np.asarray(user_image(given, where, "L").resize((width, height)))
    array = user_array(given, where, 1)[..., 0]
    if array.shape != (height, width):
        raise InputError(f"{camera.channel}: a mask is ({height}, {width}), the generated size; this has shape {given.shape}")
    if array.dtype == np.uint8 and array.max() == 1:
        warnings.warn(f"{where}: bytes of 0 and 1 are nearly black; for a mask of 0 and 1 give bool", stacklevel=2)
    return array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)

"""The map seen from above: nuScenes' bird's-eye masks, and the finer ground picture that views are projected from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from drivegen.scene import BEV_CLASSES, LINE_LAYERS, Frame, MapLine, MapPolygon, VectorMap
from drivegen.scene.geometry import Array
from drivegen.support.errors import InputError, nearest

MAP_LAYERS = (
    *BEV_CLASSES[:5], "road_block", "road_segment", "lane", "lane_connector", *LINE_LAYERS, "traffic_light",
)  # fmt: skip
"""Every layer of the map expansion that has a shape."""

Mask = NDArray[np.uint8]
ToPixels = Callable[[Array], Array]


def bev(
    frame: Frame,
    classes: Sequence[str] = BEV_CLASSES,
    pixels: tuple[int, int] = (200, 200),
    extent_m: float | tuple[float, float] = 100.0,
) -> Mask:
    """Draw the map about the frame's lidar as (c, x, y) masks of 0 and 1: x to the right, y forward.

    The picture equals the devkit's `NuScenesMap.get_map_mask((x, y, extent, extent), angle, classes, pixels)` about the lidar,
    along its x axis, with rows and columns swapped, as MagicDrive and BEVFusion use it. Its details are kept: corners rounded
    to whole pixels, holes that also cut what was drawn before them, invalid polygons left out except in `drivable_area`, lines
    two pixels wide. Where it crashes (shapes that only touch the border, dividers that come back) the part inside is drawn. A
    frame without a map, and a layer that its map lacks, give zeros.

    Args:
        frame: the frame.
        classes: map layers, one mask each.
        pixels: (x, y) size of the masks.
        extent_m: side of the square, or (x, y).

    Raises InputError for an unknown layer.
    """
    unknown = [name for name in classes if name not in MAP_LAYERS]
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a map layer{nearest(unknown[0], MAP_LAYERS)}; known: {', '.join(MAP_LAYERS)}")
    width, height = pixels
    extent_x, extent_y = extent_m if isinstance(extent_m, tuple) else (extent_m, extent_m)
    masks = np.zeros((len(classes), height, width), np.uint8)
    if frame.map is not None:
        pose = frame.global_SE3_ego @ frame.ego_SE3_lidar
        cos, sin = math.cos(pose.yaw_rad), math.sin(pose.yaw_rad)
        turn, center = np.array([[cos, -sin], [sin, cos]]), pose.translation[:2]
        scale, middle = np.array([width / extent_x, height / extent_y]), np.array([extent_x / 2, extent_y / 2])

        def to_pixels(points: Array) -> Array:
            return ((points - center) @ turn + middle) * scale

        near = frame.map.near(center, math.hypot(extent_x, extent_y) / 2)
        for mask, name in zip(masks, classes, strict=True):
            paint_areas(mask, near.polygons.get(name, ()), to_pixels, keep_invalid=name == "drivable_area", holes_cut=True)
            _paint_lines(mask, near.lines.get(name, ()), to_pixels)
    return np.ascontiguousarray(masks.transpose(0, 2, 1))


def paint_areas(
    mask: Mask, areas: Iterable[MapPolygon], to_pixels: ToPixels, keep_invalid: bool = True, holes_cut: bool = False
) -> None:
    """Fill polygons into a mask (y, x), clipped to its border.

    Args:
        mask: written in place.
        areas: the polygons.
        to_pixels: maps points (P, 2) of the map to pixels.
        keep_invalid: repair invalid polygons; if False, leave them out.
        holes_cut: a hole also clears what was painted there before.
    """
    border = shapely.box(0, 0, mask.shape[1], mask.shape[0])
    for area in areas:
        shape = shapely.Polygon(to_pixels(area.exterior), [to_pixels(hole) for hole in area.holes])
        if not shape.is_valid:
            if not keep_invalid:
                continue
            shape = shapely.make_valid(shape)
        for part in _parts(shape, border, "Polygon"):
            exterior, holes = _whole(part.exterior), [_whole(ring) for ring in part.interiors]
            if not holes or holes_cut:
                cv2.fillPoly(mask, [exterior], 1)
                cv2.fillPoly(mask, holes, 0)
            else:
                own = np.zeros_like(mask)
                cv2.fillPoly(own, [exterior], 1)
                cv2.fillPoly(own, holes, 0)
                np.maximum(mask, own, out=mask)


def _paint_lines(mask: Mask, lines: Iterable[MapLine], to_pixels: ToPixels) -> None:
    border = shapely.box(0, 0, mask.shape[1], mask.shape[0])
    for line in lines:
        for part in _parts(shapely.LineString(to_pixels(line.points)), border, "LineString"):
            cv2.polylines(mask, [shapely.get_coordinates(part).astype(np.int32)], False, 1, 2)


def _parts(shape: BaseGeometry, border: BaseGeometry, kind: str) -> list[BaseGeometry]:
    parts = [p for p in shapely.get_parts(shape.intersection(border)) if not p.is_empty]
    nested = [q for p in parts for q in (shapely.get_parts(p) if p.geom_type.startswith(("Multi", "Geometry")) else [p])]
    return [part for part in nested if part.geom_type == kind]


def _whole(ring: BaseGeometry) -> NDArray[np.int32]:
    return shapely.get_coordinates(ring).round().astype(np.int32)


def _drawable(points: Array) -> list[Array]:
    """Cut a line that goes further than OpenCV's whole numbers do to the neighbourhood of the picture."""
    if np.abs(points).max() < 1e8:
        return [points]
    near = shapely.box(-10 * _CELLS, -10 * _CELLS, 10 * _CELLS, 10 * _CELLS)
    return [shapely.get_coordinates(part) for part in _parts(shapely.LineString(points), near, "LineString")]


LINE_WIDTH_M = 0.3
"""Width given to dividers on the ground, which the map draws without any."""

GROUND_RADII_M = (16.0, 64.0)
"""Half-sides of the two ground pictures, fine and coarse; nothing is drawn further out."""

_CELLS = 1024


@lru_cache(maxsize=4)
def ground(vector_map: VectorMap, x_m: float, y_m: float) -> tuple[Mask, ...]:
    """Draw the bird's-eye classes about a point of the map, one picture (1024, 1024) for each of GROUND_RADII_M.

    Bit i of a picture is BEV_CLASSES[i]; row and column grow with global y and x.

    Args:
        vector_map: the map.
        x_m: of the point.
        y_m: of the point.
    """
    return tuple(_ground(vector_map, np.array([x_m, y_m]), radius) for radius in GROUND_RADII_M)


def _ground(vector_map: VectorMap, center: Array, radius: float) -> Mask:
    near = vector_map.near(center, radius)
    per_m = _CELLS / (2 * radius)
    out = np.zeros((_CELLS, _CELLS), np.uint8)

    def to_pixels(points: Array) -> Array:
        # a cell's centre is at a whole number for OpenCV, at a half for us
        return (points - center + radius) * per_m - 0.5

    for bit, name in enumerate(BEV_CLASSES):
        areas, lines = near.polygons.get(name, ()), near.lines.get(name, ())
        if not areas and not lines:
            continue
        mask = np.zeros_like(out)
        paint_areas(mask, areas, to_pixels)
        width = max(1, round(LINE_WIDTH_M * per_m))
        for line in lines:
            for points in _drawable(to_pixels(line.points)):
                cv2.polylines(mask, [(points * 16).round().astype(np.int32)], False, 1, width, cv2.LINE_8, 4)
        out |= mask << np.uint8(bit)
    return out

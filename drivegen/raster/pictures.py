"""Pictures of the scene for branches that read pictures: one per camera, of whole channels from 0 to 255, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from drivegen.raster.birdseye import Mask, bev
from drivegen.raster.boxes import box_edges
from drivegen.raster.palette import BOXES, GROUND, LIMB_COLOURS, LINES, OTHER, RGB
from drivegen.raster.view import OTHER_CLASS, Layout, layout
from drivegen.scene import BEV_CLASSES, DETECTION_CLASSES, JOINTS, LIMBS, LINE_LAYERS, Box3D, Camera, Frame
from drivegen.scene.geometry import SE3, Array, clip_segments, project
from drivegen.support.errors import InputError, nearest

AHEAD_M = 50.0
"""What the bird's-eye picture of a camera shows, from the camera at its lower edge to its upper edge."""

FULL_NEAR_M = 3.0
"""White in pictures of depth: this near or nearer."""

Drawn = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A kind of picture: its number of channels, and the function that draws (channels, H, W) of one camera at its generated
    size.
    """

    channels: int
    draw: Callable[[Frame, Camera], Drawn]


def picture(name: str) -> Picture:
    """Return the kind of picture of that name; raises InputError that lists the names."""
    if name not in PICTURES:
        raise InputError(f"no picture {name!r}; there are {', '.join(PICTURES)}{nearest(name, PICTURES)}")
    return PICTURES[name]


def _paint(bits: Mask, colours: Mapping[str, RGB], out: Drawn) -> None:
    """Colour (3, H, W) where the bits of BEV_CLASSES are set; later colours lie on earlier ones."""
    for name, colour in colours.items():
        seen = (bits >> np.uint8(BEV_CLASSES.index(name))) & 1 == 1
        out[:, seen] = np.array(colour, np.uint8)[:, None]


def _layout(frame: Frame, camera: Camera) -> Drawn:
    view = layout(frame, camera)
    out = np.zeros((3, *view.map_bits.shape), np.uint8)
    _paint(view.map_bits, GROUND, out)
    for i, name in enumerate(DETECTION_CLASSES):
        out[:, view.box_class == 1 + i] = np.array(BOXES[name], np.uint8)[:, None]
    out[:, view.box_class == OTHER_CLASS] = np.array(OTHER, np.uint8)[:, None]
    return out


def _layout_channels(frame: Frame, camera: Camera) -> Drawn:
    view = layout(frame, camera)
    ground = [(view.map_bits >> np.uint8(i)) & 1 == 1 for i in range(len(BEV_CLASSES))]
    boxes = [view.box_class == label for label in (*range(1, len(DETECTION_CLASSES) + 1), OTHER_CLASS)]
    return np.concatenate([np.stack([*ground, *boxes]).astype(np.uint8) * 255, _nearness(view)[None]])


def _lanes(frame: Frame, camera: Camera) -> Drawn:
    bits = layout(frame, camera).map_bits
    out = np.zeros((3, *bits.shape), np.uint8)
    _paint(bits, {name: LINES[name] for name in ("ped_crossing", "stop_line", *LINE_LAYERS)}, out)
    return out


def _nearness(view: Layout) -> Drawn:
    """Draw depth as released depth checkpoints read it: proportional to 1 / depth, white = near, black = far or unknown."""
    depth = view.depth_m.astype(np.float32)
    with np.errstate(divide="ignore"):
        near = np.where(depth > 0, FULL_NEAR_M / depth, 0.0)
    return (near.clip(0, 1) * 255).round().astype(np.uint8)


def _depth(frame: Frame, camera: Camera) -> Drawn:
    return np.repeat(_nearness(layout(frame, camera))[None], 3, 0)


def _box_depth(frame: Frame, camera: Camera) -> Drawn:
    view = layout(frame, camera)
    return np.repeat(np.where(view.box_class > 0, _nearness(view), 0).astype(np.uint8)[None], 3, 0)


def _boxes(frame: Frame, camera: Camera) -> Drawn:
    return _edges(frame, camera, skeletons=False)


def _pose(frame: Frame, camera: Camera) -> Drawn:
    return _edges(frame, camera, skeletons=True)


def _edges(frame: Frame, camera: Camera, skeletons: bool) -> Drawn:
    """Draw boxes' edges, furthest first; with skeletons the limbs of those that have joints, in their place for a person."""
    width, height = camera.image_size
    out = np.zeros((height, width, 3), np.uint8)
    here = camera.global_SE3_camera.translation
    for box in sorted(frame.boxes, key=lambda b: -float(np.linalg.norm(b.global_SE3_object.translation - here))):
        joints = box.joints() if skeletons else None
        lines = []
        if joints is None or not box.is_person:
            lines += [(segment, _colour(box)) for segment in box_edges(camera, box)]
        if joints is not None:
            lines += list(zip(_limbs(camera, joints), LIMB_COLOURS, strict=True))
        for segment, colour in lines:
            if not np.isfinite(segment).all():
                continue
            # OpenCV's pixel centres are whole numbers; points far outside would overflow its integers, so they are cut off.
            kept = _cut(segment - 0.5, width, height)
            if kept is not None:
                a, b = (kept * 16).round().astype(int).tolist()
                cv2.line(out, a, b, colour, 1, cv2.LINE_AA, 4)
    return np.ascontiguousarray(out.transpose(2, 0, 1))


def _limbs(camera: Camera, joints: Array) -> Array:
    """Project each of LIMBS to pixels, (18, 2, 2), cut at the near plane; NaN where a joint is not known or all is behind."""
    points = camera.global_SE3_camera.inverse().transform(joints)
    segments = np.stack([points[[JOINTS.index(a), JOINTS.index(b)]] for a, b in LIMBS])
    known = np.isfinite(segments).all((1, 2))[:, None, None]
    return np.where(known, project(camera.K_image, clip_segments(segments))[0], np.nan)


def _cut(segment: Array, width: int, height: int) -> Array | None:
    """Clip a segment (2, 2) to the picture and one pixel about it (Liang and Barsky 1984); None where nothing is left."""
    start, step = segment[0], segment[1] - segment[0]
    first, last = 0.0, 1.0
    for p, q in zip((*-step, *step), (*(start + 1), width - start[0], height - start[1]), strict=True):
        if p == 0 and q < 0:
            return None
        if p < 0:
            first = max(first, q / p)
        elif p > 0:
            last = min(last, q / p)
    return None if first > last else np.stack([start + first * step, start + last * step])


def _colour(box: Box3D) -> RGB:
    return OTHER if box.detection_class is None else BOXES[box.detection_class]


def _above(frame: Frame, camera: Camera) -> tuple[NDArray[np.uint8], Callable[[Array], Array]]:
    """Map masks (8, H, W) of what lies ahead of a camera, seen from above with its axis up; and global points to pixels."""
    width, height = camera.image_size
    pose = camera.global_SE3_camera
    axis = pose.rotation[:, 2]
    yaw = float(np.arctan2(axis[1], axis[0]))
    extent = (AHEAD_M * width / height, AHEAD_M)
    middle = pose.translation + AHEAD_M / 2 * np.array([np.cos(yaw), np.sin(yaw), 0.0])
    # `bev` draws about the lidar, x to the right and y ahead: one is put in the middle of what is shown.
    global_SE3_middle = SE3(SE3.from_yaw(yaw - np.pi / 2).rotation, middle)
    placed = replace(frame, ego_SE3_lidar=frame.global_SE3_ego.inverse() @ global_SE3_middle)
    masks = bev(placed, BEV_CLASSES, (width, height), extent).transpose(0, 2, 1)[:, ::-1]

    def to_pixels(points: Array) -> Array:
        local = global_SE3_middle.inverse().transform(points)[..., :2]
        return (np.array([0.5, 0.5]) + local / np.array(extent) * (1, -1)) * (width, height)

    return masks, to_pixels


def _bev(frame: Frame, camera: Camera) -> Drawn:
    masks, to_pixels = _above(frame, camera)
    bits = np.bitwise_or.reduce(masks << np.arange(len(BEV_CLASSES), dtype=np.uint8)[:, None, None])
    out = np.zeros((3, *bits.shape), np.uint8)
    _paint(bits, {**GROUND, **LINES}, out)
    flat = np.ascontiguousarray(out.transpose(1, 2, 0))
    for box in frame.boxes:
        cv2.fillPoly(flat, [_outline(box, to_pixels)], _colour(box), cv2.LINE_8, 4)
    return np.ascontiguousarray(flat.transpose(2, 0, 1))


def _bev_channels(frame: Frame, camera: Camera) -> Drawn:
    masks, to_pixels = _above(frame, camera)
    boxes = np.zeros((len(DETECTION_CLASSES) + 1, *masks.shape[1:]), np.uint8)
    for box in frame.boxes:
        name = box.detection_class
        index = len(DETECTION_CLASSES) if name is None else DETECTION_CLASSES.index(name)
        cv2.fillPoly(boxes[index], [_outline(box, to_pixels)], 1, cv2.LINE_8, 4)
    return np.concatenate([masks, boxes]) * np.uint8(255)


def _outline(box: Box3D, to_pixels: Callable[[Array], Array]) -> NDArray[np.int32]:
    pixels = to_pixels(box.corners()[[0, 1, 5, 4]]) - 0.5  # the top face; OpenCV's pixel centres are whole numbers
    return (pixels * 16).clip(-(2**30), 2**30).round().astype(np.int32)  # far outside it is as far as OpenCV counts


PICTURES: dict[str, Picture] = {
    "layout": Picture(3, _layout),
    "layout_channels": Picture(len(BEV_CLASSES) + len(DETECTION_CLASSES) + 2, _layout_channels),
    "boxes": Picture(3, _boxes),
    "pose": Picture(3, _pose),
    "lanes": Picture(3, _lanes),
    "depth": Picture(3, _depth),
    "box_depth": Picture(3, _box_depth),
    "bev": Picture(3, _bev),
    "bev_channels": Picture(len(BEV_CLASSES) + len(DETECTION_CLASSES) + 1, _bev_channels),
}
"""The closed table: layout (ground and boxes in ADE20K's colours), layout_channels (one channel per class, and nearness), boxes
(edges), pose (limbs of people with joints, limbs and edges of vehicles whose riders have them, edges of the others), lanes
(dividers, crossings, stop lines), depth and box_depth (near is white), bev (ahead of the camera from above, its axis up) and
bev_channels (one channel per class)."""

"""Reference pictures: what a caller may pass for a frame's views, converted to arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from drivegen.scene import Camera, Frame
from drivegen.scene.pictures import load_image, user_image
from drivegen.support.errors import InputError, nearest

OWN = "own"
"""Stands for the picture that each camera itself took."""

_KEYS = ("images", "scale", "masks")


@dataclass(frozen=True, eq=False)
class Group:
    """Pictures that are attended to together (indices into a table), how strongly, and where (None = everywhere)."""

    images: tuple[int, ...]
    scale: float = 1.0
    mask: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class References:
    """Distinct pictures of a frame, and the groups of them that each view refers to."""

    images: tuple[Image.Image, ...]
    views: tuple[tuple[Group, ...], ...]


def references(frame: Frame, user_input: Any) -> References:
    """Read what a caller gave: for every view, or a mapping from camera channels to what is for each alone.

    For a view: None, a picture, a list of pictures, or {"images": …, "scale": …, "masks": …}. A picture is a PIL image, an
    array (H, W, 3), a file, or "own". Pictures of one list are attended to together, unless they have a scale or a mask each
    (lists as long as images). A mask is a PIL image, an array (H, W) or a file, and the part that is at least half white; it
    is fitted to the view. Raises InputError for anything else.
    """
    table = _Table()
    per_camera = isinstance(user_input, Mapping) and not set(user_input) & set(_KEYS)
    if per_camera:
        for channel in user_input:
            if channel not in frame.channels:
                known = [*frame.channels, *_KEYS]
                close = nearest(str(channel), known)
                raise InputError(f"pictures are given for {channel!r}; there are {', '.join(known)}{close}")
    views = [_groups(user_input.get(c.channel) if per_camera else user_input, c, table) for c in frame.cameras]
    return References(tuple(table.images), tuple(views))


class _Table:
    """Pictures without repetitions."""

    def __init__(self) -> None:
        self.images: list[Image.Image] = []
        self._known: dict[Any, int] = {}
        self._alive: list[Any] = []

    def index(self, user_input: Any, camera: Camera) -> int:
        own = isinstance(user_input, str) and user_input == OWN
        key = (OWN, camera.channel) if own else str(user_input) if isinstance(user_input, (str, Path)) else id(user_input)
        if key not in self._known:
            self._known[key] = len(self.images)
            self._alive.append(user_input)  # so that no other picture gets its id
            self.images.append(load_image(camera) if own else picture(user_input))
        return self._known[key]


def _groups(user_input: Any, camera: Camera, table: _Table) -> tuple[Group, ...]:
    if user_input is None:
        return ()
    spec = dict(user_input) if isinstance(user_input, Mapping) else {"images": user_input}
    for key in spec:
        if key not in _KEYS:
            close = nearest(str(key), _KEYS)
            raise InputError(f"unknown setting {key!r} of reference pictures{close}; there are {', '.join(_KEYS)}")
    images = _listed(spec.get("images"))
    if not images:
        raise InputError(f"no picture is given for {camera.channel}; leave the camera out, or give a picture")
    indices = [table.index(image, camera) for image in images]
    scales, masks = spec.get("scale", 1.0), spec.get("masks")
    apart = isinstance(scales, (list, tuple)) or isinstance(masks, (list, tuple))
    if not apart:
        return (Group(tuple(indices), _scale(scales), None if masks is None else mask(masks, camera.image_size)),)
    scales, masks = (v if isinstance(v, (list, tuple)) else [v] * len(images) for v in (scales, masks))
    for what, values in (("scales", scales), ("masks", masks)):
        if len(values) != len(images):
            raise InputError(f"{len(values)} {what} are given for {len(images)} pictures; give one each, or one for all")
    return tuple(
        Group((i,), _scale(s), None if m is None else mask(m, camera.image_size))
        for i, s, m in zip(indices, scales, masks, strict=True)
    )  # fmt: skip


def _listed(images: Any) -> list[Any]:
    if images is None:
        return []
    return list(images) if isinstance(images, (list, tuple)) else [images]


def _scale(value: Any) -> float:
    number = isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)
    if not number or not 0 <= value < float("inf"):
        raise InputError(f"scale {value!r} of a reference picture must be a finite number, 0 or above")
    return float(value)


def picture(user_input: Any) -> Image.Image:
    """Return a PIL image, an array (H, W, 3) of uint8 or of 0 to 1, or an image file, as RGB."""
    return user_image(user_input, "reference picture")


def mask(user_input: Any, size: tuple[int, int]) -> np.ndarray:
    """Return a region as (H, W) bool at a size (width, height); raises InputError for what is no mask."""
    grey = user_image(user_input, "mask of a reference picture", "L")
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(grey) >= 128


def square(image: Image.Image, side: int, whole: bool = False) -> np.ndarray:
    """Return a picture as (3, side, side) uint8, cropped as by CLIP's image processor: shorter edge to side, then the centre.

    Args:
        image: the picture.
        side: of the square, in pixels.
        whole: squeeze the whole picture into the square instead of cropping it.
    """
    width, height = image.size
    if whole:
        size = (side, side)
    elif width <= height:
        size = (side, int(side * height / width))
    else:
        size = (int(side * width / height), side)
    resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.uint8)
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    return resized[top : top + side, left : left + side].transpose(2, 0, 1)


def tables(found: References, side: int, whole: bool = False) -> dict[str, np.ndarray]:
    """Return arrays of one frame, with V views of G groups of up to I pictures out of K.

    pixels (K, 3, side, side) uint8; index (V, G, I) int64 into them, -1 = none; scale (V, G); masks (V, G, H, W) bool, of H = 0
    where no view has any.

    Args:
        found: of `references`.
        side: of the pictures, in pixels.
        whole: as in `square`.
    """
    groups = max((len(view) for view in found.views), default=0) or 1
    most = max((len(group.images) for view in found.views for group in view), default=1)
    sizes = {group.mask.shape for view in found.views for group in view if group.mask is not None}
    if len(sizes) > 1:
        raise InputError(f"the views have different sizes {sorted(sizes)}; masks need one size for all")
    index = np.full((len(found.views), groups, most), -1, dtype=np.int64)
    scale = np.zeros((len(found.views), groups), dtype=np.float32)
    masks = np.ones((len(found.views), groups, *(sizes.pop() if sizes else (0, 0))), dtype=bool)
    for v, view in enumerate(found.views):
        for g, group in enumerate(view):
            index[v, g, : len(group.images)], scale[v, g] = group.images, group.scale
            if group.mask is not None:
                masks[v, g] = group.mask
    pixels = [square(image, side, whole) for image in found.images]
    empty = np.zeros((0, 3, side, side), dtype=np.uint8)
    return {"pixels": np.stack(pixels) if pixels else empty, "index": index, "scale": scale, "masks": masks}


def joined(arrays: Sequence[np.ndarray], fill: Any) -> np.ndarray:
    """Stack arrays of several sizes, filled up to the largest along each axis."""
    shape = tuple(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True))
    out = np.full((len(arrays), *shape), fill, dtype=arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[tuple(slice(n) for n in array.shape)] = array
    return out

"""Which objects of a frame are worth cutting out, and the part of the picture that shows each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from drivegen.raster.boxes import EDGES
from drivegen.scene import Box3D, Camera, Frame
from drivegen.scene.cameras import ResizeCrop
from drivegen.scene.geometry import clip_segments, project
from drivegen.support.errors import InputError
from drivegen.synthesis.visibility import seen

Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

_AT_MOST = {1: 0.4, 2: 0.6, 3: 0.8, 4: 1.0, None: 1.0}
"""The most that can be seen of an object at each of nuScenes' levels of visibility, which know walls and trees."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which objects are cut out, and how.

    A category is a detection class, a category of the dataset, or its beginning (``vehicle.bus``).
    """

    categories: tuple[str, ...]
    size: tuple[int, int] = (256, 256)
    """Height and width of the pictures."""
    margin: float = field(default=0.15, metadata={"ge": 0, "le": 4})
    """What is shown around an object, at each side, as a share of its own longer side."""
    least_px: float = field(default=48, metadata={"ge": 1})
    """Least longer side of an object in the recorded picture."""
    visible: float = field(default=0.6, metadata={"ge": 0, "le": 1})
    """Least share of an object that its camera sees: not behind other boxes, nor beyond the border."""

    def __post_init__(self) -> None:
        if not self.categories or not all(isinstance(c, str) and c.strip() for c in self.categories):
            raise InputError("no category is given; give a detection class, such as truck")
        for name, low, high in (("margin", 0, 4), ("least_px", 1, 1e5), ("visible", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} = {getattr(self, name)} is out of range; allowed: {low} to {high:g}")

    def takes(self, box: Box3D) -> bool:
        """Tell whether a box is of one of the categories."""
        return any(c in (box.detection_class, box.category) or box.category.startswith(f"{c}.") for c in self.categories)


@dataclass(frozen=True, eq=False)
class Crop:
    """An object in a picture.

    rectangle is what lies around it in the recorded picture; camera shows the crop when its picture is loaded; visible is the
    share of the object that the camera sees.
    """

    frame: Frame
    camera: Camera
    box: Box3D
    rectangle: Rectangle
    visible: float


def find(frame: Frame, wanted: Wanted) -> Iterator[Crop]:
    """Find the crops of a frame, camera by camera.

    Args:
        frame: with the pictures as they were recorded.
        wanted: which ones.
    """
    if not any(map(wanted.takes, frame.boxes)):
        return
    for camera in frame.cameras:
        camera = replace(camera, resize=None)
        around = [rectangle(camera, box) if wanted.takes(box) else None for box in frame.boxes]
        large = [r is not None and max(r[2] - r[0], r[3] - r[1]) >= wanted.least_px for r in around]
        if camera.image_path is None or not any(large):
            continue
        shares = seen(replace(frame, cameras=(camera,), neighbours=()), frame.boxes)
        for box, place, fits, share in zip(frame.boxes, around, large, shares, strict=True):
            visible = min(share.share or 0.0, _AT_MOST[box.visibility])
            if fits and place is not None and visible >= wanted.visible:
                yield Crop(frame, _looking_at(camera, place, wanted), box, place, visible)


def rectangle(camera: Camera, box: Box3D) -> Rectangle | None:
    """Return the rectangle around what of a box lies in the recorded picture; None where nothing does.

    Args:
        camera: with its own ego pose.
        box: the object.
    """
    corners = camera.global_SE3_camera.inverse().transform(box.corners())
    segments = clip_segments(corners[np.array(EDGES)])
    points = segments[np.isfinite(segments).all((1, 2))].reshape(-1, 3)
    if len(points) < 3:
        return None
    pixels, _ = project(camera.K_native, points)
    size = np.array([camera.width_px, camera.height_px], dtype=np.float64)
    (left, top), (right, bottom) = pixels.min(0).clip(0, size), pixels.max(0).clip(0, size)
    return (float(left), float(top), float(right), float(bottom)) if right > left and bottom > top else None


def _looking_at(camera: Camera, place: Rectangle, wanted: Wanted) -> Camera:
    """Return the camera that shows a rectangle with its margin, in the wanted form, moved into the picture where it can be."""
    height, width = wanted.size
    left, top, right, bottom = place
    around = wanted.margin * max(right - left, bottom - top)
    wide = max(right - left + 2 * around, (bottom - top + 2 * around) * width / height)
    wide = min(wide, camera.width_px, camera.height_px * width / height)
    high = wide * height / width
    x = float(np.clip((left + right - wide) / 2, 0, camera.width_px - wide))
    y = float(np.clip((top + bottom - high) / 2, 0, camera.height_px - high))
    scale = width / wide
    return replace(camera, resize=ResizeCrop(scale, x * scale, y * scale, width, height))

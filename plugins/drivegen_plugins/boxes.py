"""Boxes: Fourier features of the eight corners and a class embedding → one token per box and view (MagicDrive, §4.2)."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from drivegen.plugin import Arrays, Plugin, Signal
from drivegen.plugin.class_tokens import class_tokens
from drivegen.plugin.fourier import fourier_features
from drivegen.plugin.slots import stack_slots
from drivegen.scene import DETECTION_CLASSES, FACES, Box3D, Camera, Frame
from drivegen.scene.geometry import NEAR_M, SE3, clip_polygon, project
from drivegen.support.errors import InputError, at_least

# MagicDrive's corner order, front-right-low first, as indices into Box3D.corners.
_ORDER = (2, 1, 5, 6, 3, 0, 4, 7)
_CXYZ = (6, 5, 7, 2)
_RANGE_MIN, _RANGE_SIZE = (-200.0, -300.0, -20.0), (350.0, 650.0, 80.0)


class BoxTokens(Plugin):
    """A token for each box that a view can see; boxes of no detection class are left out.

    Args:
        masked: hide padded slots from attention (MagicDrive attends to them).
        in_image: keep the boxes that reach a view's image (MagicDrive: any corner ahead of the camera).
        frame: where corners are measured, "lidar" or "camera".
        unit_m: their unit in metres.
        raised: put corners half a height too high, as MagicDrive's weights learned.
        corners: "all-xyz" takes all eight, "cxyz" four of them.
        min_max: scale them by MagicDrive's ranges.
        max_boxes: the most boxes of a view; the nearest are kept.
        pad_to: the least number of slots per view.
        learn_classes: whether class embeddings are trained.
        hidden: widths of the embedder's hidden layers; None = from the context's.
        position_width: width of the embedded corners; None = from the context's.
        class_width: width of the class embeddings; None = from the context's.
        frequencies: of the Fourier features.
        half_in_training: round corners to fp16 while training.
        upright: keep a box's yaw in the lidar frame and align it with that frame's z axis, as MagicDrive's weights learned.
    """

    accepts = ()

    def __init__(
        self, masked: bool = True, in_image: bool = True, frame: Literal["lidar", "camera"] = "camera", unit_m: float = 10.0,
        raised: bool = False, corners: Literal["all-xyz", "cxyz"] = "all-xyz", min_max: bool = False, max_boxes: int = 64,
        pad_to: int = 0, learn_classes: bool = True, hidden: int | tuple[int, int] | None = None,
        position_width: int | None = None, class_width: int | None = None, frequencies: int = 4, half_in_training: bool = False,
        upright: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if frame not in ("lidar", "camera") or corners not in ("all-xyz", "cxyz"):
            raise InputError(f"boxes: frame {frame!r} must be 'lidar' or 'camera', corners {corners!r} 'all-xyz' or 'cxyz'")
        if not unit_m > 0:
            raise InputError(f"boxes: unit_m = {unit_m:g} is out of range; allowed: > 0")
        at_least(1, max_boxes=max_boxes, frequencies=frequencies, hidden=hidden)
        at_least(1, position_width=position_width, class_width=class_width)
        at_least(0, pad_to=pad_to)
        self.masked, self.in_image, self.frame, self.unit_m, self.raised = masked, in_image, frame, unit_m, raised
        self.corner_mode, self.min_max, self.max_boxes, self.pad_to = corners, min_max, max_boxes, pad_to
        self.learn_classes, self.hidden = learn_classes, hidden
        self.position_width, self.class_width = position_width, class_width
        self.frequencies, self.half_in_training, self.upright = frequencies, half_in_training, upright

    def attach(self, backbone: Any) -> None:
        width = backbone.token_width
        positions, kinds = self.position_width or width, self.class_width or width
        features = 3 * (1 + 2 * self.frequencies) * self._points
        hidden = self.hidden or width * 2 // 3
        first, second = (hidden, hidden) if isinstance(hidden, int) else hidden
        self.bbox_proj = nn.Linear(features, positions)
        self.second_linear = nn.Sequential(
            nn.Linear(positions + kinds, first), nn.SiLU(), nn.Linear(first, second), nn.SiLU(), nn.Linear(second, width)
        )
        self.null_class_feature = nn.Parameter(torch.zeros(kinds))
        self.null_pos_feature = nn.Parameter(torch.zeros(features))
        tokens = class_tokens(backbone, kinds)
        if self.learn_classes:
            self._class_tokens: Tensor = nn.Parameter(tokens)
        else:
            self.register_buffer("_class_tokens", tokens)

    @property
    def _points(self) -> int:
        return 8 if self.corner_mode == "all-xyz" else len(_CXYZ)

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        known = [box for box in frame.boxes if box.detection_class is not None]
        lidar_SE3_global = (frame.global_SE3_ego @ frame.ego_SE3_lidar).inverse()
        if self.upright:
            known = [_upright(box, lidar_SE3_global) for box in known]
        views = []
        corners_global = np.stack([box.corners() for box in known]) if known else np.zeros((0, 8, 3))
        for camera in frame.cameras:
            camera_SE3_global = camera.global_SE3_camera.inverse()
            all_points = camera_SE3_global.transform(corners_global)
            seen = sorted((d, i) for i, points in enumerate(all_points) if (d := self._distance(camera, points)) is not None)
            if len(seen) > self.max_boxes:
                warnings.warn(f"{camera.channel} sees {len(seen)} boxes; the nearest {self.max_boxes} are kept", stacklevel=2)
            target_SE3_global = camera_SE3_global if self.frame == "camera" else lidar_SE3_global
            views.append(
                [
                    (self._corners(known[i], target_SE3_global), _index(known[i]))
                    for i in sorted(i for _, i in seen[: self.max_boxes])
                ]
            )
        slots = max((len(view) for view in views), default=0)
        corners = np.zeros((len(views), slots, self._points, 3), dtype=np.float32)
        classes = np.full((len(views), slots), -1, dtype=np.int64)
        for v, view in enumerate(views):
            for m, (points, index) in enumerate(view):
                corners[v, m], classes[v, m] = points, index
        return {"corners": corners, "classes": classes, "mask": classes >= 0}

    def _corners(self, box: Box3D, target_SE3_global: SE3) -> np.ndarray:
        points = box.corners()
        if self.raised:
            points = points + box.global_SE3_object.rotation[:, 2] * (box.size_wlh_m[2] / 2)
        points = target_SE3_global.transform(points)[list(_ORDER)] / self.unit_m
        return points if self.corner_mode == "all-xyz" else points[list(_CXYZ)]

    def _distance(self, camera: Camera, points: np.ndarray) -> float | None:
        """Return how far the middle of a box, corners (8, 3) in the camera's frame, is; None where it is not seen."""
        if not (points[:, 2] > 0).any() or (self.in_image and not _reaches(camera, points)):
            return None
        return float(np.linalg.norm(points.mean(0)))

    def collate(self, items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        # Without a mask every slot is attended to, so that no box must be no slot; a mask needs one slot for the null view.
        least = max(int(self.masked), self.pad_to)
        return stack_slots(items, {"corners": 0.0, "classes": -1, "mask": False}, least)

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        corners, classes, mask = (arrays[key].flatten(0, 1) for key in ("corners", "classes", "mask"))
        kept = keep.repeat_interleave(arrays["mask"].shape[1])[:, None]
        mask = mask & kept
        tokens = self.embed(corners, classes, mask)
        if not self.masked:
            return Signal(tokens)
        # A null view attends to one empty slot, so that null differs from a street without boxes.
        first = torch.zeros_like(mask)
        first[:, 0] = True
        return Signal(tokens, torch.where(kept, mask, first))

    def embed(self, corners: Tensor, classes: Tensor, mask: Tensor) -> Tensor:
        """Return tokens (N, M, D).

        Args:
            corners: (N, M, P, 3), P = 8, or 4 with corners "cxyz".
            classes: (N, M) indices.
            mask: (N, M); the null token where False.
        """
        if self.half_in_training and self.training:
            corners = corners.half().float()
        if self.min_max:
            corners = (corners - corners.new_tensor(_RANGE_MIN)) / corners.new_tensor(_RANGE_SIZE)
        dtype = self.null_pos_feature.dtype
        positions = fourier_features(corners.float(), self.frequencies).to(dtype).flatten(2)
        positions = torch.where(mask[..., None], positions, self.null_pos_feature)
        kinds = self._class_tokens[torch.where(mask, classes, 0)].to(dtype)
        kinds = torch.where(mask[..., None], kinds, self.null_class_feature)
        embedded = nn.functional.silu(self.bbox_proj(positions))
        tokens: Tensor = self.second_linear(torch.cat([embedded, kinds], dim=-1))
        return tokens


def _index(box: Box3D) -> int:
    name = box.detection_class
    assert name is not None
    return DETECTION_CLASSES.index(name)


def _upright(box: Box3D, lidar_SE3_global: SE3) -> Box3D:
    """Turn a box about its centre until it is upright in the lidar frame, with the yaw that mmdet3d keeps of it."""
    lidar_SE3_box = lidar_SE3_global @ box.global_SE3_object
    # The yaw of R = Rx·Ry·Rz, as pyquaternion's yaw_pitch_roll: SE3.yaw_rad, of Rz·Ry·Rx, differs where R is tilted.
    yaw = math.atan2(-lidar_SE3_box.rotation[0, 1], lidar_SE3_box.rotation[0, 0])
    standing = SE3.from_yaw(yaw, lidar_SE3_box.translation)
    return replace(box, global_SE3_object=lidar_SE3_global.inverse() @ standing)


def _reaches(camera: Camera, points_camera: np.ndarray) -> bool:
    """Tell whether any face of a box, cut at the near plane, meets the image's rectangle."""
    width, height = camera.image_size
    if (points_camera[:, 2] >= NEAR_M).all():  # nothing to cut: most boxes are seen to be beside the image as a whole
        pixels, _ = project(camera.K_image, points_camera)
        low, high = pixels.min(0), pixels.max(0)
        if low[0] >= width or low[1] >= height or high[0] <= 0 or high[1] <= 0:
            return False
    for face in FACES.values():
        visible = clip_polygon(points_camera[list(face)])
        if len(visible):
            pixels, _ = project(camera.K_image, visible)
            low, high = pixels.min(0), pixels.max(0)
            if low[0] < width and low[1] < height and high[0] > 0 and high[1] > 0:
                return True
    return False

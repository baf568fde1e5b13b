"""Joints of people: which there are, what connects them, and how a box carries them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from drivegen.scene.geometry import Array, numbers
from drivegen.support.errors import InputError

JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
"""The 17 keypoints of COCO, in its order."""

LIMBS = (
    ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"), ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"),
    ("right_hip", "right_knee"), ("right_knee", "right_ankle"), ("nose", "left_eye"), ("nose", "right_eye"),
    ("left_eye", "left_ear"), ("right_eye", "right_ear"), ("left_ear", "left_shoulder"), ("right_ear", "right_shoulder"),
)  # fmt: skip
"""Pairs of joints that a skeleton is drawn of."""

FURTHEST_M = 100.0
"""A joint further from the middle of its box is a mistake."""


def checked_joints(given: ArrayLike, what: str) -> Array:
    """Copy joints into a read-only (17, 3) array; raises InputError for another shape, and for a joint that is half known.

    Args:
        given: x, y, z in metres per joint of JOINTS, NaN where it is not known.
        what: whose they are, for errors.
    """
    joints = numbers(given, f"{what}: joints")  # None among the numbers of a table is NaN
    if joints.shape != (len(JOINTS), 3):
        raise InputError(f"{what}: joints have shape {joints.shape}, expected ({len(JOINTS)}, 3): x, y, z of each of JOINTS")
    unknown = np.isnan(joints)
    for name, row, lacks in zip(JOINTS, joints, unknown, strict=True):
        if not lacks.all() and not (np.abs(row) <= FURTHEST_M).all():
            raise InputError(
                f"{what}: joint {name} is {row.tolist()}; needed are metres from the middle of the box, each up to "
                f"{FURTHEST_M:g}, or NaN for all three where it is not known"
            )
    joints.flags.writeable = False
    return joints

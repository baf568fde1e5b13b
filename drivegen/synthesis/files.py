"""Names of a synthetic dataset's sample files."""

from __future__ import annotations

import re

from drivegen.scene import Frame, Scene
from drivegen.synthesis.provenance import SUFFIX


def picture_name(scene: Scene, frame: Frame, channel: str, kind: str) -> str:
    """Return the name of a camera's picture, relative to the dataset.

    Args:
        scene: the scene.
        frame: one of its frames.
        channel: of the camera.
        kind: "png" or "jpeg".
    """
    return f"samples/{channel}/{_plain(scene.name)}__{channel}__{frame.token}{SUFFIX[kind]}"


def lidar_name(scene: Scene, frame: Frame) -> str:
    """Return the name of a frame's sweep, relative to the dataset."""
    return f"samples/LIDAR_TOP/{_plain(scene.name)}__LIDAR_TOP__{frame.token}.pcd.bin"


def _plain(name: str) -> str:
    return re.sub(r"[^\w-]", "_", name).encode()[:120].decode(errors="ignore")  # a file's name has 255 bytes

"""Class, instance and depth images stored beside a written dataset's pictures."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np

from drivegen.scene import Frame
from drivegen.support.errors import InputError
from drivegen.support.files import make_subfolder, write_atomically
from drivegen.world.view import View


def store(root: Path, channel: str, name: str, view: View) -> Path:
    """Write a view's picture and truth; return the picture's path. Depth keeps 13 bits of mantissa (6e-5).

    Args:
        root: the dataset's folder.
        channel: of the camera; a folder of its own.
        name: of the files, without their endings.
        view: what is written.
    """
    picture, arrays = picture_path(root, channel, name), truth_path(root, channel, name)
    make_subfolder(root, "samples", channel)
    make_subfolder(root, "truth", channel)
    done, data = cv2.imencode(".png", view.rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 4])
    if not done:
        raise InputError(f"{picture}: the picture cannot be encoded")
    write_atomically(picture, data.tobytes(), sync=False)
    bits = view.depth_m.view(np.uint32)
    depth = np.where(np.isfinite(view.depth_m), (bits + 512) & 0xFFFFFC00, bits).astype(np.uint32).view(np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, classes=view.classes, instances=view.instances.astype(np.uint16), depth_m=depth)
    write_atomically(arrays, buffer.getvalue(), sync=False)
    return picture


def picture_path(root: Path, channel: str, name: str) -> Path:
    """Return where a picture is stored.

    Args:
        root: the dataset's folder.
        channel: of the camera.
        name: of the file, without its ending.
    """
    return root / "samples" / channel / f"{name}.png"


def truth_path(root: Path, channel: str, name: str) -> Path:
    """Return where the truth of a picture is stored.

    Args:
        root: the dataset's folder.
        channel: of the camera.
        name: of the picture, without its ending.
    """
    return root / "truth" / channel / f"{name}.npz"


def truth(root: str | Path, frame: Frame, channel: str) -> View:
    """Load the stored view of a frame read from a dataset that `write` made: picture, classes, instances and depth.

    `instances` counts the boxes of the frame as written.

    Args:
        root: the dataset's folder.
        frame: as it is read from there.
        channel: of the camera.

    Raises InputError where the truth is missing.
    """
    camera = frame.camera(channel)
    if camera.image_path is None:
        raise InputError(f"frame {frame.token!r}: camera {channel!r} has no picture, so there is no truth beside it")
    path = truth_path(Path(root), channel, Path(camera.image_path).stem)
    if not path.is_file():
        raise InputError(f"{path} is missing; only datasets written by `drivegen world` carry class, instance and depth images")
    picture = cv2.imread(str(camera.image_path), cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f"{camera.image_path} cannot be read as a picture")
    with np.load(path, allow_pickle=False) as data:
        rgb = np.ascontiguousarray(picture[..., ::-1])
        return View(rgb.astype(np.uint8), data["classes"], data["instances"].astype(np.int32), data["depth_m"])

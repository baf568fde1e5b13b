"""Conditions that are one picture per camera: drawn from the scene, or brought by the caller."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivegen import raster
from drivegen.plugin.contract import Plugin
from drivegen.plugin.inputs import Input
from drivegen.plugin.signals import Arrays, Residuals, Signal
from drivegen.scene import Camera, Frame
from drivegen.scene.pictures import fitted, user_array, user_image
from drivegen.support.errors import InputError, nearest

GIVEN = "given"
"""The name for pictures that the caller gives; none is drawn."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A network's output for the pictures; has_picture (N,) marks the rows that have one and are kept, None = all."""

    features: Any
    has_picture: Tensor | None

    def masked(self, terms: Residuals) -> Residuals:
        """Set the terms of rows without a picture to zero."""
        if self.has_picture is None:
            return terms

        def only(term: Tensor) -> Tensor:
            assert self.has_picture is not None
            return torch.where(self.has_picture.view(-1, *([1] * (term.ndim - 1))), term, 0.0)

        return Residuals(
            None if terms.down is None else tuple(map(only, terms.down)),
            None if terms.mid is None else only(terms.mid),
            None if terms.intrablock is None else tuple(map(only, terms.intrablock)),
        )


class PicturePlugin(Plugin):
    """A condition on one picture per camera, of 0 to 1 at the generated size; null, like a camera without one, adds nothing.

    picture names one of `raster.PICTURES`, or "given"; channels is its number of channels. A picture that comes with a mask has
    −1 in the masked pixels, which inpainting ControlNets fill.
    """

    accepts = (
        Input(
            "pictures", "picture", "uint8 or 0 to 1, in place of drawn ones (none are with picture 'given')", per_camera=True,
            masked=True,
        ),
    )  # fmt: skip

    def __init__(self, picture: str = GIVEN, channels: int | None = None) -> None:
        super().__init__()
        drawn = None if picture == GIVEN else raster.picture(picture).channels
        if drawn is not None and channels not in (None, drawn):
            raise InputError(f"the network reads {channels} channels, and the picture {picture!r} has {drawn}")
        self.picture, self.channels = picture, channels or drawn or 3
        mode = {1: "L", 4: "RGBA"}.get(self.channels, "RGB")
        self.accepts = (replace(self.accepts[0], mode=mode, required=picture == GIVEN),)  # GIVEN: there is none to draw

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        pictures = [self._picture(frame, camera, (user_input or {}).get(camera.channel)) for camera in frame.cameras]
        width, height = frame.cameras[0].image_size
        blank = np.zeros((self.channels, height, width), np.uint8)
        return {
            "picture": _stack([blank if one is None else one for one in pictures]),
            "has_picture": np.array([one is not None for one in pictures]),
        }

    def _picture(self, frame: Frame, camera: Camera, user_input: Any) -> np.ndarray | None:
        if isinstance(user_input, Mapping):
            return _masked(user_picture(user_input["image"], self.channels, camera), user_input.get("mask"), camera)
        if user_input is not None:
            return user_picture(user_input, self.channels, camera)
        return None if self.picture == GIVEN else raster.picture(self.picture).draw(frame, camera)

    def collate(self, items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {
            "picture": _stack([item["picture"] for item in items]),
            "has_picture": np.stack([item["has_picture"] for item in items]),
        }

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        has_picture = (arrays["has_picture"] & keep[:, None]).flatten()
        if not torch.is_grad_enabled() and not bool(has_picture.any()):
            return Signal()
        dtype = next(self.parameters()).dtype
        picture = unit(arrays["picture"], dtype).flatten(0, 1)
        picture = torch.where(has_picture[:, None, None, None], picture, 0.0)
        return Signal(data=Reading(self.read(picture), None if bool(has_picture.all()) else has_picture))

    def read(self, picture: Tensor) -> Any:
        """Compute from pictures (N, channels, H, W) what is constant over the steps."""
        raise NotImplementedError


def network_arguments(kind: str, network_class: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a released network's configuration gives its class.

    An unknown key whose value is null is left out, since other versions of diffusers write such keys.

    Args:
        kind: the plugin's kind, for the error.
        network_class: of diffusers.
        config: the network's configuration.

    Raises InputError for any other unknown key.
    """
    known = list(inspect.signature(network_class.__init__).parameters)[1:]
    for key, value in config.items():
        if key not in known and value is not None:
            what = f"{key!r} is no argument of diffusers' {network_class.__name__}{nearest(key, known)}"
            raise InputError(f"{kind}: {what}; if the network does without it, take it out of its configuration")
    return {key: value for key, value in config.items() if key in known}


def _masked(picture: np.ndarray, mask: Any, camera: Camera) -> np.ndarray:
    """Set the pixels of a picture (channels, H, W) to −1 where a caller's mask is more than half white."""
    if mask is None:
        return picture
    white = user_picture(mask, 1, camera)[0]
    where = white > 127 if white.dtype == np.uint8 else white > 0.5
    values = picture.astype(np.float32) / 255 if picture.dtype == np.uint8 else picture
    return np.where(where, np.float32(-1), values)


def _stack(pictures: list[np.ndarray]) -> np.ndarray:
    """Stack pictures; uint8 stays uint8 where all of them are, or else becomes 0 to 1 as floats are."""
    if any(one.dtype != np.uint8 for one in pictures):
        pictures = [one.astype(np.float32) / 255 if one.dtype == np.uint8 else one for one in pictures]
    return np.stack(pictures)


def unit(picture: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert uint8 0 to 255, or floats, to 0 to 1."""
    return (picture.float() / 255).to(dtype) if picture.dtype == torch.uint8 else picture.to(dtype)


def user_picture(user_input: Any, channels: int, camera: Camera) -> np.ndarray:
    """Convert a caller's picture to (channels, H, W), uint8 or float32 of 0 to 1, at the camera's generated size.

    A PIL image or a file of another size is cropped as the camera's own pictures are; arrays are not resampled.

    Args:
        user_input: a PIL image, a file, or an array (H, W, channels).
        channels: number of channels that is needed.
        camera: the view that it is for.

    Raises InputError for anything that does not fit.
    """
    width, height = camera.image_size
    where = camera.channel
    if not isinstance(user_input, np.ndarray) and channels in (1, 3, 4):
        image = user_image(user_input, where, {1: "L", 3: "RGB", 4: "RGBA"}[channels])
        user_input = np.asarray(image if image.size == (width, height) else fitted(image, (width, height), camera))
    array = user_array(user_input, where, channels)
    if array.shape[:2] != (height, width):
        raise InputError(f"{where}: the picture has shape {user_input.shape}; ({height}, {width}, {channels}) is needed")
    array = array if array.dtype == np.uint8 else array.astype(np.float32)
    return np.ascontiguousarray(array.transpose(2, 0, 1))

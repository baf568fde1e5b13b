"""Conditions that are a picture a camera: drawn from the scene, or brought by the caller."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivegen import raster
from drivegen.plugin import Arrays, Plugin, Residuals, Signal
from drivegen.scene import Camera, Frame, ResizeCrop
from drivegen.support.errors import InputError, nearest

GIVEN = "given"
"""In place of a drawn picture's name: the caller brings all pictures."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What a network made of the pictures; there (N,) tells the rows that have one and are kept, None = all."""

    features: Any
    there: Tensor | None

    def masked(self, terms: Residuals) -> Residuals:
        """Set the terms of rows without a picture to zero."""
        if self.there is None:
            return terms

        def only(term: Tensor) -> Tensor:
            assert self.there is not None
            return torch.where(self.there.view(-1, *([1] * (term.ndim - 1))), term, 0.0)

        return Residuals(
            None if terms.down is None else tuple(map(only, terms.down)),
            None if terms.mid is None else only(terms.mid),
            None if terms.intrablock is None else tuple(map(only, terms.intrablock)),
        )


class PicturePlugin(Plugin):
    """A condition on one picture a camera, of 0 to 1 at the generated size; null, like a camera without one, adds nothing.

    picture names one of `raster.PICTURES`, or "given"; channels is its number of channels. given {channel: PIL image, or array
    (H, W) or (H, W, channels) of uint8 or 0 to 1} brings pictures, in place of the drawn ones where there are such.
    """

    def __init__(self, picture: str = GIVEN, channels: int | None = None) -> None:
        super().__init__()
        drawn = None if picture == GIVEN else raster.picture(picture).channels
        if drawn is not None and channels not in (None, drawn):
            raise InputError(f"the network reads {channels} channels, and the picture {picture!r} has {drawn}")
        self.picture, self.channels = picture, channels or drawn or 3

    def prepare(self, frame: Frame, given: Any = None) -> dict[str, np.ndarray]:
        if given is None and self.picture == GIVEN:
            raise InputError(
                f"frame {frame.token!r}: a plugin needs pictures; give inputs={{its name: {{channel: picture}}}}, "
                "or set its scale to 0"
            )
        if not (given is None or isinstance(given, Mapping)):
            raise InputError(f"frame {frame.token!r}: pictures are given by channel, not as {type(given).__name__}")
        for channel in given or {}:
            frame.camera(channel)
        pictures = [self._picture(frame, camera, (given or {}).get(camera.channel)) for camera in frame.cameras]
        width, height = frame.cameras[0].image_size
        blank = np.zeros((self.channels, height, width), np.uint8)
        return {
            "picture": _stack([blank if one is None else one for one in pictures]),
            "there": np.array([one is not None for one in pictures]),
        }

    def _picture(self, frame: Frame, camera: Camera, given: Any) -> np.ndarray | None:
        if given is not None:
            return given_picture(given, self.channels, camera)
        return None if self.picture == GIVEN else raster.picture(self.picture).draw(frame, camera)

    def collate(self, items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {"picture": _stack([item["picture"] for item in items]), "there": np.stack([item["there"] for item in items])}

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        there = (arrays["there"] & keep[:, None]).flatten()
        if not torch.is_grad_enabled() and not bool(there.any()):
            return Signal()
        dtype = next(self.parameters()).dtype
        picture = unit(arrays["picture"], dtype).flatten(0, 1)
        picture = torch.where(there[:, None, None, None], picture, 0.0)
        return Signal(data=Reading(self.read(picture), None if bool(there.all()) else there))

    def read(self, picture: Tensor) -> Any:
        """Give what is constant over the steps of pictures (N, channels, H, W)."""
        raise NotImplementedError


def network_arguments(kind: str, network_class: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a released network's configuration gives its class.

    A key that is none of them is left out where its value is null, as files of other versions of diffusers have such. Raises
    InputError for any other.
    """
    known = list(inspect.signature(network_class.__init__).parameters)[1:]
    for key, value in config.items():
        if key not in known and value is not None:
            what = f"{key!r} is no argument of diffusers' {network_class.__name__}{nearest(key, known)}"
            raise InputError(f"{kind}: {what}; if the network does without it, take it out of its configuration")
    return {key: value for key, value in config.items() if key in known}


def _stack(pictures: list[np.ndarray]) -> np.ndarray:
    """Stack pictures; uint8 stays uint8 where all of them are, or else becomes 0 to 1 as floats are."""
    if any(one.dtype != np.uint8 for one in pictures):
        pictures = [one.astype(np.float32) / 255 if one.dtype == np.uint8 else one for one in pictures]
    return np.stack(pictures)


def unit(picture: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn uint8 0 to 255, or floats, into 0 to 1."""
    return (picture.float() / 255).to(dtype) if picture.dtype == torch.uint8 else picture.to(dtype)


def given_picture(given: Any, channels: int, camera: Camera) -> np.ndarray:
    """Turn a caller's picture into (channels, H, W), uint8 or float32 of 0 to 1, at the camera's generated size.

    A PIL image of another size is cut as the camera's own pictures are; arrays are not resampled. Raises InputError for
    anything that does not fit.
    """
    width, height = camera.image_size
    if hasattr(given, "convert"):
        modes = {1: "L", 3: "RGB", 4: "RGBA"}
        if channels not in modes:
            raise InputError(f"{camera.channel}: a PIL image has 1, 3 or 4 channels, and {channels} are needed; give an array")
        given = given.convert(modes[channels])
        if given.size != (width, height):
            cut = ResizeCrop.cover(given.size, (width, height))
            box = (cut.left_px, cut.top_px, cut.left_px + width, cut.top_px + height)
            given = given.resize((width, height), box=tuple(v / cut.scale for v in box))
        given = np.asarray(given)
    if not isinstance(given, np.ndarray):
        raise InputError(f"{camera.channel}: a picture is a PIL image or an array, not {type(given).__name__}")
    array = given[..., None] if given.ndim == 2 else given
    if array.shape != (height, width, channels):
        raise InputError(f"{camera.channel}: the picture has shape {given.shape}; ({height}, {width}, {channels}) is needed")
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise InputError(f"{camera.channel}: values of a float picture must be from 0 to 1; for 0 to 255 give uint8")
    return np.ascontiguousarray(array.transpose(2, 0, 1))

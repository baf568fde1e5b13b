"""Concat: a picture per camera as further channels of the UNet's input, as HumanSD and inpainting networks have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from drivegen.plugin import Arrays, Input, Now, Released, ReleasedFile, Signal
from drivegen.plugin.control_branch import zero
from drivegen.plugin.drawn_masks import drawn_masks
from drivegen.plugin.picture_plugin import GIVEN, PicturePlugin, unit
from drivegen.scene import Frame
from drivegen.scene.pictures import load_image
from drivegen.support.errors import InputError

Form = Literal["encoded", "resized", "masked"]

RECORDED = "recorded"
"""Given in training where pictures have masks: the recorded pictures, with sets of masks that are drawn for each frame."""

_OF_SETS = {"joined": 6, "masks": 5}
"""How many axes the arrays of sets of masks have: (B, sets, V, C, h, w) and (B, sets, V, H, W)."""

_LAYOUTS = (
    ("conv_in.weight", "conv_out.weight"),
    ("model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.out.2.weight"),
    ("input_blocks.0.0.weight", "out.2.weight"),
)
"""Names of a UNet's first and last convolution: of diffusers, and of the original layout in a checkpoint and alone."""


_PICTURES = Input(
    "pictures", "picture", f"with its mask, white where something is drawn anew; or {RECORDED!r}, as in training",
    required=True, per_camera=True, masked=True,
)  # fmt: skip


def _pictures(frame: Frame, value: Any) -> Any:
    """Read pictures with masks, or the word for recorded ones."""
    return value if value == RECORDED else _PICTURES.converted(frame, value)


class Concat(PicturePlugin):
    """``conv_in([x, c]) = conv_in(x) + conv(c)``: a picture per camera joined to the noisy latents as new input channels.

    Null, like a camera without a picture, adds nothing: c is zero, and the bias is the UNet's. With masks it trains on
    recorded pictures: at each step on one of the sets of masks that are drawn for a frame (`drivegen.plugin.drawn_masks`).

    Args:
        picture: one of `raster.PICTURES`, or "given".
        form: what c is: "encoded", the VAE's scaled latents of the picture (C channels; HumanSD); "resized", the picture itself
            from −1 to 1 at the latents' size (its own channels; depth-to-image); "masked", a mask and the latents of the
            picture without the masked part (1 + C; inpainting).
        channels: of the picture; None = those of its kind.
        scaled: scale the VAE's latents; InstructPix2Pix's are unscaled.
    """

    def __init__(self, picture: str = GIVEN, form: Form = "encoded", channels: int | None = None, scaled: bool = True) -> None:
        super().__init__(picture, channels)
        if form not in ("encoded", "resized", "masked"):
            raise InputError(f"concat: form {form!r} is unknown; there are encoded, resized, masked")
        if form != "resized" and self.channels != 3:
            raise InputError(
                f"concat: the VAE encodes pictures of 3 channels, and {picture!r} has {self.channels}; use form 'resized'"
            )
        if form == "masked" and picture != GIVEN:
            raise InputError(f"concat: form 'masked' needs pictures with masks, and {picture!r} is drawn; use picture 'given'")
        self.form, self.scaled = form, scaled
        self.takes_mask = form == "masked"
        if self.takes_mask:
            self.accepts, self.training_input = (replace(_PICTURES, read=_pictures),), RECORDED

    @classmethod
    def read_released(cls, file: ReleasedFile) -> Released | None:
        if file.config is not None and file.config.get("_class_name") != "UNet2DConditionModel":
            return None
        first, last = next((pair for pair in _LAYOUTS if all(key in file.state for key in pair)), ("", ""))
        if not first:
            return None
        weight, latents = file.state[first], file.state[last].shape[0]
        if weight.ndim != 4 or weight.shape[1] == latents:
            return None  # a UNet whose input is the latents alone
        arguments = _arguments(weight.shape[1] - latents, latents)
        # Both halves of diffusers' guidance see what is joined.
        return Released(arguments, {"conv.weight": weight[:, latents:].clone()}, {"drop": 0})

    def attach(self, backbone: Any) -> None:
        latents = backbone.latent_channels
        inputs = {"encoded": latents, "resized": self.channels, "masked": latents + 1}[self.form]

        def build(site: Any) -> nn.Module:
            kernel = int(site.module.kernel_size[0])
            self.conv = zero(nn.Conv2d(inputs, site.width, kernel, padding=(kernel - 1) // 2, bias=False))
            return Join()

        self.tap_sites("input", build)

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        if not isinstance(user_input, str):
            return super().prepare(frame, user_input)
        pictures = [np.asarray(load_image(camera), dtype=np.uint8).transpose(2, 0, 1) for camera in frame.cameras]
        return {"picture": np.stack(pictures), "masks": drawn_masks(frame), "has_picture": np.ones(len(pictures), bool)}

    def precompute(self, arrays: Arrays) -> Arrays | None:
        if self.form == "resized":
            return None
        views = arrays["picture"].shape[:2]
        if "masks" in arrays:
            sets = [self._joined(_covered(arrays, k).flatten(0, 1)) for k in range(arrays["masks"].shape[1])]
            joined = torch.stack([one.half().unflatten(0, views) for one in sets], 1)
        else:
            joined = self._joined(arrays["picture"].flatten(0, 1)).float().unflatten(0, views)
        return {"joined": joined, "has_picture": arrays["has_picture"]}

    def augment(self, arrays: Arrays) -> Arrays:
        key = next((key for key, axes in _OF_SETS.items() if key in arrays and arrays[key].ndim == axes), None)
        if key is None:
            return arrays
        sets = arrays[key]
        drawn = torch.randint(sets.shape[1], (len(sets),)).to(sets.device)
        return {**arrays, key: sets[torch.arange(len(sets), device=sets.device), drawn][:, None]}

    def collate(self, items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        if not {"joined", "masks"} & items[0].keys():
            return super().collate(items)
        return {key: np.stack([item[key] for item in items]) for key in items[0]}  # from the training cache, or in training

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        has_picture = (arrays["has_picture"] & keep[:, None]).flatten()
        if not torch.is_grad_enabled() and not bool(has_picture.any()):
            return Signal()
        if "joined" in arrays:
            first = arrays["joined"][:, 0] if arrays["joined"].ndim == _OF_SETS["joined"] else arrays["joined"]
            joined = first.flatten(0, 1)
        else:
            picture = _covered(arrays, 0) if "masks" in arrays else arrays["picture"]
            joined = self._joined(picture.flatten(0, 1))
        joined = torch.where(has_picture[:, None, None, None], joined.to(next(self.conv.parameters()).dtype), 0.0)
        return Signal(data=self.conv(joined))

    @torch.no_grad()
    def _joined(self, picture: Tensor) -> Tensor:
        """Give what is joined to the latents, (N, K, h, w), from pictures (N, channels, H, W) of 0 to 1, −1 where masked."""
        values = unit(picture, torch.float32)
        size = [side // self.backbone.vae_factor for side in values.shape[-2:]]
        if self.form == "resized":
            return interpolate(2 * values - 1, size, mode="bilinear", antialias=True)
        mask = (values < 0).all(1, keepdim=True)
        latents = self._encoded(torch.where(mask, 0.0, 2 * values - 1))
        if self.form == "encoded":
            return latents
        return torch.cat([interpolate(mask.to(latents), size), latents], dim=1)

    def _encoded(self, values: Tensor) -> Tensor:
        latents: Tensor = self.backbone.first_stage.encode(values)
        return latents if self.scaled else self.backbone.first_stage.unscale(latents)


class Join(nn.Module):
    """Add what `Concat.encode` computed of the picture to the first convolution's output (N, width, h, w)."""

    def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor | None:
        """Return the term, or None where no row has a picture.

        Args:
            x: the convolution's input (N, C, h, w).
            y: its output (N, width, h, w).
            now: the current step.
        """
        return None if now.signal.data is None else now.signal.data.to(y.dtype)


def _covered(arrays: Arrays, number: int) -> Tensor:
    """Set pictures (B, V, 3, H, W) to −1 where one set of their masks is white, as picture plugins' masked pictures are."""
    white = arrays["masks"][:, number][:, :, None]
    return torch.where(white, -1.0, unit(arrays["picture"], torch.float32))


def _arguments(joined: int, latents: int) -> Mapping[str, Any]:
    """Give the arguments for a released network that joins so many channels; raises InputError for one that is not known."""
    known: dict[int, dict[str, Any]] = {
        latents: {"form": "encoded"}, latents + 1: {"form": "masked"}, 1: {"form": "resized", "channels": 1},
    }  # fmt: skip
    if joined not in known:
        raise InputError(
            f"it is a UNet that joins {joined} channels to {latents} latents; known are {latents} (an encoded picture), "
            f"{latents + 1} (inpainting: a mask and the masked picture) and 1 (a depth map)"
        )
    return {"picture": GIVEN, **known[joined]}

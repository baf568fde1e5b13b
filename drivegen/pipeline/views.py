"""The result of a generation: the views of one frame by camera channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from drivegen.pipeline.settings import UsedSettings
from drivegen.scene import Camera, Frame
from drivegen.scene.pictures import fitted, png, user_image
from drivegen.support.errors import InputError, nearest
from drivegen.support.names import check_file_name

SHEETS = ("sheet.png", "sheet_boxes.png")
"""What is written beside the views' pictures."""


@dataclass(frozen=True, eq=False)
class Views(Mapping[str, Any]):
    """The generated views of one frame, in ring order: ``views["CAM_FRONT"]``.

    Values follow output_type: PIL images; "np" (H, W, 3) float32 and "pt" (3, H, W) in [0, 1]; "latent" (C, h, w). `frame` has
    its cameras set to the generated size, and the description that was used.
    """

    frame: Frame
    images: Mapping[str, Any]
    settings: UsedSettings

    def __getitem__(self, channel: str) -> Any:
        if channel not in self.images:
            raise KeyError(f"no view {channel!r}; there are {', '.join(self.images)}{nearest(channel, self.images)}")
        return self.images[channel]

    def __iter__(self) -> Iterator[str]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def pictures(self) -> dict[str, Image.Image]:
        """Return every view as a PIL image, whatever the output type; raises InputError for latents."""
        return {channel: to_pil(value, channel) for channel, value in self.images.items()}

    def sheet(self) -> Image.Image:
        """Draw the contact sheet: the views in ring order around a bird's-eye picture of map, boxes and cameras."""
        from drivegen.sheet import contact_sheet

        return contact_sheet(self.frame, self.pictures())

    def sheet_boxes(self) -> Image.Image:
        """Draw the contact sheet with the boxes drawn into the images."""
        from drivegen.sheet import contact_sheet

        return contact_sheet(self.frame, self.pictures(), boxes=True)

    def as_frame(self, folder: str | Path) -> Frame:
        """Return the frame as if its cameras had taken these views, as `save` wrote them to a folder, for `nuscenes.write`."""
        return self.frame.with_pictures({channel: Path(folder) / f"{channel}.png" for channel in self.images})

    def save(self, folder: str | Path) -> Path:
        """Write CHANNEL.png for each view, sheet.png and sheet_boxes.png into a folder, each atomically; returns the folder."""
        folder = Path(folder)
        for channel in self.images:
            check_file_name(channel, "camera")
            if f"{channel}.png" in SHEETS:
                raise InputError(f"camera {channel!r} has the name of a sheet, {channel}.png; rename the camera")
        folder.mkdir(parents=True, exist_ok=True)
        from drivegen.sheet import contact_sheets

        pictures = self.pictures()
        sheets = dict(zip(SHEETS, contact_sheets(self.frame, pictures, (False, True)), strict=True))
        for name, image in {**{f"{channel}.png": image for channel, image in pictures.items()}, **sheets}.items():
            save_png(image, folder / name)
        return folder


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    from drivegen.support.files import write_atomically

    write_atomically(path, png(image))


def to_pil(value: Any, channel: str) -> Image.Image:
    """Convert one view of any output type but "latent" to a PIL image."""
    if isinstance(value, Image.Image):
        return value
    array = value.movedim(0, -1).cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.shape[-1] != 3:
        raise InputError(f"view {channel!r} holds latents; generate with output_type 'pil', 'np' or 'pt' for pictures")
    return Image.fromarray((array * 255).round().clip(0, 255).astype(np.uint8))


def convert(pixels: Tensor, output_type: str) -> list[Any]:
    """Convert decoded pixels (N, 3, H, W) in about [−1, 1] to N values of an output type."""
    unit = (pixels.float() / 2 + 0.5).clamp(0, 1).cpu()
    if output_type == "pt":
        return list(unit)
    arrays = unit.permute(0, 2, 3, 1).numpy()
    if output_type == "np":
        return list(arrays)
    return [Image.fromarray(array) for array in (arrays * 255).round().astype(np.uint8)]


def to_pixels(image: Any, size: tuple[int, int], camera: Camera | None = None) -> Tensor:
    """Convert a picture of any size to (3, H, W) in [−1, 1] at the generated size, cropped as a camera's pictures are.

    Args:
        image: a PIL image, a file, or an array (H, W, 3) of uint8 or of 0 to 1.
        size: the generated (width, height) in pixels.
        camera: the view that it is for, so that a picture of its native shape is cropped as its own are; None for none.
    """
    where = "picture" if camera is None else f"picture of {camera.channel}"
    fit = fitted(user_image(image, where), size, camera)
    return torch.from_numpy(np.asarray(fit, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1)

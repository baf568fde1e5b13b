"""A recorded frame edited: all views drawn together, blended into the recorded pictures at their own size."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drivegen.edit.areas import Area, areas, feathered
from drivegen.edit.changes import Edits, check_room
from drivegen.edit.matching import matched
from drivegen.pipeline.checks import RECORDED
from drivegen.pipeline.pipeline import Pipeline
from drivegen.pipeline.plan import Plan
from drivegen.pipeline.settings import GenerationSettings
from drivegen.pipeline.views import save_png
from drivegen.raster.object_masks import margin_px
from drivegen.scene import Camera, Frame
from drivegen.scene.pictures import load_image, user_image
from drivegen.support.errors import InputError
from drivegen.support.names import check_file_name

SHEET, MASKS = "sheet.png", "masks"

CONTINUED = 0.02
"""By this share of a picture's width a generated one of a slightly narrower shape is continued beyond its border."""


@dataclass(frozen=True, eq=False)
class Edited:
    """A frame after its edit.

    frame has the edited boxes; before and after are pictures at the recorded size by camera; areas say what was drawn anew,
    outside of which both are equal to the byte; drawn are the views as the model drew them, at its size, none where nothing
    was.
    """

    frame: Frame
    before: Mapping[str, Image.Image]
    after: Mapping[str, Image.Image]
    areas: Mapping[str, Area]
    drawn: Mapping[str, Image.Image]

    def sheet(self) -> Image.Image:
        """Draw the views that changed, a row each: before, after, difference."""
        from drivegen.sheet import before_after

        bounds = {channel: area.bounds for channel, area in self.areas.items()}
        return before_after(self.frame, self.before, self.after, bounds)

    def save(self, folder: str | Path) -> Path:
        """Write CHANNEL.png of each view, masks/CHANNEL.png of each that changed, and sheet.png, each atomically."""
        folder = Path(folder)
        for channel in self.after:
            check_file_name(channel, "camera")
            if f"{channel}.png" == SHEET:
                raise InputError(f"camera {channel!r} has the name of the sheet, {SHEET}; rename the camera")
        folder.mkdir(parents=True, exist_ok=True)
        remove_masks(folder, self.after)
        (folder / MASKS).mkdir(exist_ok=True)
        for channel, picture in self.after.items():
            save_png(picture, folder / f"{channel}.png")
            if self.areas[channel].bounds is not None:
                mask = Image.fromarray((self.areas[channel].alpha * 255).round().astype(np.uint8))
                save_png(mask, folder / MASKS / f"{channel}.png")
        save_png(self.sheet(), folder / SHEET)
        return folder


def remove_masks(folder: Path, channels: Iterable[str]) -> None:
    """Remove the masks that an edit before left in a frame's folder."""
    for channel in channels:
        (folder / MASKS / f"{channel}.png").unlink(missing_ok=True)
    if (folder / MASKS).is_dir() and not any((folder / MASKS).iterdir()):
        (folder / MASKS).rmdir()


def edit(
    pipe: Pipeline, frame: Frame, edits: Edits, settings: GenerationSettings | None = None, **overrides: Any
) -> Edited:  # fmt: skip
    """Edit a recorded frame: what changes is drawn anew in all views at once, the rest stays as recorded, byte for byte.

    Raises InputError for an object or camera that the frame does not have, and for a change that no camera sees.

    Args:
        pipe: the model.
        frame: with recorded pictures in its cameras.
        edits: what changes.
        settings: how the views are drawn; None is the model's defaults.
        overrides: options in place of the settings'.
    """
    return run(pipe, prepared(pipe, frame, edits, settings, **overrides))


@dataclass(frozen=True, eq=False)
class Prepared:
    """An edit before any network computes.

    frame has the edited boxes; before are the recorded pictures by camera, areas what is drawn anew of them; plan is None where
    nothing is.
    """

    frame: Frame
    before: Mapping[str, Image.Image]
    areas: Mapping[str, Area]
    plan: Plan | None

    @property
    def masks(self) -> tuple[str, ...]:
        """Names of the files of masks that are written."""
        return tuple(f"{MASKS}/{channel}.png" for channel, area in self.areas.items() if area.bounds is not None)

    def digest(self) -> str:
        """Return one sha256 over all that the edited pictures are made of besides the model and its settings."""
        found = hashlib.sha256(("" if self.plan is None else self.plan.digest()).encode())
        for channel, picture in self.before.items():
            found.update(f"{channel} {picture.size}".encode())
            found.update(picture.tobytes())
            found.update(np.ascontiguousarray(self.areas[channel].alpha).tobytes())
        return found.hexdigest()


def prepared(
    pipe: Pipeline, frame: Frame, edits: Edits, settings: GenerationSettings | None = None, **overrides: Any
) -> Prepared:  # fmt: skip
    """Prepare an edit; raises InputError as `edit` does.

    Args:
        pipe: the model.
        frame: with recorded pictures in its cameras.
        edits: what changes.
        settings: how the views are drawn; None is the model's defaults.
        overrides: options in place of the settings'.
    """
    after, found = planned(frame, edits)
    before = {camera.channel: load_image(_native(camera)) for camera in frame.cameras}
    if not any(area.alpha.any() for area in found.values()):
        return Prepared(after, before, found, None)
    if edits.prompt is not None:
        overrides = {**overrides, "prompt": edits.prompt}
    size = (GenerationSettings() if settings is None else settings).replaced(**overrides).size or pipe.model.image_size
    cameras, cell = frame.resized(size[1], size[0]).cameras, pipe.host.backbone.vae_factor
    found = {c.channel: replace(found[c.channel], alpha=found[c.channel].alpha * shown(c)) for c in cameras}
    if not any(area.alpha.any() for area in found.values()):
        what = f"pictures of {size[0]}x{size[1]} do not show it"
        raise InputError(
            f"frame {frame.token!r}: what is edited is at the sides of the pictures, and {what}; give another size"
        )
    masks = {c.channel: drawn_cells(c, found[c.channel], cell) for c in cameras}
    options = pipe.settings(settings, **overrides, image=RECORDED, mask=masks, repeats=1, output_type="pil")
    return Prepared(after, before, found, next(pipe.plans(after, options)))


def run(pipe: Pipeline, work: Prepared, progress: Any = None) -> Edited:
    """Draw and blend what was prepared.

    Args:
        pipe: the model.
        work: of `prepared`.
        progress: ``progress(step)`` is called after each step; None for none.
    """
    if work.plan is None:
        return Edited(work.frame, work.before, dict(work.before), work.areas, {})
    drawn = pipe.run(work.plan, progress).pictures()
    cameras = {camera.channel: camera for camera in work.plan.frame.cameras}
    pictures = {c: blended(cameras[c], work.before[c], drawn[c], area) for c, area in work.areas.items()}
    return Edited(work.frame, work.before, pictures, work.areas, drawn)


def planned(frame: Frame, edits: Edits) -> tuple[Frame, dict[str, Area]]:
    """Return the edited frame, and what is drawn anew of each camera's picture; raises InputError as `edit` does.

    Args:
        frame: the recorded one.
        edits: what changes.
    """
    after, changes = edits.apply(frame)
    check_room(after, changes)
    for change in changes:
        if not change.is_none and not any(area.seen for area in areas(frame, after, [change]).values()):
            raise InputError(
                f"frame {frame.token!r}: {change.what} is in no camera's picture: it is behind them, or behind other objects"
            )
    found = areas(frame, after, changes)
    for channel, mask in edits.masks.items():
        camera, area = _native(frame.camera(channel)), found[channel]
        found[channel] = Area(np.maximum(area.alpha, _given(camera, mask)), area.seen)
    for channel, mask in edits.keep.items():
        camera, area = _native(frame.camera(channel)), found[channel]
        fading = 1 - feathered(_white(camera, mask), margin_px(camera.width_px))
        found[channel] = Area(area.alpha * fading, area.seen)
    return after, found


def _white(camera: Camera, mask: Any) -> NDArray[np.bool_]:
    """Read where a caller's mask is white, at the recorded size."""
    width, height = camera.image_size
    if isinstance(mask, bool):
        return np.full((height, width), mask)
    image = user_image(mask, f"mask of {camera.channel}", "L")
    if image.width * height != image.height * width:
        said = f"{image.width}x{image.height}, and its pictures are {width}x{height}"
        raise InputError(f"the mask of {camera.channel} is {said}; give one of that size or shape")
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST)) > 127


def _given(camera: Camera, mask: Any) -> NDArray[np.float32]:
    """Read a caller's mask at the recorded size, feathered by few pixels within it."""
    inside = _white(camera, mask)
    if isinstance(mask, bool):
        return inside.astype(np.float32)
    if not inside.any():
        raise InputError(f"the mask of {camera.channel} has nothing that is white, so nothing of it would be drawn anew")
    # What is black stays as recorded, to the byte: the feather lies within what is white.
    distance = feathered(~inside, max(2, camera.width_px // 200))
    return np.where(inside, 1 - distance + np.float32(1 / 255), 0).clip(0, 1).astype(np.float32)


def drawn_cells(camera: Camera, area: Area, cell: int) -> NDArray[np.bool_]:
    """Return an area as a mask of the generated image (H, W), of whole latent cells: each of which anything is drawn anew.

    Args:
        camera: set to the generated size.
        area: of its recorded picture.
        cell: pixels per latent cell.
    """
    width, height = camera.image_size
    assert camera.resize is not None
    rows, columns = np.nonzero(area.alpha)
    out = np.zeros((height // cell, width // cell), bool)
    for corner in ((0, 0), (1 - 1e-6, 1 - 1e-6)):  # a recorded pixel may be larger than a generated one
        at = np.stack([columns + corner[0], rows + corner[1]], -1) * camera.resize.scale
        x, y = ((at - (camera.resize.left_px, camera.resize.top_px)) // cell).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < out.shape[1]) & (y < out.shape[0])
        out[y[inside], x[inside]] = True
    return np.kron(out, np.ones((cell, cell), bool))


def blended(camera: Camera, recorded: Image.Image, drawn: Image.Image, area: Area) -> Image.Image:
    """Blend a generated picture into the recorded one, where an area says so, its colours matched to those about it.

    Args:
        camera: set to the generated size.
        recorded: the picture at the camera's own size.
        drawn: the generated one.
        area: what is taken of it.
    """
    resize = camera.resize
    assert resize is not None
    if area.bounds is None:
        return recorded
    more = 2 + math.ceil(CONTINUED * recorded.width * resize.scale)
    wider = Image.fromarray(np.pad(np.asarray(drawn), ((more, more), (more, more), (0, 0)), mode="edge"))
    step = (resize.scale, 0.0, more - resize.left_px, 0.0, resize.scale, more - resize.top_px)
    large = wider.transform(recorded.size, Image.Transform.AFFINE, step, Image.Resampling.BICUBIC)
    old, new = np.asarray(recorded, dtype=np.float32), np.asarray(large, dtype=np.float32)
    mixed = old + (matched(new, old, area.alpha, shown(camera) > 0) - old) * area.alpha[..., None]
    return Image.fromarray(np.where(area.alpha[..., None] > 0, mixed.round().clip(0, 255), old).astype(np.uint8))


def shown(camera: Camera) -> NDArray[np.float32]:
    """Return 1 where a generated picture shows the recorded one (H, W), or where its border is continued; then it falls to 0.

    Args:
        camera: set to the generated size.
    """
    resize, (width, height) = camera.resize, camera.image_size
    assert resize is not None
    more = CONTINUED * camera.width_px * resize.scale
    rows = (np.arange(camera.height_px) + 0.5) * resize.scale - resize.top_px
    columns = (np.arange(camera.width_px) + 0.5) * resize.scale - resize.left_px
    there = ((rows >= -more) & (rows < height + more))[:, None] & ((columns >= -more) & (columns < width + more))[None]
    return 1 - feathered(~there, margin_px(camera.width_px)) if not there.all() else np.ones(there.shape, np.float32)


def _native(camera: Camera) -> Camera:
    return replace(camera, resize=None)

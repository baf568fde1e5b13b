"""BEVControl: sketches of boxes and map in each view, read at the end of every transformer block (Yang et al. 2023)."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from drivegen import raster
from drivegen.plugin import Arrays, Now, Plugin, Signal, select_or_null
from drivegen.plugin.attention import attention
from drivegen.plugin.class_tokens import class_tokens
from drivegen.plugin.control_branch import zero
from drivegen.plugin.fourier import fourier_features
from drivegen.plugin.slots import stack_slots
from drivegen.plugin.view_attention import attend_to_neighbours, neighbour_table
from drivegen.scene import BEV_CLASSES, DETECTION_CLASSES, Box3D, Camera, Frame
from drivegen.scene.geometry import NEAR_M, project
from drivegen.support.errors import InputError, at_least

POSITION_FREQUENCIES, HEADING_FREQUENCIES = 8, 4
"""Of the Fourier features: the finest sees an eightieth of the picture's side, and an eighth of a turn."""

BESIDE = 1.0
"""Corners further outside than this share of the picture's side lie on that limit."""


class BEVControl(Plugin):
    """Foreground tokens (a box each) and background tokens (the map in the picture) of each view, in every transformer block.

    At the end of a block, Controller joins them to the stream in self-attention; Coordinator lets each view attend to its
    neighbours' streams and sketches. Boxes of no detection class are left out; a null sketch is learned tokens that know of
    nothing, and views stay coordinated.

    Args:
        coordinator: False leaves it out, so that another plugin such as `cross_view` takes its place.
        max_boxes: the most boxes of a view; the nearest are kept.
        channels: of the convolutions that halve the map's picture, one per halving.
    """

    accepts = ()

    def __init__(
        self, coordinator: bool = True, max_boxes: int = 64, channels: tuple[int, ...] = (16, 32, 64, 96, 128)
    ) -> None:
        super().__init__()
        if not channels:
            raise InputError("bevcontrol: channels is empty; give at least one number")
        at_least(1, channels=tuple(channels), max_boxes=max_boxes)
        self.coordinator, self.max_boxes, self.channels = coordinator, max_boxes, tuple(channels)

    def attach(self, backbone: Any) -> None:
        width = backbone.token_width
        self.foreground = Foreground(class_tokens(backbone, width))
        self.background = Background(width, self.channels)

        self.tap_sites("transformer_end", lambda site: SketchLayer(width, site.width, site.heads, self.coordinator))

    # -- per frame -----------------------------------------------------------------------------------------------------

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        views = [self._nearest(frame, camera) for camera in frame.cameras]
        slots = max(map(len, views), default=0)
        corners = np.zeros((len(views), slots, 8, 2), np.float32)
        heading = np.zeros((len(views), slots), np.float32)
        classes = np.full((len(views), slots), -1, np.int64)
        for v, (camera, boxes) in enumerate(zip(frame.cameras, views, strict=True)):
            for m, box in enumerate(boxes):
                corners[v, m], heading[v, m] = corners_in_picture(camera, box), heading_in_view(camera, box)
                classes[v, m] = DETECTION_CLASSES.index(str(box.detection_class))
        ground = replace(frame, boxes=())  # the map is drawn as if nothing stood on it: boxes are the foreground's
        maps = np.stack([raster.layout(ground, camera).map_bits for camera in frame.cameras])
        arrays: dict[str, np.ndarray] = {
            "corners": corners,
            "heading": heading,
            "classes": classes,
            "mask": classes >= 0,
            "map": maps,
        }
        if self.coordinator:
            arrays["null_neighbours"] = neighbour_table(frame.cameras)  # the rig is known also where the scene is not
        return arrays

    def _nearest(self, frame: Frame, camera: Camera) -> list[Box3D]:
        """List the boxes of a detection class of which something lies in a camera's picture, nearest first."""
        seen = [s.box for s in reversed(raster.seen_boxes(frame, camera)) if s.box.detection_class is not None]
        if len(seen) > self.max_boxes:
            warnings.warn(f"{camera.channel} sees {len(seen)} boxes; the nearest {self.max_boxes} are kept", stacklevel=2)
        return seen[: self.max_boxes]

    def collate(self, items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        fill: dict[str, Any] = {"corners": 0.0, "heading": 0.0, "classes": -1, "mask": False}
        alike = {key: np.stack([item[key] for item in items]) for key in items[0] if key not in fill}
        return {**stack_slots(items, fill, least=1), **alike}  # a null view needs one slot

    # -- once per batch ------------------------------------------------------------------------------------------------

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        kept = keep.repeat_interleave(arrays["map"].shape[1])
        corners, heading, classes, mask, maps = (
            arrays[key].flatten(0, 1) for key in ("corners", "heading", "classes", "mask", "map")
        )
        foreground, mask = self.foreground(corners, heading, classes, mask, kept)
        table = arrays.get("null_neighbours")
        whole = table is not None and bool((table >= 0).all())
        return Signal(data=Sketch(foreground, mask, self.background(maps, kept), table, whole))


def corners_in_picture(camera: Camera, box: Box3D) -> np.ndarray:
    """Project a box's corners (8, 2) to shares of the picture's width and height, within BESIDE of it.

    A corner behind the near plane is put onto it, far outside on its own side.
    """
    points = raster.corners_in_camera(camera, box)
    pixels, _ = project(camera.K_image, np.concatenate([points[:, :2], points[:, 2:].clip(min=NEAR_M)], 1))
    return (pixels / np.array(camera.image_size)).clip(-BESIDE, 1 + BESIDE)


def heading_in_view(camera: Camera, box: Box3D) -> float:
    """Give the angle in radians from the viewing ray to the object's heading: 0 = seen from behind, π = head-on."""
    ray = box.global_SE3_object.translation - camera.global_SE3_camera.translation
    forward, left, _ = box.global_SE3_object.rotation.T @ ray
    return math.atan2(-left, forward)


@dataclass(frozen=True, eq=False)
class Sketch:
    """What layers read: foreground tokens (N, M, D) and which there are (N, M), background tokens (N, S, D), table (B, V, 2) of
    the neighbours, None without Coordinator, and whether none of them is missing.
    """

    foreground: Tensor
    mask: Tensor
    background: Tensor
    table: Tensor | None
    whole: bool
    memories: dict[nn.Module, Memories] = field(default_factory=dict)
    """What layers have made of the tokens: it is the same at every step."""


class Foreground(nn.Module):
    """A token for each box: corners, heading and class, embedded each, summed and projected.

    Args:
        classes: embeddings of the detection classes (10, D).
    """

    def __init__(self, classes: Tensor) -> None:
        super().__init__()
        width = classes.shape[1]
        self.classes = nn.Parameter(classes)
        self.corners = nn.Linear(8 * 2 * (1 + 2 * POSITION_FREQUENCIES), width)
        self.heading = nn.Linear(2 * HEADING_FREQUENCIES, width)
        self.kind = nn.Linear(width, width)
        self.project = nn.Sequential(nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, corners: Tensor, heading: Tensor, classes: Tensor, mask: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (N, M, D), and which of them there are; a null view has one that knows of nothing.

        Args:
            corners: (N, M, 8, 2) shares of the picture.
            heading: (N, M) radians.
            classes: (N, M) indices.
            mask: (N, M), True where there is a box.
            keep: (N,), False = null.
        """
        dtype = self.null.dtype
        places = fourier_features(corners.float(), POSITION_FREQUENCIES).flatten(2).to(dtype)
        # The angle itself, the first feature, jumps between −π and π.
        turns = fourier_features(heading.float()[..., None], HEADING_FREQUENCIES)[..., 1:].to(dtype)
        kinds = self.classes[torch.where(mask, classes, 0)]
        tokens = self.project(self.corners(places) + self.heading(turns) + self.kind(kinds))
        first = torch.zeros_like(mask)
        first[:, 0] = True
        return select_or_null(keep, tokens, self.null), torch.where(keep[:, None], mask, first)


class Background(nn.Module):
    """A token for each cell of the map's picture: convolutions that halve it, and Fourier features of the cell's place.

    Args:
        width: D, of the tokens.
        channels: of the convolutions, one per halving.
    """

    def __init__(self, width: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        pairs = zip((len(BEV_CLASSES), *channels), channels, strict=False)
        self.halve = nn.Sequential(*(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.SiLU()) for a, b in pairs))
        self.cell = nn.Linear(channels[-1], width)
        self.place = nn.Linear(2 * (1 + 2 * POSITION_FREQUENCIES), width)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, maps: Tensor, keep: Tensor) -> Tensor:
        """Return tokens (N, S, D).

        Args:
            maps: (N, H, W) uint8, bit i set where BEV_CLASSES[i] is seen.
            keep: (N,), False = null.
        """
        bits = torch.arange(len(BEV_CLASSES), device=maps.device).view(-1, 1, 1)
        picture = ((maps.long()[:, None] >> bits) & 1).to(self.null.dtype)
        cells = self.halve(picture)
        rows, columns = ((torch.arange(n, device=maps.device) + 0.5) / n for n in cells.shape[-2:])
        places = torch.stack([columns.expand(len(rows), -1), rows[:, None].expand(-1, len(columns))], -1).flatten(0, 1)
        where = self.place(fourier_features(places, POSITION_FREQUENCIES).to(self.null.dtype))
        tokens = self.cell(rearrange(cells, "n c h w -> n (h w) c")) + where
        return select_or_null(keep, tokens, self.null)


class Memory(NamedTuple):
    """Keys and values (N, S, C) that tokens give, and which tokens there are (N, S), None for all."""

    keys: Tensor
    values: Tensor
    mask: Tensor | None


class Memories(NamedTuple):
    """What one layer reads of a sketch; local is None without Coordinator."""

    foreground: Memory
    background: Memory
    local: Memory | None


class SketchLayer(nn.Module):
    """The term of one transformer block: Controller's, and then Coordinator's on the stream with it.

    Args:
        token_width: D, of the sketch's tokens.
        width: C, of the stream.
        heads: of the attentions.
        coordinator: whether views attend to their neighbours.
    """

    def __init__(self, token_width: int, width: int, heads: int, coordinator: bool) -> None:
        super().__init__()
        self.to_foreground, self.to_background = (nn.Linear(token_width, width) for _ in range(2))
        self.foreground, self.background = (Attention(width, heads) for _ in range(2))
        self.globally = Attention(width, heads) if coordinator else None
        self.locally = Attention(width, heads) if coordinator else None

    def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
        """Return the term (N, L, C) for the block's output.

        Args:
            x: input of the block (N, L, C).
            y: its output (N, L, C).
            now: the current step.
        """
        sketch: Sketch = now.signal.data
        if torch.is_grad_enabled():
            memories = self.read(sketch)
        else:
            memories = sketch.memories.get(self) or sketch.memories.setdefault(self, self.read(sketch))
        term = self.foreground.with_tokens(y, memories.foreground) + self.background.with_tokens(y, memories.background)
        if self.globally is None or self.locally is None or sketch.table is None or memories.local is None:
            return term
        stream = y + term
        term = term + self.globally.across(stream, self.globally.memory(stream), sketch.table, sketch.whole)
        return term + self.locally.across(stream, memories.local, sketch.table, sketch.whole)

    def read(self, sketch: Sketch) -> Memories:
        """Project a sketch for this block, and to the keys and values of its attentions."""
        foreground, background = self.to_foreground(sketch.foreground), self.to_background(sketch.background)
        local = None
        if self.locally is not None:
            mask = torch.cat([sketch.mask, sketch.mask.new_ones(background.shape[:2])], 1)
            local = self.locally.memory(torch.cat([foreground, background], 1), mask)
        return Memories(self.foreground.memory(foreground, sketch.mask), self.background.memory(background), local)


class Attention(nn.Module):
    """Attention of a stream, after one normalisation of all that takes part; adds nothing until it is trained.

    Args:
        width: C.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = zero(nn.Linear(width, width, bias=False))  # a bias would add to views without neighbours

    def memory(self, tokens: Tensor, mask: Tensor | None = None) -> Memory:
        """Give keys and values of tokens (N, S, C), of which mask (N, S) are there; None = all."""
        normal = self.norm(tokens)
        return Memory(self.to_k(normal), self.to_v(normal), mask)

    def with_tokens(self, stream: Tensor, tokens: Memory) -> Tensor:
        """Give the stream's part (N, L, C) of the self-attention of stream (N, L, C) and tokens together."""
        normal = self.norm(stream)
        keys, values = torch.cat([self.to_k(normal), tokens.keys], 1), torch.cat([self.to_v(normal), tokens.values], 1)
        q, k, v = (rearrange(z, "n l (h d) -> n h l d", h=self.heads) for z in (self.to_q(normal), keys, values))
        mask = tokens.mask
        if mask is not None:
            mask = torch.cat([mask.new_ones(stream.shape[:2]), mask], 1)[:, None, None]
        return self._out(attention(q, k, v, mask))

    def across(self, stream: Tensor, given: Memory, table: Tensor, whole: bool) -> Tensor:
        """Give what each view of a stream finds at its neighbours (N, L, C).

        Args:
            stream: queries (N, L, C).
            given: keys and values of every view.
            table: (B, V, K) which views each attends to, -1 = none.
            whole: promises that no neighbour is missing.
        """
        q = self.to_q(self.norm(stream))
        return self._out(attend_to_neighbours(q, given.keys, given.values, table, self.heads, whole, given.mask))

    def _out(self, found: Tensor) -> Tensor:
        out: Tensor = self.to_out(rearrange(found, "n h l d -> n l (h d)"))
        return out

"""A source scene and one variant of it: edited frames with new tokens."""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from drivegen.datasets.nuscenes.schema import ATTRIBUTES, FULL_CATEGORY, make_token
from drivegen.scene import Box3D, Frame, Scene
from drivegen.synthesis.box_edits import Skipped, edit_boxes
from drivegen.synthesis.lidar import Change
from drivegen.synthesis.recipe import CameraEdit, Recipe, Variant
from drivegen.synthesis.rigs import mounted
from drivegen.synthesis.tracks import Tracks
from drivegen.synthesis.wording import described


@dataclass(frozen=True, eq=False)
class Edited:
    """What was changed in a frame: the boxes before, those that changed, each with what it is now, and whether cameras did."""

    before: tuple[Box3D, ...]
    changes: tuple[Change, ...]
    other_rig: bool


@dataclass(frozen=True, eq=False)
class Varied:
    """A variant of a scene: `scene` as it will be in the dataset, and per frame what was changed.

    sources are the source's sample tokens, frame by frame; label is the variant's name, numbered where it has several seeds.
    How much is seen of boxes, and their points, are the source's still (`truth`).
    """

    scene: Scene
    sources: tuple[str, ...]
    variant: str
    label: str
    edits: tuple[Edited, ...]
    skipped: Skipped


def sample_token(run: str, label: str, source: str) -> str:
    """Return the token of a sample.

    Args:
        run: digest of recipe, source and model.
        label: the variant's.
        source: the source's token of it.
    """
    return make_token("synthesis", run, label, source)


def vary(scene: Scene, recipe: Recipe, name: str, label: str, run: str) -> Varied:
    """Apply a variant to a source scene.

    Args:
        scene: the source.
        recipe: it holds the variant.
        name: the variant's.
        label: its name, with a number where it has several seeds.
        run: digest of recipe, source and model, from which tokens are made.

    Raises InputError where no camera is left.
    """
    variant = recipe.variants[name]
    tracks, skipped = edit_boxes(scene, variant.boxes, (recipe.seed, scene.name, label))
    skipped = skipped + _missing_channels(scene, variant) + _unknown_attributes(tracks)
    new = f"{scene.name}__{label}"
    frames, edits = [], []
    kinds: dict[str, str] = {}
    for source, boxes in zip(scene.frames, tracks.frames, strict=True):
        named = {key: _renamed(box, _of_a_kind(key, box, kinds), run, label, scene.name) for key, box in boxes.items()}
        frame = replace(
            source, token=sample_token(run, label, source.token), scene_name=new, boxes=tuple(named.values()),
            description=described(source.description, variant),
        )  # fmt: skip
        rig = _rig(mounted(frame, variant.rig) if variant.rig else frame, variant.cameras)
        frames.append(rig)
        edits.append(Edited(source.boxes, _changes(source, boxes, named), rig is not frame))
    out = Scene(
        new, tuple(frames), described(scene.description, variant), scene.location, make_token("synthesis", run, label, new)
    )
    return Varied(out, tuple(frame.token for frame in scene.frames), name, label, tuple(edits), skipped)


def _of_a_kind(key: str, box: Box3D, kinds: dict[str, str]) -> str:
    """Return an object's name, another one where its category is not that of its first frame: an instance has one."""
    category = FULL_CATEGORY.get(box.category, box.category)
    return key if kinds.setdefault(key, category) == category else f"{key}/{category}"


def _renamed(box: Box3D, key: str, run: str, label: str, scene: str) -> Box3D:
    attribute = box.attribute if _is_known(box) else ""
    return replace(box, token="", instance=make_token("synthesis", run, label, scene, "instance", key), attribute=attribute)


def _is_known(box: Box3D) -> bool:
    """Tell whether the devkit's evaluation, which reads boxes of detection classes, takes a box's attribute."""
    return box.attribute in ("", *ATTRIBUTES) or box.detection_class is None


def _unknown_attributes(tracks: Tracks) -> Skipped:
    found = {(name, box.attribute) for frame in tracks.frames for name, box in frame.items() if not _is_known(box)}
    return Counter(f"attributes: {attribute!r} is none of nuScenes'" for _, attribute in found)


def _changes(source: Frame, boxes: dict[str, Box3D], named: dict[str, Box3D]) -> tuple[Change, ...]:
    """List the boxes of a frame that are others than before, as they were and as they are named now."""
    before = {box.instance or f"{source.token}/{i}": box for i, box in enumerate(source.boxes)}
    changes: list[Change] = []
    for key in dict.fromkeys((*before, *boxes)):
        old, new = before.get(key), boxes.get(key)
        if old is not new and (old is None or new is None or _shape(old) != _shape(new)):
            changes.append((old, named.get(key)))
    return tuple(changes)


def _shape(box: Box3D) -> tuple[bytes, bytes]:
    return box.global_SE3_object.matrix.tobytes(), np.asarray(box.size_wlh_m).tobytes()


def _rig(frame: Frame, edits: tuple[CameraEdit, ...]) -> Frame:
    """Edit a frame's cameras, in the recipe's order; raises InputError where none is left."""
    for edit in edits:
        for channel in fnmatch.filter(frame.channels, edit.channel):
            if edit.drop:
                frame = frame.drop_camera(channel)
                continue
            if edit.yaw_deg or any(edit.translation_m):
                frame = frame.move_camera(channel, edit.translation_m, math.radians(edit.yaw_deg))
            if edit.focal != 1:
                K = np.array(frame.camera(channel).K_native)
                K[[0, 1], [0, 1]] *= edit.focal
                frame = frame.edit_camera(channel, K_native=K)
    return frame


def _missing_channels(scene: Scene, variant: Variant) -> Skipped:
    """Count edits of cameras that there are not."""
    channels = set(variant.rig) or {channel for frame in scene.frames for channel in frame.channels}
    return Counter(
        f"cameras: no camera {edit.channel!r}" for edit in variant.cameras if not fnmatch.filter(channels, edit.channel)
    )

"""Recipes: which variants of each source scene a synthetic dataset holds, read strictly from YAML."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from drivegen.datasets.nuscenes.schema import CATEGORIES
from drivegen.sampling import MAX_SEED
from drivegen.scene import DETECTION_CLASSES
from drivegen.support import strict_yaml
from drivegen.support.errors import InputError, nearest
from drivegen.synthesis import references
from drivegen.synthesis.rigs import Calibration

Range = tuple[float, float]
"""(lowest, highest) of an even draw."""

_SHARE = {"ge": 0.0, "le": 1.0}
_KNOWN = (*DETECTION_CLASSES, *CATEGORIES)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")


def _check_class(name: str, what: str) -> None:
    if name not in _KNOWN:
        raise InputError(f"{what} {name!r} is no class{nearest(name, _KNOWN)}; there are {', '.join(DETECTION_CLASSES)}")


def _check_range(values: Range, what: str) -> None:
    if values[0] > values[1]:
        raise InputError(f"{what} = {list(values)}: the lowest comes first")


@dataclass(frozen=True, kw_only=True)
class BoxEdit:
    """The objects that an edit applies to: those of some classes (all where none is named), each with a probability.

    An object is drawn once and edited alike in every key frame of its scene.
    """

    classes: tuple[str, ...] = ()
    probability: float = field(default=1.0, metadata=_SHARE)

    def __post_init__(self) -> None:
        for name in self.classes:
            _check_class(name, "classes:")


@dataclass(frozen=True, kw_only=True)
class Drop(BoxEdit):
    """Remove objects."""


@dataclass(frozen=True, kw_only=True)
class Swap(BoxEdit):
    """Replace objects by others of another class, of its usual size."""

    to: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_class(self.to, "to:")


@dataclass(frozen=True, kw_only=True)
class Move(BoxEdit):
    """Move objects in their own frame; with on_lane along the lane, and only those that are on one and stay on one."""

    forward_m: Range = (0.0, 0.0)
    left_m: Range = (0.0, 0.0)
    turn_deg: Range = (0.0, 0.0)
    on_lane: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("forward_m", "left_m", "turn_deg"):
            _check_range(getattr(self, name), name)


@dataclass(frozen=True, kw_only=True)
class Jitter(BoxEdit):
    """Move, turn and resize objects a little: each number is the largest change in either direction; size is relative."""

    position_m: float = field(default=0.0, metadata={"ge": 0.0, "le": 10.0})
    heading_deg: float = field(default=0.0, metadata={"ge": 0.0, "le": 180.0})
    size: float = field(default=0.0, metadata={"ge": 0.0, "le": 0.5})


@dataclass(frozen=True, kw_only=True)
class Insert:
    """Put objects of class `to` into a scene, as many as an even draw from count.

    Vehicles go on lanes, gap_m before or behind another vehicle. With where "road" the drivable area is enough, on which they
    follow the courses of others: for maps without lanes. Pedestrians go, with where "walkway", on walkways and crossings.
    """

    to: Literal["car", "truck", "construction_vehicle", "bus", "trailer", "motorcycle", "bicycle", "pedestrian"]
    where: Literal["lane", "road", "walkway"] = "lane"
    count: tuple[int, int] = field(default=(1, 1), metadata={"ge": 0, "le": 100})
    gap_m: Range = field(default=(2.0, 25.0), metadata={"ge": 0.5, "le": 100.0})

    def __post_init__(self) -> None:
        _check_range(self.count, "count")
        _check_range(self.gap_m, "gap_m")
        if (self.to == "pedestrian") != (self.where == "walkway"):
            wrong = f"insert: {self.to} with where: {self.where}"
            raise InputError(f"{wrong}; pedestrians go on a walkway (where: walkway), vehicles on a lane or road")


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Edits of objects, done in this order."""

    drop: tuple[Drop, ...] = ()
    swap: tuple[Swap, ...] = ()
    move: tuple[Move, ...] = ()
    jitter: tuple[Jitter, ...] = ()
    insert: tuple[Insert, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CameraEdit:
    """An edit of the rig: cameras whose channel matches a pattern are turned, shifted (ego axes), zoomed, or dropped.

    focal multiplies the focal length; the principal point stays.
    """

    channel: str = "*"
    yaw_deg: float = field(default=0.0, metadata={"ge": -180.0, "le": 180.0})
    translation_m: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), metadata={"ge": -20.0, "le": 20.0})
    focal: float = field(default=1.0, metadata={"ge": 0.1, "le": 10.0})
    drop: bool = False


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to change a scene; seeds is the number of versions, each with its own draws and noise.

    prompt replaces the description, and may contain it as {description}; time and weather replace the description's own words
    for them. scales are the plugins', inputs what each is given, with {"file": name} for what a file holds, such as reference
    pictures. rig replaces the source's cameras, and cameras edits those that are there then. With only_seen, annotations of a
    frame that none of its cameras sees are left out.
    """

    seeds: int = field(default=1, metadata={"ge": 1, "le": 10_000})
    prompt: str | None = None
    time: str | None = None
    weather: str | None = None
    negative_prompt: str | None = None
    scales: Mapping[str, float] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    boxes: Boxes = field(default_factory=Boxes)
    rig: dict[str, Calibration] = field(default_factory=dict)
    cameras: tuple[CameraEdit, ...] = ()
    only_seen: bool = False

    def __post_init__(self) -> None:
        if self.prompt is not None and (self.time is not None or self.weather is not None):
            raise InputError("prompt and time or weather are both given; write all of it into prompt")


@dataclass(frozen=True, kw_only=True)
class LabelAudit:
    """What is done where a referee does not find a label in the pictures, or finds a vehicle without one.

    A box is found where a share found_at of its pixels is labelled as what it is. omitted boxes are flagged in the tables, have
    a weight below 1 there, or are dropped; invented vehicles are kept, painted over ("mask"), or dropped with their frames.
    """

    found_at: float = field(default=0.25, metadata={"gt": 0.0, "le": 1.0})
    omitted: Literal["flag", "weight", "drop"] = "flag"
    invented: Literal["keep", "mask", "drop"] = "keep"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The recipe of a synthetic dataset. None for steps, guidance, sampler and size means the model's default.

    scenes are the source's, by name, all where none is named. Scenes of the validation split are refused unless
    validation_scenes is True. licence is the source's, and is written into every image's provenance. audit holds the labels
    against the pictures; None does not.
    """

    name: str
    variants: dict[str, Variant]
    seed: int = field(default=0, metadata={"ge": 0, "le": MAX_SEED})
    scenes: tuple[str, ...] = ()
    validation_scenes: bool = False
    licence: str = ""
    images: Literal["png", "jpeg"] = "png"
    steps: int | None = field(default=None, metadata={"ge": 1})
    guidance: float | None = None
    sampler: str | None = None
    size: tuple[int, int] | None = field(default=None, metadata={"ge": 1})
    audit: LabelAudit | None = None

    def __post_init__(self) -> None:
        if not self.variants:
            raise InputError("variants is empty; give at least one")
        for what, name in (("name", self.name), *(("variants:", variant) for variant in self.variants)):
            if not _NAME.fullmatch(name):
                raise InputError(f"{what} {name!r} cannot name scenes; use up to 60 letters, digits, '_' and '-'")
        found = [label for _, label in self.labels]
        for label in found:
            if found.count(label) > 1:
                raise InputError(f"variants: two would make scenes of one name, {label!r}; rename one")

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read a YAML file, and what it names: other rigs, files; raises InputError naming path, value and what is allowed."""
        try:
            return strict_yaml.build(cls, references.resolved(strict_yaml.read(Path(path)), Path(path).parent))
        except InputError as error:
            raise InputError(f"recipe {path}: {error}") from error

    @property
    def labels(self) -> list[tuple[str, str]]:
        """List (variant, label) of all versions of each scene: a variant of several seeds is numbered."""
        return [
            (name, name if variant.seeds == 1 else f"{name}-{i}")
            for name, variant in self.variants.items()
            for i in range(variant.seeds)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values; of files the names and digests, not the folder."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        for variant in found["variants"].values():
            variant["inputs"] = references.named(variant["inputs"])
        if self.audit is None:
            del found["audit"]  # recipes without one keep the digest that they had before there was any
        return found

    @property
    def sha256(self) -> str:
        """Digest of the recipe's values: the file's formatting does not matter."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

"""Referees of the caller's choice: the committed network, a network of one's own, or a command."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from drivegen.evaluate import referee
from drivegen.evaluate.referee import GROUPS
from drivegen.support.errors import InputError, nearest
from drivegen.support.files import sha256

JUDGED = ("drivable", "vehicle", "pedestrian", "barrier")
"""Groups that a referee of one's own may tell; the first two are needed."""

OTHER = 255
"""Label of what is of none of the groups."""

Pictures = Iterable[NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class Judge:
    """``judge(pictures)`` labels pictures (H, W, 3) of one size: (N, H, W) uint8, indices into GROUPS, or OTHER.

    facts says, as JSON values, all that its labels depend on; groups are those that it can tell.
    """

    facts: Mapping[str, Any]
    groups: tuple[str, ...]
    label: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

    def __call__(self, pictures: Pictures) -> NDArray[np.uint8]:
        """Label pictures; raises InputError where the labels are not of their size."""
        stacked = np.stack(list(pictures))
        labels = self.label(stacked)
        if labels.shape != stacked.shape[:3]:
            raise InputError(f"the referee's labels have shape {labels.shape}, expected {stacked.shape[:3]}: one per pixel")
        return labels


def committed(device: str | torch.device = "cpu") -> Judge:
    """Return the referee that is trained on renders of the city; it sees neither people nor barriers well enough to judge."""
    net = referee.load(device=device)
    facts = {"referee": "drivegen's, trained on the procedural city", "weights": sha256(referee.ASSET)}
    return Judge(facts, JUDGED[:2], lambda pictures: net(pictures).groups)


def parse_classes(text: str) -> dict[str, tuple[int, ...]]:
    """Read ``drivable=0,vehicle=13+14+15``: which class numbers of a referee's output belong to which group."""
    found: dict[str, tuple[int, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, numbers = part.partition("=")
        name = name.strip()
        if name not in JUDGED or name in found:
            raise InputError(
                f"--referee-classes {text!r}: {name!r} is no group, or is there twice{nearest(name, JUDGED)}; "
                f"there are {', '.join(JUDGED)}"
            )
        values = [value.strip() for value in numbers.split("+")]
        if not equals or not all(value.isdigit() and int(value) < OTHER for value in values):
            raise InputError(
                f"--referee-classes {text!r}: {part!r} must be of the form vehicle=13+14+15, numbers below {OTHER}"
            )
        found[name] = tuple(map(int, values))
    missing = [name for name in JUDGED[:2] if name not in found]
    if missing:
        raise InputError(f"--referee-classes {text!r} lacks {' and '.join(missing)}: say drivable=0,vehicle=13+14+15")
    taken = [number for numbers in found.values() for number in numbers]
    if len(set(taken)) < len(taken):
        raise InputError(f"--referee-classes {text!r} gives one class number to two groups")
    return found


def named(name: str, classes: Mapping[str, Sequence[int]], device: str | torch.device = "cpu") -> Judge:
    """Return a network that a caller names as ``MODULE:ATTRIBUTE``, importing that module.

    It maps pictures (N, 3, H, W) in [0, 1] to class scores (N, C, H, W), or to class numbers (N, H, W); a class or a function
    without arguments makes it. Raises InputError where it cannot be imported, or gives anything else.

    Args:
        name: of module and attribute.
        classes: the class numbers of each group.
        device: where it computes.
    """
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise InputError(f"--referee {name!r} must be of the form package.module:attribute")
    try:
        made: Any = importlib.import_module(module)
        for part in attribute.split("."):
            made = getattr(made, part)
        if not isinstance(made, nn.Module):
            made = made()
    except Exception as error:  # a caller's module may raise anything
        raise InputError(f"--referee {name!r} cannot be loaded: {type(error).__name__} {error}") from error
    if not callable(made):
        raise InputError(f"--referee {name!r} makes {type(made).__name__}, which cannot be called")
    if isinstance(made, nn.Module):
        made = made.eval().to(device)
    table = _table(classes)

    @torch.no_grad()
    def label(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        found = []
        for part in torch.from_numpy(pictures).split(8):
            try:
                said = made(part.to(device).permute(0, 3, 1, 2).float() / 255)
            except Exception as error:  # likewise
                raise InputError(f"--referee {name!r} fails on {tuple(part.shape)}: {type(error).__name__} {error}") from error
            if not isinstance(said, torch.Tensor) or said.ndim not in (3, 4):
                raise InputError(f"--referee {name!r} gives {type(said).__name__}, expected a tensor (N, C, H, W) of scores")
            numbers = said.argmax(1) if said.ndim == 4 else said
            found.append(table[numbers.long().clamp(0, OTHER).cpu().numpy()])
        return np.concatenate(found)

    return Judge({"referee": name, "classes": _plain(classes)}, tuple(classes), label)


def command(line: str, classes: Mapping[str, Sequence[int]]) -> Judge:
    """Return a command as a referee: ``python segment.py {pictures} {labels}``.

    {pictures} becomes a folder of PNGs, {labels} one in which the command leaves a PNG of the same name for each, whose values
    are class numbers. Raises InputError where the command fails, or a file is missing or of another size.
    """
    words = shlex.split(line)
    if not words or not all(any(place in word for word in words) for place in ("{pictures}", "{labels}")):
        raise InputError(f"--referee-command {line!r} must hold {{pictures}} and {{labels}}, the folders to read and to write")
    table = _table(classes)

    def label(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with tempfile.TemporaryDirectory() as scratch:
            there, here = Path(scratch) / "pictures", Path(scratch) / "labels"
            there.mkdir()
            here.mkdir()
            for i, picture in enumerate(pictures):
                Image.fromarray(picture).save(there / f"{i:06d}.png")
            filled = [word.replace("{pictures}", str(there)).replace("{labels}", str(here)) for word in words]
            try:
                done = subprocess.run(filled, capture_output=True, text=True, check=False)
            except OSError as error:
                raise InputError(f"--referee-command {line!r} cannot be run: {error}") from error
            if done.returncode:
                last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
                raise InputError(f"--referee-command {line!r} ended with status {done.returncode}: {last[0]}")
            return np.stack(
                [table[_read(here / f"{i:06d}.png", picture.shape[:2], line)] for i, picture in enumerate(pictures)]
            )

    return Judge({"referee": line, "classes": _plain(classes)}, tuple(classes), label)


def _read(path: Path, shape: tuple[int, ...], line: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            values = np.asarray(image if image.mode in ("L", "P") else image.convert("L"))
    except (OSError, ValueError) as error:
        raise InputError(f"--referee-command {line!r} left no PNG {path.name} of labels: {error}") from error
    if values.shape != tuple(shape):
        raise InputError(
            f"--referee-command {line!r}: labels {values.shape} of a picture {tuple(shape)}; one per pixel is needed"
        )
    return values


def _table(classes: Mapping[str, Sequence[int]]) -> NDArray[np.uint8]:
    table = np.full(256, OTHER, np.uint8)
    for name, numbers in classes.items():
        table[list(numbers)] = GROUPS.index(name)
    return table


def _plain(classes: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    return {name: list(numbers) for name, numbers in classes.items()}

"""Check a synthetic dataset: every file's SHA-256, every image's provenance, the tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drivegen.datasets import nuscenes
from drivegen.datasets.nuscenes.problems import Problem, summarised
from drivegen.support.errors import InputError
from drivegen.support.files import sha256
from drivegen.support.progress import track
from drivegen.synthesis import can_bus, plan, provenance, set_aside
from drivegen.synthesis.plan import WORK
from drivegen.synthesis.tables import AUDIT, CHECKSUMS, MANIFEST, dataset_files

_OURS = ("samples", "maps", can_bus.FOLDER, MANIFEST, AUDIT, plan.NAME, set_aside.NAME)
_PICTURES = tuple(provenance.SUFFIX.values())


def verify(out: Path) -> tuple[Problem, ...]:
    """List the problems of a dataset that `synthesize` made, errors first.

    Raises InputError where the folder holds none, or it is not finished.
    """
    planned = plan.read(out)
    missing = set_aside.listed(out)
    if not (out / CHECKSUMS).is_file() or ((out / WORK).exists() and not missing):
        done = len(list((out / WORK / "units").glob("*.json")))
        raise InputError(f"{out} is not finished: {done} of {planned.units} frames are there; run drivegen synthesize again")
    version = str(planned.facts["version"])
    known = _object(out / CHECKSUMS)
    found = [*_hashes(out, version, known), *_manifest(out, planned, known, bool(missing))]
    if missing:
        text = f"{len(missing)} of {planned.units} frames failed and were set aside; drivegen synthesize tries them again"
        found.append(Problem(set_aside.NAME, "", text, "warning"))
    return summarised([*found, *nuscenes.validate(out, version)])


def _hashes(out: Path, version: str, known: dict[str, Any]) -> Iterator[Problem]:
    for name in track(known, "hashing", unit="files", lines=True):
        path = out / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            yield Problem(CHECKSUMS, "", f"names {name!r}, which is outside of the dataset")
        elif not path.is_file():
            yield Problem("file", "", f"{name} is missing")
        elif sha256(path) != known[name]:
            yield Problem("file", "", f"{name} is not as it was written: its SHA-256 differs")
    for name in dataset_files(out):
        if name not in known and Path(name).parts[0] in (*_OURS, version):
            yield Problem("file", "", f"{name} is not of this dataset")


def _manifest(out: Path, planned: plan.Plan, known: dict[str, Any], incomplete: bool) -> Iterator[Problem]:
    """Compare the manifest, line by line, with the images' own words, and with the number of images."""
    seen = set[str]()
    try:
        lines = (out / MANIFEST).open("rb")
    except OSError as error:
        yield Problem(MANIFEST, "", f"cannot be read: {error}")
        return
    for number, text in enumerate(track(lines, "reading the manifest", planned.facts["counts"]["images"], "images"), 1):
        try:
            line = json.loads(text)
            name, digest = line.pop("file"), line.pop("sha256")
            inside = provenance.read(out / name) if name in known else {}
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            yield Problem(MANIFEST, "", f"line {number} cannot be checked: {type(error).__name__} {error}")
            continue
        if name in seen:
            yield Problem(MANIFEST, "", f"line {number}: {name} has a line already")
        seen.add(name)
        if known.get(name) != digest:
            yield Problem(MANIFEST, "", f"line {number}: {name} has another SHA-256 in {CHECKSUMS}")
        elif inside != line:
            yield Problem(MANIFEST, "", f"line {number}: {name} says something else of itself")
    if lost := {name for name in known if name.startswith("samples/") and name.endswith(_PICTURES)} - seen:
        yield Problem(MANIFEST, "", f"has no line for {len(lost)} images, such as {min(lost)}")
    wanted = planned.facts["counts"]["images"] - _dropped(out)
    if not incomplete and len(seen) != wanted:
        yield Problem(MANIFEST, "", f"has {len(seen)} lines, and {wanted} images were planned")


def _dropped(out: Path) -> int:
    """Count the images of the frames that the audit drops."""
    try:
        lines = [json.loads(line) for line in (out / AUDIT).read_text(encoding="utf-8").splitlines()]
        return sum(int(line["images"]) for line in lines if line["frame_dropped"])
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{out / AUDIT} cannot be read: {type(error).__name__} {error}") from error


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a mapping from names to hashes")
    return found

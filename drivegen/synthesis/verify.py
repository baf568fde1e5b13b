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
from drivegen.synthesis import plan, provenance
from drivegen.synthesis.plan import WORK
from drivegen.synthesis.tables import CHECKSUMS, MANIFEST, dataset_files

_OURS = ("samples", "maps", MANIFEST, plan.NAME)


def verify(out: Path) -> tuple[Problem, ...]:
    """List the problems of a dataset that `synthesize` made, errors first.

    Raises InputError where the folder holds none, or it is not finished.
    """
    planned = plan.read(out)
    if (out / WORK).exists() or not (out / CHECKSUMS).is_file():
        done = len(list((out / WORK / "units").glob("*.json")))
        raise InputError(f"{out} is not finished: {done} of {planned.units} frames are there; run drivegen synthesize again")
    version = str(planned.facts["version"])
    found = [*_hashes(out, version), *_manifest(out, planned)]
    return summarised([*found, *nuscenes.validate(out, version)])


def _hashes(out: Path, version: str) -> Iterator[Problem]:
    known = _object(out / CHECKSUMS)
    for name in track(known, "hashing", unit="files"):
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


def _manifest(out: Path, planned: plan.Plan) -> Iterator[Problem]:
    """Compare the manifest with the images' own words, and with the plan's number of images."""
    path, count, known = out / MANIFEST, 0, _object(out / CHECKSUMS)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        yield Problem(MANIFEST, "", f"cannot be read: {error}")
        return
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            name, digest = line.pop("file"), line.pop("sha256")
            inside = provenance.read(out / name) if name in known else {}
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            yield Problem(MANIFEST, "", f"line {number} cannot be checked: {type(error).__name__} {error}")
            continue
        count += 1
        if known.get(name) != digest:
            yield Problem(MANIFEST, "", f"line {number}: {name} has another SHA-256 in {CHECKSUMS}")
        elif inside != line:
            yield Problem(MANIFEST, "", f"line {number}: {name} says something else of itself")
    if count != planned.facts["counts"]["images"]:
        yield Problem(MANIFEST, "", f"has {count} lines, and {planned.facts['counts']['images']} images were planned")


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a mapping from names to hashes")
    return found

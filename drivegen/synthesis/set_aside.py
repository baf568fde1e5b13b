"""Frames that failed three times: noted in the hidden folder with the reason, and listed in the dataset without it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drivegen.support.errors import CannotGoOn
from drivegen.support.files import make_subfolder, write_json
from drivegen.synthesis.plan import WORK

NAME = "set_aside.json"
"""The list in the dataset; there is none where nothing was set aside."""

LISTED = 5


def note(out: Path, job: Mapping[str, Any], error: str, trace: str) -> None:
    """Note why a frame was set aside, for who looks into it.

    Args:
        out: the dataset's folder.
        job: the frame's.
        error: what was said at the third time.
        trace: where it was raised; "" for bad input.
    """
    write_json(make_subfolder(out, WORK, "set_aside") / f"{job['token']}.json", {**job, "error": error, "trace": trace})


def reason(out: Path, token: str) -> str:
    """Return why a frame was set aside."""
    try:
        found = json.loads((out / WORK / "set_aside" / f"{token}.json").read_text(encoding="utf-8"))
        return str(found["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def listed(out: Path) -> list[dict[str, Any]]:
    """Return the list of a dataset; empty where all frames are there."""
    try:
        found = json.loads((out / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError):
        return [{}]
    return found if isinstance(found, list) else [{}]


def complaint(out: Path, missing: list[dict[str, Any]], total: int) -> CannotGoOn:
    """Return the error that lists what was set aside.

    Args:
        out: the dataset's folder.
        missing: the jobs of those frames.
        total: number of all frames.
    """
    some = "; ".join(
        f"source sample {job['sample']} as {job['scene']}__{job['label']}: {reason(out, job['token'])}"
        for job in missing[:LISTED]
    )
    more = f"; and {len(missing) - LISTED} more, in {out / WORK / 'set_aside'}" if len(missing) > LISTED else ""
    left = "the dataset is complete without them" if len(missing) < total else "there is no dataset"
    return CannotGoOn(
        f"{len(missing)} of {total} frames failed three times and were set aside ({some}{more}); {left}, and the same command "
        "tries them again"
    )

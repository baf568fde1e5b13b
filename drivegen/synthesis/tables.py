"""The end of a synthesis: tables, manifest and checksums from the records of the frames, as streams."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from drivegen.datasets.nuscenes.parts import Part, write_parts
from drivegen.scene import VectorMap
from drivegen.support.errors import InputError
from drivegen.support.files import is_temporary, sha256, streamed, sweep, unforeseen, write_json
from drivegen.support.locks import LOCK
from drivegen.support.progress import progress
from drivegen.synthesis import set_aside
from drivegen.synthesis.commits import Commits
from drivegen.synthesis.plan import WORK, Plan

MANIFEST, AUDIT = "manifest.jsonl", "audit.jsonl"
CHECKSUMS = "sha256.json"
SPLITS = "splits.json"
TRAIN, VALIDATION = "synthetic_train", "synthetic_val"
"""Splits of the dataset; nuScenes' own names stand for nuScenes' own scenes in the devkit."""

Job = Mapping[str, Any]


def is_whole(out: Path, plan: Plan) -> bool:
    """Tell whether the dataset is finished: its last step removes the hidden folder."""
    return (out / CHECKSUMS).is_file() and (out / str(plan.facts["version"])).is_dir() and not (out / WORK).exists()


def finish(
    out: Path, version: str, jobs: Sequence[Job], missing: Collection[str], maps: Mapping[str, VectorMap], held_out: set[str],
    audited: bool = False,
) -> None:  # fmt: skip
    """Write tables, manifest and checksums from the records of all frames; a run that was ended here does it again.

    Memory holds one scene at a time, and the names of the files.

    Args:
        out: the folder of the dataset.
        version: name of the folder of the tables.
        jobs: all frames of the plan, in order.
        missing: tokens of those that were set aside; the hidden folder stays for them.
        maps: the map of each location.
        held_out: scenes of the source that are kept for tests.
        audited: whether the frames' labels were held against the pictures.

    Raises InputError where the audit drops every frame.
    """
    for name in (CHECKSUMS, set_aside.NAME):  # until they are there again, it is not finished
        with suppress(FileNotFoundError):
            (out / name).unlink()
    if (out / version).is_dir():
        os.rename(out / version, away := unforeseen(out / version, "new"))
        shutil.rmtree(away)
    for folder in {out, *(path.parent for name in ("samples", "maps", WORK) for path in (out / name).rglob("*"))}:
        sweep(folder, again=True)
    files: dict[str, str] = {}
    commits = Commits(out)
    dropped = _audited(out, commits, [job for job in jobs if job["token"] not in missing]) if audited else set()
    present = [job for job in jobs if job["token"] not in missing and job["token"] not in dropped]
    if not present:
        raise InputError(f"the audit of {out} drops every frame: there are vehicles without a box in each; mask them instead")
    with progress("writing tables", len(present), "frames", lines=True) as advance, streamed(out / MANIFEST) as manifest:

        def parts(scene: Sequence[Job]) -> Iterator[Part]:
            for job in scene:
                noted = commits.get(job["token"])
                manifest.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in noted["lines"]).encode())
                files.update(noted["files"])
                yield noted["rows"]
                advance()

        scenes = [list(group) for _, group in groupby(present, key=lambda job: (job["scene"], job["label"]))]
        write_parts(out, version, map(parts, scenes), maps, vehicle="generated")
    splits: dict[str, list[str]] = {TRAIN: [], VALIDATION: []}
    for scene in scenes:
        splits[VALIDATION if scene[0]["scene"] in held_out else TRAIN].append(f"{scene[0]['scene']}__{scene[0]['label']}")
    write_json(out / version / SPLITS, {name: members for name, members in splits.items() if members})
    if missing:
        lost = [{k: v for k, v in job.items() if k != "number"} for job in jobs if job["token"] in missing]
        write_json(out / set_aside.NAME, lost)
    write_json(out / CHECKSUMS, {name: files.get(name) or sha256(out / name) for name in dataset_files(out)})
    if not missing:
        done = unforeseen(out / WORK)
        os.rename(out / WORK, done)  # in one step: half of what was noted would look like an unfinished run
        shutil.rmtree(done, ignore_errors=True)


def _audited(out: Path, commits: Commits, jobs: Sequence[Job]) -> set[str]:
    """Write the audit, a line per frame; returns the tokens of the frames that it drops."""
    dropped = set[str]()
    with streamed(out / AUDIT) as file:
        for job in jobs:
            line = commits.get(job["token"])["audit"]
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
            if line["frame_dropped"]:
                dropped.add(job["token"])
    return dropped


def dataset_files(out: Path) -> list[str]:
    """List the files of a dataset, without the checksums, the lock and temporary hidden files."""
    found = []
    for folder, folders, names in os.walk(out):
        here = Path(folder).relative_to(out)
        folders[:] = [name for name in folders if not (folder == str(out) and name == WORK) and not is_temporary(name)]
        for name in names:
            whole = (here / name).as_posix()
            if whole not in (LOCK, CHECKSUMS) and not is_temporary(name) and os.path.isfile(os.path.join(folder, name)):
                found.append(whole)
    return sorted(found, key=lambda name: name.split("/"))

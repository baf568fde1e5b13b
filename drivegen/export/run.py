"""An export: what goes into which file is settled and checked first, all contents are made, then the files are written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drivegen.catalog import formats
from drivegen.datasets.nuscenes.read import Dataset
from drivegen.datasets.nuscenes.recordings import LIDAR, key_frames
from drivegen.datasets.nuscenes.versions import choose_version
from drivegen.export import splits
from drivegen.export.contract import Exporter
from drivegen.export.part import Part
from drivegen.support.errors import InputError
from drivegen.support.files import make_subfolder, refuse_link, sync_folder, unforeseen
from drivegen.support.locks import locked_folder
from drivegen.support.values import file_path, text

PREFIX = "data/nuscenes"
"""Where trainers' configurations expect a dataset, from the folder that they are started in."""


@dataclass(frozen=True)
class Report:
    """What was written: a line per file (name, split, scenes, samples, boxes), and notes with how often each applies."""

    files: tuple[tuple[str, str, int, int, int], ...]
    notes: Mapping[str, int]


def export(
    root: str | Path, out: str | Path, exporter: str | Exporter, version: str | None = None, prefix: str = PREFIX,
    split: Mapping[str, Sequence[str]] | None = None, skip_missing: bool = False, replace: bool = False,
) -> Report:  # fmt: skip
    """Write the annotation files of a format for a dataset in the nuScenes schema; pictures are not copied.

    Args:
        root: the dataset's folder.
        out: folder to write into; it may hold other files, and may be root.
        exporter: a format's name, or an exporter.
        version: the dataset's, where root has several.
        prefix: goes before every path in the files: root as the trainer is to find it. "" leaves them relative to root.
        split: for "train", "val" and "test", names of splits or scenes; None as `splits.choose` says.
        skip_missing: leave out scenes of which a picture is missing, in place of an error.
        replace: write over files of the same names, which are refused else.

    Raises InputError for data that cannot be read, and where a file exists already; nothing is written then.
    """
    root, out = file_path(root, "data root"), file_path(out, "out")
    if isinstance(exporter, str):
        exporter = formats.make(exporter)
    prefix = text(prefix, "prefix").rstrip("/") if prefix != "/" else prefix
    if any(ord(letter) < 32 for letter in prefix):
        raise InputError(f"prefix {prefix!r} holds control characters; give the path of a folder")
    data = Dataset(root, choose_version(root, version), notify=False)
    notes: Counter[str] = Counter()
    chosen, others = splits.choose(data, _checked(split or {}))
    named = any((split or {}).values())
    notes.update({"scene that is in no split" + (": left out" if named else ": it goes to train"): len(others)})
    if skip_missing:
        chosen = {name: tuple(s for s in scenes if _complete(data, s, notes)) for name, scenes in chosen.items()}
    names = [name for part, scenes in chosen.items() if scenes for name in exporter.names(part)]
    if not names:
        raise InputError(f"dataset {data.root / data.version} has no scene to export")
    _refuse_existing(out, names, replace)
    files: list[tuple[str, str, int, int, int]] = []
    contents: dict[str, bytes] = {}
    for name, scenes in chosen.items():
        if not scenes:
            continue
        part = Part(name, data, scenes, prefix, exporter.needs_lidar, notes)
        made = exporter.contents(part)
        contents.update(made)
        files += [(file, name, len(part.scenes), part.samples, part.boxes) for file in made]
    with locked_folder(out):
        _refuse_existing(out, names, replace)
        _write(out, contents)
    return Report(tuple(files), {what: count for what, count in notes.items() if count})


def _checked(split: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    for name in split:
        if name not in splits.SPLITS:
            raise InputError(f"split {name!r} is none of {', '.join(splits.SPLITS)}")
    return dict(split)


def _complete(data: Dataset, scene: str, notes: Counter[str]) -> bool:
    for token in data.samples(scene):
        for channel, recording in key_frames(data, token).items():
            if channel != LIDAR and not (data.root / recording.file).is_file():
                notes[f"scene left out: of {scene!r} {recording.file} is missing"] += 1
                return False
    return True


def _refuse_existing(out: Path, names: Sequence[str], replace: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder")
    for name in names:
        if os.path.lexists(refuse_link(out / name)) and not replace:
            raise InputError(f"{out / name} exists already; --replace writes over it (replace=True), or choose another folder")


def _write(out: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files under temporary names, then rename them: an error leaves the old ones."""
    waiting: list[tuple[Path, Path]] = []
    try:
        for name, data in contents.items():
            path = make_subfolder(out, *Path(name).parent.parts) / Path(name).name
            waiting.append((unforeseen(path), path))
            with waiting[-1][0].open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for temporary, path in waiting:
            os.replace(temporary, path)
            sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error
    finally:
        for temporary, path in waiting:
            temporary.unlink(missing_ok=True)
            with suppress(OSError):
                if path.parent != out:
                    path.parent.rmdir()  # where it stayed empty

"""Warnings of `validate`: what does not stop reading but is worth knowing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

from drivegen.datasets.nuscenes.notices import distortions, missing_maps
from drivegen.datasets.nuscenes.problems import Problem
from drivegen.datasets.nuscenes.read import Dataset
from drivegen.datasets.nuscenes.rows import CHANNEL
from drivegen.datasets.nuscenes.schema import CATEGORIES, LINKS, visibility_level
from drivegen.scene import DETECTION_CLASSES, detection_class
from drivegen.support.errors import InputError, nearest
from drivegen.support.names import check_file_name

_warning = partial(Problem, severity="warning")

SHORTEST_US = 1000
"""Samples closer in time than this are in another unit: a camera takes a thousand pictures per second at most."""

_UNREAD = {
    "instance": ("first_annotation_token", "last_annotation_token"), "scene": ("last_sample_token",), "sample": ("prev",),
    "sample_data": ("prev", "next"),
}  # fmt: skip
"""Links that nothing here follows, and that the devkit's own tools do."""


def remarks(data: Dataset, chains: list[list[str]]) -> Iterator[Problem]:
    """Yield the warnings of an open dataset; chains are the sample tokens of each scene that can be read."""
    yield from _scenes(data, chains)
    yield from _chains(data, chains)
    yield from _categories(data.tables)
    yield from _visibility(data.tables)
    for notice in missing_maps(data.root, data.tables):
        yield _warning("log", "", notice)
    for notice in distortions(data.tables):
        yield _warning("calibrated_sensor", "", notice)
    yield from _names(data.tables, chains)
    yield from _times(data.tables, chains)
    yield from _files(data, chains)
    yield from _repeated(data.tables)
    yield from _links(data.tables)


def _scenes(data: Dataset, chains: list[list[str]]) -> Iterator[Problem]:
    read = sum(map(len, chains))
    if not read:
        yield _warning("scene", "", "there is no sample to read")
    elif read < len(data.tables.sample):
        left = len(data.tables.sample) - read
        yield _warning(
            "sample", "", f"{left:,} of {len(data.tables.sample):,} samples are in no scene's chain: they are not read"
        )
    names: set[str] = set()
    for row in data.tables.scene:
        if row["name"] in names:
            yield _warning(
                "scene", row["token"], f"the name {row['name']!r} is taken by another scene, which is the one found by it"
            )
        names.add(row["name"])

    samples = (("sample", data.tables.get("sample", token)) for chain in chains for token in chain)
    for table, row in (*(("scene", row) for row in data.tables.scene), *samples):
        description = row.get("description")
        if isinstance(description, str) and not description.isascii() and any(ord(letter) > 0x24F for letter in description):
            message = f"description {description!r:.60} has letters that text encoders trained on English do not know"
            yield _warning(table, row["token"], message)


def _chains(data: Dataset, chains: list[list[str]]) -> Iterator[Problem]:
    """Samples of another scene, or of two."""
    owner: dict[str, str] = {}
    for scene, chain in zip(data.tables.scene, chains, strict=True):
        for token in chain:
            named = data.tables.get("sample", token).get("scene_token")
            first = owner.setdefault(token, scene["token"])
            if first != scene["token"]:
                yield _warning("sample", token, f"is in the chains of scenes {first} and {scene['token']}: it is read in both")
            elif named != first and isinstance(named, str):
                message = f"is in the chain of scene {first} and names scene {named}, whose description and map it takes"
                yield _warning("sample", token, message)


def _categories(tables: Any) -> Iterator[Problem]:
    for row in tables.category:
        if row["name"] not in CATEGORIES and detection_class(row["name"]) is None:
            close = nearest(row["name"].lower(), (*CATEGORIES, *DETECTION_CLASSES))
            yield _warning(
                "category",
                row["token"],
                f"{row['name']!r} is not a nuScenes category: its boxes are of no detection class{close}",
            )


def _visibility(tables: Any) -> Iterator[Problem]:
    for row in tables.visibility:
        if visibility_level(row) is None:
            message = f"level {row.get('level')!r:.40} is no range of percent such as v40-60: its boxes' visibility is unknown"
            yield _warning("visibility", row["token"], message)


def _names(tables: Any, chains: list[list[str]]) -> Iterator[Problem]:
    """Names that cannot be those of files, which `generate` and `write` make of them."""
    for row in tables.sensor:
        if row["modality"] == "camera" and (not CHANNEL.fullmatch(row["channel"]) or row["channel"] == "LIDAR_TOP"):
            message = f"channel {row['channel']!r} cannot name a folder: `write` refuses the scene"
            yield _warning("sensor", row["token"], message)
    for token in (token for chain in chains for token in chain):
        try:
            check_file_name(token, "token")
        except InputError as error:
            yield _warning("sample", token, f"{error}: the sample cannot be generated into a folder")


def _times(tables: Any, chains: list[list[str]]) -> Iterator[Problem]:
    for chain in chains:
        rows = [tables.get("sample", token) for token in chain]
        for one, other in pairwise(rows):
            times = one.get("timestamp"), other.get("timestamp")
            if all(isinstance(time, (int, float)) for time in times) and not times[1] > times[0]:
                message = f"timestamp {times[1]} is not after the one before, {times[0]}"
                yield _warning("sample", other["token"], f"{message}: `write` refuses the scene, and speeds are unknown")
            elif all(isinstance(time, (int, float)) for time in times) and times[1] - times[0] < SHORTEST_US:
                message = f"timestamp {times[1]} is {times[1] - times[0]:g} microseconds after the one before"
                yield _warning("sample", other["token"], f"{message}: speeds are wrong if the unit is another, such as seconds")


def _files(data: Dataset, chains: list[list[str]]) -> Iterator[Problem]:
    for token in (token for chain in chains for token in chain):
        lidar = data.tables.get("sample", token)["data"].get("LIDAR_TOP")
        row = {} if lidar is None else data.tables.get("sample_data", lidar)
        name = row.get("filename")
        if isinstance(name, str) and not _is_file(os.path.join(data.root, name)):
            yield _warning("sample_data", row["token"], f"lidar file {name} is missing: `write` refuses the scene")


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except (OSError, ValueError):
        return False


def _repeated(tables: Any) -> Iterator[Problem]:
    for table, index in tables._token2ind.items():
        rows = getattr(tables, table)
        if len(index) < len(rows):
            for i, row in enumerate(rows):
                if index[row["token"]] != i:
                    yield _warning(table, row["token"], "the token is used twice; the last row of that token is read")
    sensors = {row["token"]: row["channel"] for row in tables.sensor}
    for row in tables.sample_data:
        if row["is_key_frame"]:
            read = tables.get("sample", row["sample_token"])["data"][row["channel"]]
            if read != row["token"]:
                channel = sensors[tables.get("calibrated_sensor", row["calibrated_sensor_token"])["sensor_token"]]
                what = f"sample {row['sample_token']} has another key frame of {channel}, row {read}"
                yield _warning("sample_data", row["token"], f"{what}; this one is not read: remove one of them")


def _links(tables: Any) -> Iterator[Problem]:
    for table, links in _UNREAD.items():
        for link in links:
            target = LINKS[table][link]
            index = tables._token2ind[target]
            for row in getattr(tables, table):
                value = row.get(link)
                if value not in ("", None) and not (isinstance(value, str) and value in index):
                    yield _warning(
                        table, row["token"], f"{link} {value!r:.60} is not in {target}.json; nothing here follows it"
                    )

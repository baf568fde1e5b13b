"""Lists every problem of a dataset: an error stops opening or reading, everything else is a warning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from drivegen.datasets.nuscenes.opening import opening_problems
from drivegen.datasets.nuscenes.problems import Problem, summarised
from drivegen.datasets.nuscenes.read import Dataset
from drivegen.datasets.nuscenes.remarks import remarks
from drivegen.datasets.nuscenes.schema import LINKS, MAY_BE_EMPTY, ROW_ERRORS, field_problems, inside
from drivegen.datasets.nuscenes.screen import Screen
from drivegen.datasets.nuscenes.versions import choose_version
from drivegen.scene import Box3D, Camera
from drivegen.scene.geometry import SE3
from drivegen.scene.pictures import decode, open_image
from drivegen.support.errors import InputError
from drivegen.support.progress import progress
from drivegen.support.values import file_path


def validate(root: str | Path, version: str | None = None) -> tuple[Problem, ...]:
    """Read every frame and decode every picture as a user would, and list the problems, errors first.

    An error stops opening or reading; a warning does not: something unknown, missing, or refused when the dataset is written
    again. More than ten problems of a kind become one with a count (`problems.summarised`). It takes little more memory than
    opening the dataset, and reports progress. Raises InputError only when there is no dataset to check.
    """
    root = file_path(root, "data root")
    return summarised(_problems(root, choose_version(root, version)))


def _problems(root: Path, version: str) -> Iterator[Problem]:
    try:
        data = Dataset(root, version, notify=False)
    except InputError as error:
        refused = str(error)
    else:
        yield from _Reading(data).problems()
        yield from remarks(data, [walk(data, scene)[0] for scene in data.tables.scene])
        return
    yield from opening_problems(root, version) or [Problem("dataset", "", refused)]


class _Reading:
    """Looks at all that is read, once, sample by sample."""

    def __init__(self, data: Dataset) -> None:
        self.data, self.tables = data, data.tables
        self.screen = Screen(data)
        self._seen: set[tuple[str, str]] = set()  # rows that were looked at closely
        self._wrong: set[tuple[str, str]] = set()  # those with an error
        self._maps: dict[str, str] = {}  # what is wrong with the map of a location

    def problems(self) -> Iterator[Problem]:
        """Yield every error."""
        with progress("checking", len(self.tables.sample), "samples") as advance:
            for scene in self.tables.scene:
                tokens, problem = walk(self.data, scene)
                if problem is not None:
                    yield problem
                for token in tokens:
                    yield from self._sample(token)
                    advance()

    def _sample(self, token: str) -> Iterator[Problem]:
        sample = self.tables.get("sample", token)
        for row in (self.tables.get("sample_data", t) for t in sample["data"].values()):
            if row["sensor_modality"] == "camera" and not any(field_problems("camera data", row)):
                yield from self._tried("sample_data", row, partial(_picture, self.data.root))
        if not self.screen.passes(token):
            yield from self._closely(sample)

    def _closely(self, sample: dict[str, Any]) -> Iterator[Problem]:
        involved = list(self._involved(sample))
        for kind, row in involved:
            if (kind.table, row["token"]) not in self._seen:
                self._seen.add((kind.table, row["token"]))
                yield from self._row(kind, row)
        location = next((row.get("location") for kind, row in involved if kind.table == "log"), None)
        yield from self._map(location)
        try:
            self.data.frame(sample["token"])
        except InputError as error:
            known = [str(row["token"]) for kind, row in involved if (kind.table, row["token"]) in self._wrong]
            known += [message for message in self._maps.values() if message]
            if not any(said in str(error) for said in known):
                message = str(error).removeprefix(f"sample row {sample['token']}: ")
                yield Problem("sample", sample["token"], message)

    def _involved(self, sample: dict[str, Any]) -> Iterator[tuple[_Kind, dict[str, Any]]]:
        """Yield the rows that a frame is made of, as far as they are there."""

        def found(kind: _Kind, token: Any) -> Iterator[tuple[_Kind, dict[str, Any]]]:
            index = self.tables._token2ind[kind.table]
            if isinstance(token, str) and token in index:
                yield kind, getattr(self.tables, kind.table)[index[token]]

        yield _SAMPLE, sample
        for _, scene in found(_SCENE, sample.get("scene_token")):
            yield _SCENE, scene
            yield from found(_LOG, scene.get("log_token"))
        for channel, token in sample["data"].items():
            row = self.tables.get("sample_data", token)
            camera = row["sensor_modality"] == "camera"
            if camera or channel == "LIDAR_TOP":
                yield _CAMERA if camera else _LIDAR, row
                yield from found(_CAMERA_MOUNT if camera else _LIDAR_MOUNT, row["calibrated_sensor_token"])
                yield from found(_EGO_POSE, row.get("ego_pose_token"))
        for token in sample["anns"]:
            row = self.tables.get("sample_annotation", token)
            yield _BOX, row
            attributes = row.get("attribute_tokens")
            for attribute in attributes if isinstance(attributes, list) else ():
                yield from found(_ATTRIBUTE, attribute)

    def _row(self, kind: _Kind, row: dict[str, Any]) -> Iterator[Problem]:
        wrong = dict(field_problems(kind.fields, row))
        for message in wrong.values():
            yield self._error(kind.table, row["token"], message)
        for link in kind.links:
            target, value = LINKS[kind.table][link], row.get(link)
            for one in () if link in wrong or value is None else value if isinstance(value, list) else [value]:
                if one not in self.tables._token2ind[target] and not (one == "" and link in MAY_BE_EMPTY):
                    yield self._error(kind.table, row["token"], f"{link} {one!r} is not in {target}.json")
        if kind.check is not None and not wrong:
            yield from self._tried(kind.table, row, kind.check)

    def _map(self, location: Any) -> Iterator[Problem]:
        if isinstance(location, str) and location not in self._maps:
            self._maps[location] = ""
            try:
                self.data._map(location)
            except InputError as error:
                self._maps[location] = str(error)
                yield Problem("map", "", str(error))

    def _tried(self, table: str, row: dict[str, Any], check: Callable[[dict[str, Any]], object]) -> Iterator[Problem]:
        try:
            check(row)
        except InputError as error:
            yield self._error(table, row["token"], str(error))
        except ROW_ERRORS as error:
            yield self._error(table, row["token"], f"{type(error).__name__} {error}")

    def _error(self, table: str, token: str, message: str) -> Problem:
        self._wrong.add((table, token))
        return Problem(table, token, message)


def walk(data: Dataset, scene: dict[str, Any]) -> tuple[list[str], Problem | None]:
    """Follow a scene's samples: return their tokens as far as the chain is valid, and its first problem."""
    tokens: dict[str, None] = {}
    rows, index = data.tables.sample, data.tables._token2ind["sample"]
    table, row, link = "scene", scene, "first_sample_token"
    while True:
        if link == "next" and (message := next((said for _, said in field_problems("chained sample", row)), "")):
            return list(tokens), Problem(table, row["token"], message)
        token = row.get(link)
        if not token:
            return list(tokens), None
        if token not in index:
            return list(tokens), Problem(table, row["token"], f"{link} {token!r} is not in sample.json")
        if token in tokens:
            message = f"the chain of next tokens comes back to it, sample row {token}; correct sample.json"
            return list(tokens), Problem("scene", scene["token"], message)
        tokens[token] = None
        table, row, link = "sample", rows[index[token]], "next"


def _picture(root: Path, row: dict[str, Any]) -> None:
    decode(open_image(inside(root, row["filename"], "image"), "image", (row["width"], row["height"])), "image")


def _pose(row: dict[str, Any]) -> SE3:
    return SE3.from_quaternion(row["rotation"], row["translation"])


def _mounted(row: dict[str, Any]) -> Camera:
    return Camera("camera", row["camera_intrinsic"], 1, 1, _pose(row), SE3.identity())


def _box(row: dict[str, Any]) -> Box3D:
    return Box3D("", _pose(row), row["size"], token=row["token"])


@dataclass(frozen=True)
class _Kind:
    """Rows of a table that are read alike: their fields (`READ`), the links that are followed, and what they must make."""

    table: str
    fields: str = ""
    links: tuple[str, ...] = ()
    check: Callable[[dict[str, Any]], object] | None = None


_SAMPLE = _Kind("sample", "sample", ("scene_token",))
_SCENE = _Kind("scene", "scene", ("log_token",))
_LOG = _Kind("log", "log")
_CAMERA = _Kind("sample_data", "camera data", ("ego_pose_token",))
_LIDAR = _Kind("sample_data", "sample_data", ("ego_pose_token",))
_CAMERA_MOUNT = _Kind("calibrated_sensor", "calibrated camera", (), _mounted)
_LIDAR_MOUNT = _Kind("calibrated_sensor", "calibrated_sensor", (), _pose)
_EGO_POSE = _Kind("ego_pose", "ego_pose", (), _pose)
_BOX = _Kind("sample_annotation", "sample_annotation", ("visibility_token", "attribute_tokens", "prev", "next"), _box)
_ATTRIBUTE = _Kind("attribute", "attribute")

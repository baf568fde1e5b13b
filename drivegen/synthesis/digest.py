"""A digest of a source scene that does not depend on its folder or the time at which it was copied."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drivegen.scene import Scene, VectorMap


class SceneDigest:
    """Digests scenes; a map that several frames share is read once."""

    def __init__(self) -> None:
        self._maps: dict[int, tuple[VectorMap, bytes]] = {}

    def of(self, scene: Scene) -> str:
        """Return the digest of a scene's rows, its map and the sizes of its sweeps; pictures are not read."""
        found = hashlib.sha256()
        self._add(found, scene)
        for frame in scene.frames:
            path = frame.lidar_path
            found.update(f"sweep {path.stat().st_size if path is not None and path.is_file() else None}".encode())
        return found.hexdigest()

    def _add(self, found: Any, value: Any) -> None:
        if isinstance(value, VectorMap):
            if id(value) not in self._maps:
                own = hashlib.sha256()
                for part in (value.location, value.polygons, value.lines):
                    self._add(own, part)
                self._maps[id(value)] = value, own.digest()  # held, so that its id stays its own
            found.update(self._maps[id(value)][1])
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                found.update(field.name.encode())
                self._add(found, getattr(value, field.name))
        elif isinstance(value, np.ndarray):
            found.update(f"{value.dtype} {value.shape}".encode())
            found.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                found.update(str(key).encode())
                self._add(found, value[key])
        elif isinstance(value, (list, tuple)):
            found.update(f"{len(value)} of".encode())
            for item in value:
                self._add(found, item)
        elif not isinstance(value, Path):
            found.update(f"{type(value).__name__} {value!r};".encode())

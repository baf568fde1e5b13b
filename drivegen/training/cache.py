"""A folder of arrays by key and frame, written atomically; another key is another folder, so outdated arrays are never read."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from drivegen.plugin import Plugin
from drivegen.support import files
from drivegen.support.errors import InputError
from drivegen.training.value_digest import value_digest


class ArrayCache:
    """Arrays of one kind, one file per frame.

    Args:
        root: folder of all caches.
        kind: what the arrays are; begins the folder's name.
        key: a digest of everything that they depend on.
    """

    def __init__(self, root: Path, kind: str, key: str) -> None:
        self.folder = root / f"{kind}-{key}"

    def _path(self, frame: str) -> Path:
        return self.folder / f"{frame}.npz"

    def has(self, frame: str) -> bool:
        """Tell whether the frame's arrays exist."""
        return self._path(frame).is_file()

    def read(self, frame: str) -> dict[str, np.ndarray] | None:
        """Read a frame's arrays; None when there are none. Raises InputError when the file is damaged."""
        path = self._path(frame)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
            raise InputError(f"cached arrays {path} are damaged ({error}); delete the file and start again") from error

    def write(self, frame: str, arrays: dict[str, np.ndarray]) -> None:
        """Write a frame's arrays, lightly compressed: rasters are mostly empty."""
        files.make_subfolder(self.folder.parent, self.folder.name)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            for name, array in arrays.items():
                part = io.BytesIO()
                np.lib.format.write_array(part, np.ascontiguousarray(array) if array.ndim else array, allow_pickle=False)
                file.writestr(f"{name}.npy", part.getvalue())
        files.write_atomically(self._path(frame), buffer.getvalue())


def digest(*parts: Any) -> str:
    """Return a digest of JSON values: 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def module_digest(module: nn.Module) -> str:
    """Return a digest of a network's weights and buffers."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def plugin_digest(plugin: Plugin, tokenizer: Any) -> str:
    """Return a digest of everything that a plugin's `prepare` depends on besides the frame.

    It covers the class's source with its imports within drivegen and its own package, its options and state, the neighbouring
    moments that it needs, and the tokenizer. Raises Unreadable where a part has no source, such as a class typed at a prompt.
    """
    light = plugin.weightless()
    base = vars(Plugin())
    state = {key: value for key, value in vars(light).items() if not key.startswith("_") and key not in base}
    return value_digest(type(plugin), plugin.config, tuple(plugin.neighbours), state, tokenizer)

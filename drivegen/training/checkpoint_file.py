"""Checkpoint files: written completely or not at all, plain tensors only, with a digest that reveals damage on reading."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from drivegen.support import files
from drivegen.support.errors import Diverged, InputError
from drivegen.training.older import rename_lora

_SEAL = b"drivegen sha256 "
_SEAL_LENGTH = len(_SEAL) + 64


class AtomicIO(TorchCheckpointIO):
    """Lightning's checkpoint files, with a digest, written to a temporary file, synced, and put in place.

    The digest is the comment that a zip archive may end with, so the file stays one that `torch.load` reads.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; the one before is kept until the new one is complete.

        Args:
            checkpoint: its content.
            path: the file.
            storage_options: not used; Lightning passes it.

        Raises InputError where the disk refuses it, and Diverged where it holds NaN or infinity.
        """
        path = Path(path)
        if (name := _not_finite(checkpoint)) is not None:
            raise Diverged(f"{name} is not finite at step {checkpoint.get('global_step')}; the checkpoint before is kept")
        buffer = io.BytesIO()
        torch.save({**checkpoint, "sealed": True}, buffer)
        _seal(buffer)
        try:
            files.make_subfolder(path.parent)
            files.write_atomically(path, buffer.getbuffer())
        except InputError as error:
            kept = "; the checkpoint before is kept" if path.is_file() else ""
            raise InputError(f"{error}{kept}") from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return read(Path(path))


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint of plain tensors and values.

    Raises InputError when it is missing, damaged, not finite or holds anything else; the error names the last good one beside
    it.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path} to resume from")
    try:
        return _read(path)
    except InputError as error:
        good = _last_good(path)
        cure = f"go on with --resume {good}" if good is not None else "there is no good one beside it"
        raise InputError(f"{path} was refused: {error}; {cure}") from error


def is_sealed(path: Path) -> bool:
    """Tell whether a checkpoint file carries a digest; older ones and those of other programs do not."""
    return _stated_digest(path) is not None


def _read(path: Path) -> dict[str, Any]:
    stated = _stated_digest(path)
    if stated is not None and stated != _digest(path):
        raise InputError("it is damaged or was changed: its sha256 is not the one that it was written with")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and EOF errors for damaged and hostile files alike
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"it is damaged or holds more than plain tensors ({reason})") from error
    if not isinstance(state, dict) or "global_step" not in state or not isinstance(state.get("state_dict"), dict):
        raise InputError("it is not a training checkpoint")
    if state.get("sealed") and stated is None:
        raise InputError("it is damaged: it has lost its digest")
    rename_lora(state)
    if (name := _not_finite(state)) is not None:
        raise InputError(f"{name} has NaN or infinite values; it is damaged, or training diverged")
    return state


def _last_good(path: Path) -> Path | None:
    """Return the newest readable checkpoint in the folder of a damaged one; another name of the same file is none."""
    for other in sorted(path.parent.glob("*.ckpt"), key=lambda p: p.name, reverse=True):
        try:
            if not os.path.samefile(other, path):
                _read(other)
                return other
        except (InputError, OSError):
            continue
    return None


def _seal(buffer: io.BytesIO) -> None:
    """End an archive with its digest: the last two bytes of a zip without a comment are the comment's length, 0."""
    with buffer.getbuffer() as data:
        data[-2:] = _SEAL_LENGTH.to_bytes(2, "little")
        digest = hashlib.sha256(data).hexdigest()
    buffer.seek(0, os.SEEK_END)
    buffer.write(_SEAL + digest.encode())


def _stated_digest(path: Path) -> str | None:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _SEAL_LENGTH))
        end = file.read()
    return end[len(_SEAL) :].decode("ascii", "replace") if end.startswith(_SEAL) and len(end) == _SEAL_LENGTH else None


def _digest(path: Path) -> str:
    """Return the sha256 of all but the seal."""
    total = hashlib.sha256()
    left = path.stat().st_size - _SEAL_LENGTH
    with open(path, "rb") as file:
        while left > 0 and (part := file.read(min(left, 1 << 22))):
            total.update(part)
            left -= len(part)
    return total.hexdigest()


def _not_finite(state: Mapping[str, Any]) -> str | None:
    """Name the first value that is NaN or infinite among those that a resumed training needs."""
    callbacks = state.get("callbacks")
    parts: dict[str, Any] = {key: state.get(key) for key in ("state_dict", "optimizer_states", "lr_schedulers", "codebook")}
    if isinstance(callbacks, Mapping):
        parts |= {key: value for key, value in callbacks.items() if str(key).startswith("EMA")}
    for name, value in _leaves(parts, ""):
        finite = torch.isfinite(value).all() if isinstance(value, torch.Tensor) else math.isfinite(value)
        if not bool(finite):
            return name
    return None


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{name}[{i}]")
    elif isinstance(value, (torch.Tensor, float)):
        yield name, value

"""`drivegen merge`: several LoRAs in one file, or within the weights of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from drivegen import lora
from drivegen.cli.generate import parse_lora
from drivegen.lora.merge import MERGED, check
from drivegen.saved import model as models
from drivegen.saved.brought import named
from drivegen.support import files
from drivegen.support.errors import InputError
from drivegen.support.values import number


def merge(sources: Sequence[str], out: Path, base: str, whole: bool, dtype: torch.dtype) -> Path:
    """Write the sum of LoRAs; returns the file, or the folder of the model that has them in its weights.

    Args:
        sources: FILE[=SCALE] of each.
        out: the folder to write.
        base: the model that they are for, "tiny", a folder or a single file.
        whole: whether a model is written, in place of a LoRA.
        dtype: of the weights.

    Raises InputError where one is given twice, or does not fit, and where there is something else in the folder.
    """
    given, told = _read(sources)
    loaded = models.load(base)
    for (found, _), one in zip(given, told, strict=True):
        try:
            check(loaded.host.backbone, found)
        except InputError as error:
            raise InputError(f"{one['file']}: {error}") from error
    if whole:
        lora.fuse(loaded.host.backbone, given)
        about = {**loaded.about, "merged_of": told}
        return models.save(loaded.host, out, loaded.sampling, dtype, loaded.image_size, about)
    if out.exists() and (not out.is_dir() or any(path.name != lora.FILE for path in out.iterdir())):
        raise InputError(f"{out} exists and is no folder of a LoRA alone; choose another")
    made = lora.merged(loaded.host.backbone, given)
    try:
        with files.replacing(out) as new:
            lora.save(made, new, dtype, {MERGED: json.dumps(told)})
    except OSError as error:
        raise InputError(f"cannot write the LoRA to {out}: {error.strerror or error}") from error
    return out / lora.FILE


def _read(sources: Sequence[str]) -> tuple[list[tuple[lora.LoRA, float]], list[dict[str, Any]]]:
    """Read LoRAs with their scales, and say of each its name, hash and scale."""
    given: list[tuple[lora.LoRA, float]] = []
    told: list[dict[str, Any]] = []
    for text in sources:
        source, scale = parse_lora(text)
        scale = number(scale, f"scale of {source}:", -100, 100)
        path = Path(source).expanduser()
        with named(path, "--lora"):
            found = lora.read(path)
        digest = files.sha256(lora.find(path))
        if any(one["sha256"] == digest for one in told):
            raise InputError(f"{source} is given twice, or is a copy of another; give it once, with its scale")
        given.append((found, scale))
        told.append({"file": path.name, "sha256": digest, "scale": scale})
    return given, told

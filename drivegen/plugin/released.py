"""Weights as others release them, and what a plugin makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class ReleasedFile:
    """Foreign weights, for `Plugin.read_released`.

    path is the file or folder that the user named; state its tensors by their names there; config the network's config.json
    where a folder of diffusers has one, None for a file alone.
    """

    path: Path
    state: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Released:
    """A plugin's constructor arguments and weights, read from foreign weights.

    arguments are its constructor's; state holds the tensors under the plugin's own names; training says how it was trained, as
    a saved plugin's config.json does ({"drop": 0}: trained without null, so guidance does not null it).
    """

    arguments: Mapping[str, Any]
    state: Mapping[str, Tensor]
    training: Mapping[str, Any] = field(default_factory=dict)

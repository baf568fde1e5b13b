"""Checkpoints of earlier versions, brought to the names of today."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LORA = re.compile(r"(host\.)backbone\.(unet|text_encoder)\.(.+)\.lora_([AB])\.default\.weight")


def rename_lora(checkpoint: dict[str, Any]) -> None:
    """Rename, in place, the parameters of a LoRA that was trained in the layers themselves, before there were tuners.

    Digests of the frozen parts are of other names too, and are left out.
    """
    if not any(isinstance(key, str) and _LORA.fullmatch(key) for key in checkpoint["state_dict"]):
        return
    checkpoint.pop("frozen", None)
    checkpoint["state_dict"] = _renamed(checkpoint["state_dict"])
    for name, state in checkpoint.get("callbacks", {}).items():
        if str(name).startswith("EMA") and isinstance(state.get("average"), Mapping):
            state["average"] = _renamed(state["average"])


def _renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    return {_name(key): value for key, value in state.items()}


def _name(key: str) -> str:
    found = _LORA.fullmatch(key)
    if found is None:
        return key
    return f"{found[1]}tuners.lora.changes.{found[2]}-{found[3].replace('.', '-')}.{found[4]}"

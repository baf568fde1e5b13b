"""The provenance of an image: a line of the manifest, and the same values in the image's own file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from drivegen.pipeline import record
from drivegen.pipeline.settings import UsedSettings
from drivegen.scene.pictures import png
from drivegen.synthesis.plan import Plan
from drivegen.synthesis.variants import Varied

KEY = "drivegen"
"""Name of a PNG's text; in a JPEG it is the comment."""

SUFFIX = {"png": ".png", "jpeg": ".jpg"}
_QUALITY = 95
_SETTINGS = (
    "prompt", "negative_prompt", "seed", "steps", "guidance", "guidance_rescale", "guidance_range", "sampler", "noise",
    "agreement", "scales", "size", "dtype",
)  # fmt: skip


def provenance(plan: Plan, varied: Varied, number: int, used: UsedSettings, conditions: str) -> dict[str, Any]:
    """Return what all images of a frame have in common: no time, host or path.

    Args:
        plan: the run's.
        varied: the scene.
        number: which of its frames.
        used: the settings, with the model's defaults filled in.
        conditions: digest of all inputs of the networks.
    """
    facts, recipe = plan.facts, plan.facts["recipe"]
    return {
        "generated_by": "drivegen", "recipe": recipe["name"], "recipe_sha256": facts["recipe_sha256"], "variant": varied.label,
        "source_scene": varied.scene.name.removesuffix(f"__{varied.label}"), "source_sample": varied.sources[number],
        "source_licence": recipe["licence"], **facts["model"], "conditions_sha256": conditions,
        **{name: record.plain(getattr(used, name)) for name in _SETTINGS},
        "inputs": recipe["variants"][varied.variant]["inputs"], "versions": facts["versions"],
    }  # fmt: skip


def encode(image: Image.Image, kind: str, about: Mapping[str, Any]) -> bytes:
    """Return an image as a PNG or JPEG file that holds its provenance.

    Args:
        image: the image.
        kind: "png" or "jpeg".
        about: the provenance, as JSON values.
    """
    text = json.dumps(about, sort_keys=True)
    if kind == "png":
        return png(image, {KEY: text})
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, comment=text.encode())
    return buffer.getvalue()


def read(path: Path) -> dict[str, Any]:
    """Return the provenance in an image's file; empty where there is none."""
    with Image.open(path) as image:
        text = image.info.get(KEY) or image.info.get("comment") or b"{}"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

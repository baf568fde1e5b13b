"""Write the table of hosts and plugins into docs/hosts.md: the battery on every condition, on a small network of each host."""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.catalog import registry
from drivegen.plugin import Plugin
from drivegen.saved.model import TINY
from drivegen.support.errors import InputError
from drivegen.testing import tiny_backbone
from drivegen.testing.case import WIDER
from drivegen.testing.checking import run_checks
from drivegen.testing.models import tiny_image_encoder
from tests.plugin.test_contract import DRAWING, LEFT, NEEDS, OPTIONS, THREE_LEVELS, Case

PAGE = Path(__file__).parents[1] / "docs" / "hosts.md"
BEGIN, END = "<!-- battery:begin -->", "<!-- battery:end -->"
THREE_OF_XL: dict[str, Any] = {
    "block_out_channels": (32, 64, 64), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (2, 4, 4),
}  # fmt: skip
FOUR_OF_REFINER: dict[str, Any] = {
    "block_out_channels": (32, 64, 64, 64), "transformer_layers_per_block": 1, "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


@dataclass(frozen=True)
class HostKind:
    """A column of the table.

    Args:
        make: builds a small network of it; None = the embedded model itself.
        levels: the levels of the released networks, for conditions that add at each of them.
        joined: whether its first convolution reads a mask and a picture too.
    """

    make: Mapping[str, Any] | None = field(default_factory=dict)
    levels: Mapping[str, Any] = field(default_factory=lambda: THREE_LEVELS)
    joined: bool = False


HOSTS = {
    "SD 1.x": HostKind(),
    "SD 2.x, SD Turbo": HostKind({"prediction_type": "v_prediction", "unet": {"use_linear_projection": True}}),
    "SD inpainting, 9 channels": HostKind(joined=True),
    "SDXL, SDXL Turbo": HostKind({"family": "sdxl"}, THREE_OF_XL),
    "SDXL inpainting, 9 channels": HostKind({"family": "sdxl"}, THREE_OF_XL, joined=True),
    "SDXL refiner": HostKind({"family": "sdxl_refiner"}, FOUR_OF_REFINER),
    "`tiny`": HostKind(None),
}
"""Turbo is a schedule and no other network, and inpainting of 4 channels happens between the network's steps."""


class Copies:
    """Copies of a backbone that is built once, which takes a third of the time of building it.

    Args:
        make: builds it.
    """

    def __init__(self, make: Callable[[], Backbone]) -> None:
        self.made = cache(make)

    def __call__(self) -> Backbone:
        return copy.deepcopy(self.made())


def embedded(image_encoder: bool) -> Backbone:
    """Load the embedded model's networks, beside them a random image encoder where one is asked for."""
    backbone = Backbone.from_folder(TINY).requires_grad_(False)
    if image_encoder:
        backbone.components["image_encoder"] = tiny_image_encoder(0)
    return backbone


def case_of(kind: str, host: str) -> Case:
    """Make the case of a condition on a small host, with the options and inputs of the package's own tests."""
    needs, chosen = dict(NEEDS.get(kind, {})), HOSTS[host]
    asked = dict(getattr(needs.pop("backbone", None), "keywords", {}))
    others: dict[str, Callable[[], Plugin]] = dict(needs.pop("others", {}))
    joined = {}
    if chosen.joined:
        others["joined"] = partial(registry.load("concat"), form="masked")
        joined["joined"] = {"CAM_FRONT": {"image": DRAWING, "mask": LEFT}}
    image_encoder = bool(asked.get("image_encoder"))
    if chosen.make is None:
        make: Callable[..., Backbone] = partial(embedded, image_encoder)
        wider = None
    else:
        unet = dict(chosen.make.get("unet", {})) | (dict(chosen.levels) if "unet" in asked else {})
        make = partial(tiny_backbone, **{**chosen.make, "unet": unet, "image_encoder": image_encoder})
        wider = Copies(partial(make, width=WIDER))
    options = OPTIONS.get(kind, [{}])[0]
    return Case(registry.load(kind), options, backbone=Copies(make), wider=wider, others=others, others_inputs=joined, **needs)


def cell(kind: str, host: str) -> str:
    """Run the battery on a condition: how many promises hold, or why the host refuses it."""
    case = case_of(kind, host)
    try:
        case.host(trained=False)
    except InputError as error:
        told = str(error).split(": ", 1)[-1].removeprefix(f"{type(case.plugin()).__name__} cannot be attached: ")
        return "no: " + told.split("; ")[0]
    found = list(run_checks(case))
    broken = [outcome.check for outcome in found if outcome.broken]
    said = f" (not {', '.join(broken)})" if broken else ""
    return f"{len(found) - len(broken)} of {len(found)}{said}"


def _begin() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def main(
    kinds: Annotated[list[str] | None, typer.Argument(help="conditions to print; the page is of all of drivegen's own")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = os.cpu_count() or 1,
) -> None:
    """Print the table; of all conditions it is written into docs/hosts.md."""
    _begin()
    own = [kind for kind, entry in registry.kinds().items() if entry.target.startswith("drivegen_plugins.")]
    for kind in kinds or ():
        registry.load(kind)
    asked, started = sorted(kinds or own), time.monotonic()
    lines = [f"| plugin | {' | '.join(HOSTS)} |", f"|---|{'---|' * len(HOSTS)}"]
    with ProcessPoolExecutor(workers, initializer=_begin) as pool:
        found = pool.map(cell, [kind for kind in asked for _ in HOSTS], [host for _ in asked for host in HOSTS])
        for kind in asked:
            lines.append(f"| `{kind}` | {' | '.join(next(found) for _ in HOSTS)} |")
            print(lines[-1], f"({time.monotonic() - started:.0f} s)", flush=True)
    if not kinds:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{chr(10).join(lines)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

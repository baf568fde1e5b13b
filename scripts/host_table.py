"""Write the table of hosts and plugins into docs/hosts.md: the battery on every condition, on a small model of each family."""

from __future__ import annotations

import time
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from drivegen.catalog import registry
from drivegen.support.errors import InputError
from drivegen.testing import tiny_backbone
from drivegen.testing.checking import run_checks
from drivegen.testing.models import FAMILIES
from tests.plugin.test_contract import NEEDS, OPTIONS, THREE_LEVELS, Case

PAGE = Path(__file__).parents[1] / "docs" / "hosts.md"
BEGIN, END = "<!-- battery:begin -->", "<!-- battery:end -->"
THREE_OF_XL: dict[str, Any] = {
    "block_out_channels": (32, 64, 64), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (2, 4, 4),
}  # fmt: skip


def case_of(kind: str, family: str) -> Case:
    """Make the case of a condition, with the options and inputs of the package's own tests, on a small model of a family."""
    needs = dict(NEEDS.get(kind, {}))
    keywords = dict(getattr(needs.pop("backbone", None), "keywords", {}))
    keywords.pop("family", None)
    if keywords.get("unet") == THREE_LEVELS and family != "sd":
        keywords["unet"] = THREE_OF_XL
    backbone = partial(tiny_backbone, family=family, **keywords)
    return Case(registry.load(kind), OPTIONS.get(kind, [{}])[0], backbone=backbone, **needs)


def cell(kind: str, family: str) -> str:
    """Run the battery on a condition: how many promises hold, or why the family refuses it."""
    case = case_of(kind, family)
    try:
        case.host(trained=False)
    except InputError as error:
        return "no: " + str(error).split(": ", 1)[-1].removeprefix(f"{type(case.plugin()).__name__} cannot be attached: ")
    found = list(run_checks(case))
    broken = [outcome.check for outcome in found if outcome.broken]
    said = f" (not {', '.join(broken)})" if broken else ""
    return f"{len(found) - len(broken)} of {len(found)}{said}"


def main(
    kinds: Annotated[list[str] | None, typer.Argument(help="conditions; all of drivegen's own if left out")] = None,
    write: Annotated[bool, typer.Option(help="write the page, rather than print alone")] = True,
) -> None:
    """Print the table, and write it into docs/hosts.md."""
    warnings.simplefilter("ignore")
    own = [kind for kind, entry in registry.kinds().items() if entry.target.startswith("drivegen_plugins.")]
    names = {family: tiny_backbone(family=family).family.name for family in FAMILIES}
    lines = [f"| plugin | {' | '.join(names.values())} |", f"|---|{'---|' * len(names)}"]
    started = time.monotonic()
    for kind in sorted(kinds or own):
        lines.append(f"| `{kind}` | {' | '.join(cell(kind, family) for family in names)} |")
        print(lines[-1], f"({time.monotonic() - started:.0f} s)", flush=True)
    if write:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{chr(10).join(lines)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

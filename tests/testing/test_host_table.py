"""The page about hosts has the battery's table: every condition of drivegen's own, on every host."""

from __future__ import annotations

from pathlib import Path

from drivegen.catalog import registry
from scripts.host_table import BEGIN, END, HOSTS, cell


def test_the_page_has_every_condition_and_nothing_broken() -> None:
    page = (Path(__file__).parents[2] / "docs" / "hosts.md").read_text(encoding="utf-8")
    head, _, *lines = page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    rows = {row[0].strip("`"): row[1:] for row in ([part.strip() for part in line.strip("| ").split(" | ")] for line in lines)}
    own = {kind for kind, entry in registry.kinds().items() if entry.target.startswith("drivegen_plugins.")}
    assert head == f"| plugin | {' | '.join(HOSTS)} |"
    assert set(rows) == own
    for kind, cells in rows.items():
        assert len(cells) == len(HOSTS), kind
        for found in cells:
            done, _, of = found.partition(" of ")
            assert found.startswith("no: ") or done == of, (kind, found)


def test_a_host_that_lacks_what_a_condition_needs_is_said_in_short() -> None:
    assert (
        cell("picture_size", "SD 1.x") == "no: the network of this Stable Diffusion 1.x or 2.x model takes no sizes of pictures"
    )

"""Obedience of a model's conditions: measured, shown, and written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from drivegen.cli.screen import Screen
from drivegen.support.errors import InputError, nearest

SEED, SCENES = 20261, 12
"""The procedural city that is looked at where no dataset is given: other scenes than any configuration trains on."""

MOST_FRAMES = 100_000


def evaluate_condition(
    screen: Screen, kinds: Sequence[str], model: str, root: Path | None, out: Path, frames: int, device: str
) -> None:
    """Measure plugins' obedience; writes obedience.json and obedience.md.

    Args:
        screen: where to print.
        kinds: kinds, or instance names, of plugins of the model.
        model: "tiny" or a model folder.
        root: a dataset; None = scenes of the procedural city, which are written into the folder.
        out: folder to write into.
        frames: at most this many.
        device: where the networks compute.
    """
    from drivegen import datasets
    from drivegen.catalog import registry
    from drivegen.evaluate import obedience as work
    from drivegen.evaluate.cities import plain_city
    from drivegen.evaluate.measure import machine
    from drivegen.host import batch as data
    from drivegen.saved import model as models
    from drivegen.support.files import write_atomically
    from drivegen.support.runtime import choose_device

    if not 2 <= frames <= MOST_FRAMES:
        raise InputError(f"--frames {frames} is out of range; allowed: 2 to {MOST_FRAMES}")
    if root is not None:
        datasets.open(root)
    loaded = models.load(model, choose_device(device))
    plugins = {name: loaded.host.plugin(name) for name in loaded.host.plugins}
    names: list[str] = []
    for kind in kinds:
        mine = [name for name, plugin in plugins.items() if name == kind or registry.kind_of(plugin) == kind]
        if not mine:
            raise InputError(
                f"{model} has no {kind}{nearest(kind, plugins)}; it has {', '.join(plugins)}: train it, and give --model"
            )
        names += [name for name in mine if name not in names]
    out.mkdir(parents=True, exist_ok=True)
    if root is None:
        root = out / "city"
        length = 2 + round(2 * sum(data.neighbours_wanted(plugins)))  # at 2 Hz, so that some frames have all neighbours
        plain_city(root, SCENES, length, SEED, loaded.image_size)
    found = work.obedience(loaded, names, datasets.open(root), frames)
    notes = {"model": model, "data": str(root), "noise levels": work.TIMESTEPS, "machine": machine()}
    write_atomically(out / "obedience.md", work.markdown(found, notes).encode())
    values = json.dumps({**notes, "plugins": [one.to_dict() for one in found]}, indent=2)
    write_atomically(out / "obedience.json", values.encode())
    screen.table(("plugin", "error", "another frame's", "null", "absent", "frames", "unknown"), work.rows(found))
    screen.line(f"wrote {out / 'obedience.md'} and obedience.json")

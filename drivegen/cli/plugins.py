"""Work on a plugin by its kind: its promises checked, what it prepares drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drivegen.cli.screen import Screen
from drivegen.pipeline.spelling import read_inputs
from drivegen.support.errors import InputError
from drivegen.support.strict_yaml import parse


def check(
    screen: Screen, kind: str, options: Sequence[str], given: Sequence[str], beside: Sequence[str], data: Path | None,
    model: str,
) -> int:  # fmt: skip
    """Run the battery on a plugin, print what each check found, and return how many promises are broken.

    Args:
        screen: where to print.
        kind: the plugin's kind.
        options: its options, KEY=VALUE.
        given: what a caller gives it, KIND=VALUE or KIND.KEY=VALUE.
        beside: kinds that stand before it.
        data: a dataset whose frames are taken.
        model: "tiny" or a model folder, whose networks it is attached to.
    """
    from drivegen.testing.checking import LOOK, case_of, run_checks

    case = case_of(kind, read_options(options), _given(kind, given), beside, data, model)
    broken = count = 0
    last = ""
    for outcome in run_checks(case):
        count += 1
        if not outcome.broken:
            screen.line(("ok      ", "green"), outcome.check)
            continue
        broken += 1
        screen.line(("broken  ", "red"), outcome.check, ": as above" if outcome.broken == last else "")
        if outcome.broken == last:
            continue
        last = outcome.broken
        screen.line(f"        {outcome.broken}")
        if outcome.place:
            screen.line(f"        at {outcome.place}")
        screen.line(f"        look at {LOOK[outcome.check]}")
    screen.line(f"{kind}: {count - broken} of {count} promises hold, on {case.said}")
    return broken


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE options of a plugin; values are YAML, as in a configuration."""
    out: dict[str, Any] = {}
    for text in words:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"--options {text!r:.80} must be KEY=VALUE, such as width=0.5")
        if key in out:
            raise InputError(f"--options names {key!r} twice")
        out[key] = parse(value, f"--options {key}")
    return out


def _given(kind: str, words: Sequence[str]) -> Any:
    given = read_inputs(words)
    for name in given:
        if name != kind:
            raise InputError(f"--input is given for {name!r}; the plugin under test is {kind!r}")
    return given.get(kind)


def preview(
    screen: Screen, kind: str, root: Path, out: Path, options: Sequence[str], given: Sequence[str], sample: str | None,
    model: str, steps: int | None,
) -> None:  # fmt: skip
    """Draw what a plugin prepares of one frame, and, where the model has it, what it does to the generated views.

    Args:
        screen: where to print.
        kind: the plugin's kind.
        root: a dataset.
        out: folder to write into.
        options: its options, KEY=VALUE, where the model does not have it.
        given: what a caller gives it, KIND=VALUE or KIND.KEY=VALUE.
        sample: the frame's token; None = the dataset's first.
        model: "tiny" or a model folder.
        steps: denoising steps of the sheets; None = the model's.
    """
    from drivegen import Pipeline, datasets
    from drivegen.catalog import registry
    from drivegen.catalog.construct import construct_plugin
    from drivegen.host import array_boundary
    from drivegen.host.host import Host
    from drivegen.pipeline.views import save_png
    from drivegen.plugin.unknown import KNOWN, unmarked
    from drivegen.scene.pictures import load_image
    from drivegen.sheet.prepared import prepared_sheet
    from drivegen.support.files import write_atomically

    cls, chosen, value = registry.load(kind), read_options(options), _given(kind, given)
    source = datasets.open(root)
    tokens = source.samples()
    if not tokens:
        raise InputError(f"{root} has no samples")
    pipe = Pipeline.from_pretrained(model)
    names = [name for name in pipe.host.plugins if type(pipe.host.plugin(name)) is cls]
    if names and chosen:
        raise InputError(f"{model} has {kind} with options of its own; leave out --options, or give another --model")
    name = names[0] if names else kind
    if names:
        plugin = pipe.host.plugin(name)
    else:
        plugin = Host(pipe.host.backbone, {kind: construct_plugin(cls, chosen, f"--options of {kind}")}).plugin(kind)
    past, future = (max(pair) for pair in zip(pipe.neighbours, plugin.neighbours, strict=True))
    height, width = pipe.model.image_size
    frame = source.frame_with_neighbours(sample or tokens[0], past, future).resized(width, height)
    found = array_boundary.prepare(name, plugin.weightless(), frame, frame.extras.get(name) if value is None else value)
    if KNOWN in found:
        screen.line((f"frame {frame.token} is unknown to {kind}: it is null there", "yellow"))
    arrays = unmarked(found)
    rows = [(key, "x".join(map(str, a.shape)), str(a.dtype), _span(a), _first(a)) for key, a in arrays.items()]
    screen.table(("array", "shape", "dtype", "range", "first values"), rows)
    out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(f"{key} {a.shape} {a.dtype}\n{_numbers(a)}\n" for key, a in arrays.items())
    write_atomically(out / "arrays.txt", text.encode())
    sheet = prepared_sheet([load_image(camera) for camera in frame.cameras], arrays)
    if sheet is not None:
        save_png(sheet, out / "prepared.png")
    if names:
        inputs = {} if value is None else {name: value}
        hows: dict[str, dict[str, Any]] = {
            "with": {"inputs": inputs}, "null": {"inputs": inputs, "without": [name]}, "absent": {"scales": {name: 0.0}},
        }  # fmt: skip
        for what, how in hows.items():
            save_png(pipe(frame, steps=steps, seed=0, **how).sheet(), out / f"{what}.png")
    else:
        screen.line(f"{model} has no {kind}: no views are generated (train it, and give --model)")
    screen.line(f"wrote {', '.join(sorted(path.name for path in out.iterdir()))} in {out}")


def _span(array: Any) -> str:
    return f"{float(array.min()):.4g} to {float(array.max()):.4g}" if array.size else "nothing"


def _first(array: Any) -> str:
    return " ".join(f"{value:.4g}" for value in array.reshape(-1)[:6].tolist()) + (" …" if array.size > 6 else "")


def _numbers(array: Any) -> str:
    import numpy as np

    return np.array2string(array, threshold=2000, precision=4, suppress_small=True, max_line_width=120)

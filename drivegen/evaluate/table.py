"""The measurement's table in Markdown and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from drivegen.evaluate.figures import Figure
from drivegen.evaluate.metrics.spectrum import BANDS
from drivegen.evaluate.variants import ALL


@dataclass(frozen=True)
class Row:
    """A row of the table: the figure shown, further figures in brackets behind it, and the goal of the first column.

    goal is (">=" or "<=", value); without one the figure is only reported.
    """

    title: str
    figure: str
    goal: tuple[str, float] | None = None
    beside: tuple[tuple[str, str], ...] = ()


def _people_row(title: str, name: str, goal: tuple[str, float] | None) -> Row:
    beside = (("found", ""), ("renders", "_renders"), ("in other scenes' pictures", "_other_frames"))
    figures = (
        *((said, f"{name}_recall{which}") for said, which in beside),
        ("VAE reconstructions", f"vae_{name}_recall_relative"),
    )
    return Row(title, f"{name}_recall_relative", goal, figures)


ROWS = (
    Row("drivable control score", "drivable_control", (">=", 0.85)),
    Row("vehicle control score", "vehicle_control", (">=", 0.70)),
    Row("vehicle control score with the boxes of another frame", "vehicle_control_wrong_boxes"),
    Row("… share of it left", "wrong_boxes_share_left", ("<=", 0.2)),
    Row("time of day, accuracy relative to renders", "time_of_day_relative", (">=", 0.95),
        (("read right", "time_of_day_accuracy"), ("renders", "time_of_day_accuracy_renders"))),
    Row("weather, accuracy relative to renders", "weather_relative", (">=", 0.95),
        (("read right", "weather_accuracy"), ("renders", "weather_accuracy_renders"))),
    Row("cross-view error over that of different seeds (renders' own taken off)", "consistency", ("<=", 0.7),
        (("same seed", "consistency_same_seed"), ("different", "consistency_different_seeds"),
         ("renders", "consistency_renders"))),
    Row("front camera turned by 20°: drivable control, share of unturned", "drivable_turned_share", (">=", 0.8),
        (("score", "drivable_control_turned"),)),
    Row("front camera turned by 20°: vehicle control, share of unturned", "vehicle_turned_share", (">=", 0.8),
        (("score", "vehicle_control_turned"),)),
    Row("Fréchet distance to renders, referee features", "frechet", None, (("VAE reconstructions", "frechet_vae"),)),
    Row("energy of latents over renders', band furthest from 1", "latent_energy_departure", ("<=", 0.1),
        tuple((f"band {i}", f"latent_energy_band_{i}") for i in range(1, BANDS + 1))),
    *(_people_row(title, name, goal) for title, name, goal in (
        ("people found, relative to renders", "people", (">=", 0.5)), ("… pedestrians", "pedestrian", None),
        ("… riders, with what they ride", "rider", None), ("… below 0.15 % of a picture", "small", None),
        ("… 0.15 to 0.5 % of a picture", "medium", None), ("… above 0.5 % of a picture", "large", None),
    )),
    Row("raw drivable IoU over renders'", "drivable_iou_ratio", None,
        (("IoU", "drivable_iou"), ("renders", "drivable_iou_renders"), ("other frames", "drivable_iou_other_frames"))),
    Row("raw vehicle IoU over renders'", "vehicle_iou_ratio", None,
        (("IoU", "vehicle_iou"), ("renders", "vehicle_iou_renders"), ("other frames", "vehicle_iou_other_frames"))),
    Row("drivable IoU of VAE reconstructions (ceiling)", "vae_drivable_iou"),
    Row("vehicle IoU of VAE reconstructions (ceiling)", "vae_vehicle_iou"),
    Row("drivable IoU, everything null (floor)", "null_drivable_iou"),
    Row("vehicle IoU, everything null (floor)", "null_vehicle_iou"),
    Row("PandaSet: recall of projected drivable area", "pandaset_drivable_recall", None,
        (("chance", "pandaset_drivable_said_of_all_pixels"), ("real pictures", "pandaset_pictures_drivable_recall"))),
    Row("PandaSet: recall of projected vehicle boxes", "pandaset_vehicle_recall", None,
        (("chance", "pandaset_vehicle_said_of_all_pixels"), ("real pictures", "pandaset_pictures_vehicle_recall"))),
)  # fmt: skip
"""The table's rows; "chance" is the share of all pixels that the referee gives to the group."""


def title(column: str) -> str:
    """Return a column's heading: all conditions, or which plugin is null."""
    return "all conditions" if column == ALL else f"`{column.removeprefix('no_')}` null"


def met(row: Row, figure: Figure | None) -> bool | None:
    """Tell whether a figure meets its row's goal; None where there is no goal or no figure."""
    if row.goal is None or figure is None or not math.isfinite(figure.value):
        return None
    sign, goal = row.goal
    return figure.value >= goal if sign == ">=" else figure.value <= goal


def markdown(figures: Sequence[Figure], notes: Mapping[str, Any]) -> str:
    """Write the table, followed by what was measured, how and where."""
    found = {(figure.name, figure.column): figure for figure in figures}
    columns = sorted(dict.fromkeys(figure.column for figure in figures), key=lambda column: column != ALL)
    heads = [title(column) for column in columns]
    lines = [f"| figure | goal | {' | '.join(heads)} | frames |", "|---" * (3 + len(columns)) + "|"]
    for row in ROWS:
        cells = [_cell(row, found, column) for column in columns]
        if all(cell == "–" for cell in cells):
            continue
        counts = dict.fromkeys(str(found[row.figure, c].frames) for c in columns if (row.figure, c) in found)
        lines.append(f"| {row.title} | {_goal(row)} | {' | '.join(cells)} | {'/'.join(counts)} |")
    lines += ["", "In brackets: 95 % intervals by bootstrap over scenes.", ""]
    return "\n".join(lines + [f"- {name}: {value}" for name, value in notes.items()]) + "\n"


def by_seed(measured: Mapping[int, Sequence[Figure]], notes: Mapping[str, Any]) -> str:
    """Write the figures of several cities side by side, a table per column, with their mean.

    Args:
        measured: the figures by the city's seed.
        notes: what was measured, how and where.
    """
    columns = dict.fromkeys(figure.column for figures in measured.values() for figure in figures)
    found = {seed: {(figure.name, figure.column): figure for figure in figures} for seed, figures in measured.items()}
    lines: list[str] = []
    for column in sorted(columns, key=lambda name: name != ALL):
        lines += [f"**{title(column)}**", ""]
        lines += [
            f"| figure | goal | {' | '.join(f'seed {seed}' for seed in measured)} | mean |",
            "|---" * (3 + len(measured)) + "|",
        ]
        for row in ROWS:
            there = [figures.get((row.figure, column)) for figures in found.values()]
            if not any(there):
                continue
            cells = [_value(figure) + (_mark(row, figure) if column == ALL else "") for figure in there]
            lines.append(f"| {row.title} | {_goal(row)} | {' | '.join(cells)} | {_mean(there)} |")
        lines.append("")
    lines += ["In brackets: 95 % intervals by bootstrap over scenes.", ""]
    return "\n".join(lines + [f"- {name}: {value}" for name, value in notes.items()]) + "\n"


def _goal(row: Row) -> str:
    return "reported" if row.goal is None else f"{'≥' if row.goal[0] == '>=' else '≤'} {row.goal[1]:g}"


def _mark(row: Row, figure: Figure | None) -> str:
    return {True: " ✓", False: " ✗", None: ""}[met(row, figure)]


def _value(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    interval = "" if figure.low is None or figure.high is None else f" ({_number(figure.low)} to {_number(figure.high)})"
    return f"{_number(figure.value)}{interval}"


def _mean(figures: Sequence[Figure | None]) -> str:
    values = [figure.value for figure in figures if figure is not None and math.isfinite(figure.value)]
    return _number(sum(values) / len(values)) if values else "–"


def _cell(row: Row, found: Mapping[tuple[str, str], Figure], column: str) -> str:
    figure = found.get((row.figure, column))
    if figure is None:
        return "–"
    # Figures that do not depend on the column are in the first.
    beside = [
        f"{name} {_number(other.value)}" for name, key in row.beside
        if (other := found.get((key, column)) or found.get((key, ALL))) is not None
    ]  # fmt: skip
    mark = _mark(row, figure) if column == ALL else ""
    return f"{_value(figure)}{mark}" + (f"; {', '.join(beside)}" if beside else "")


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def as_json(figures: Sequence[Figure], notes: Mapping[str, Any]) -> dict[str, Any]:
    """Convert figures and notes to JSON values; a figure that is not finite becomes null."""

    def clean(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    rows = {row.figure: row for row in ROWS}
    out = []
    for figure in figures:
        values = {key: clean(value) for key, value in asdict(figure).items()}
        row = rows.get(figure.name)
        if row is not None and row.goal is not None and figure.column == ALL:
            values |= {"goal": f"{row.goal[0]} {row.goal[1]:g}", "met": met(row, figure)}
        out.append(values)
    return {**notes, "figures": out}

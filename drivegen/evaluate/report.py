"""The figures of an evaluation, as JSON values and as a table."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drivegen.evaluate.metrics.scores import Estimate
from drivegen.support import weights
from drivegen.support.errors import InputError

FORMAT = 1
COLUMNS = {"": ("generated", "real", "share"), "conditions": ("changed", "as it is", "left")}
"""Heads of a figure's values, of most parts and of those that have their own."""


@dataclass(frozen=True)
class Figure:
    """One figure: its part of the report, its name, and its value on the generated pictures and on the real ones.

    Of the conditions, generated is with the change and real without it. share is the first over the second; better is "high" or
    "low"; fingerprint names the facts that the figure depends on.
    """

    part: str
    name: str
    generated: Estimate | None
    real: Estimate | None = None
    share: Estimate | None = None
    better: str = "high"
    fingerprint: str = ""


@dataclass(frozen=True)
class Report:
    """All of an evaluation, as JSON values: what was compared, figures, fingerprints by their name, notes, the audit."""

    about: Mapping[str, Any]
    figures: tuple[Figure, ...]
    fingerprints: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = ()
    audit: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; a figure that is not finite is null."""
        return {
            "format": FORMAT, "about": dict(self.about), "notes": list(self.notes),
            "figures": [_figure(figure) for figure in self.figures],
            "fingerprints": {name: dict(facts) for name, facts in self.fingerprints.items()}, "audit": dict(self.audit),
        }  # fmt: skip


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return a short name of facts: equal for equal ones."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _figure(figure: Figure) -> dict[str, Any]:
    values = {name: _estimate(getattr(figure, name)) for name in ("generated", "real", "share")}
    return {"part": figure.part, "name": figure.name, **values, "better": figure.better, "fingerprint": figure.fingerprint}


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None or not math.isfinite(estimate.value):
        return None
    low, high = (value if math.isfinite(value) else None for value in (estimate.low, estimate.high))
    return {"value": estimate.value, "low": low, "high": high}


def read(path: Path) -> dict[str, Any]:
    """Read a report's JSON; raises InputError where the file holds anything else."""
    values = weights.read_object(path)
    figures, prints = values.get("figures"), values.get("fingerprints")
    whole = isinstance(figures, list) and isinstance(prints, dict) and values.get("format") == FORMAT
    fields = {"part", "name", "generated", "real", "share", "fingerprint"}
    if not whole or not all(isinstance(row, dict) and fields <= row.keys() for row in figures or ()):
        raise InputError(f"{path} is not a report of drivegen evaluate; give its report.json")
    return values


def said(value: Mapping[str, Any] | None, interval: bool = True) -> str:
    """Write a figure's value, and its interval where it has one: ``0.512 (0.431–0.588)``; a dash for none."""
    if value is None:
        return "–"
    spread = f" ({number(value['low'])}–{number(value['high'])})" if interval and value.get("low") is not None else ""
    return number(value["value"]) + spread


def number(value: float) -> str:
    """Write a number with as many digits as mean something."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def side_by_side(reports: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Put the figures of several reports beside each other.

    Returns rows (name, a value per report), and why figures are refused: their fingerprints differ, so that they were not
    measured in the same way.
    """
    tables = [{(row["part"], row["name"]): row for row in report["figures"]} for report in reports]
    kept: list[tuple[str, ...]] = []
    refused: dict[tuple[str, ...], list[str]] = {}
    for key in dict.fromkeys(key for table in tables for key in table):
        found = [table.get(key) for table in tables]
        prints = [report["fingerprints"].get(row["fingerprint"], {}) for row, report in zip(found, reports, strict=True) if row]
        if differences := list(_differences(prints)):
            refused.setdefault(tuple(differences), []).append(key[1])
        else:
            kept.append((key[1], *(said(row and row["generated"]) for row in found)))
    why = [f"{_some(names)}: {'; '.join(differences)}" for differences, names in refused.items()]
    return kept, why


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _differences(prints: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for name in dict.fromkeys(name for facts in prints for name in facts):
        values = [facts.get(name) for facts in prints]
        if any(value != values[0] for value in values[1:]):
            yield f"{name} is {' and '.join(f'{value!r:.60}' for value in values)}"

"""`drivegen evaluate` and `drivegen compare`: figures on the screen, and the report's files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drivegen.cli.screen import Screen
from drivegen.evaluate import judges, report
from drivegen.evaluate.audit import audit
from drivegen.evaluate.evaluation import evaluate as look
from drivegen.evaluate.judges import Judge
from drivegen.evaluate.metrics.control import FOUND_AT
from drivegen.evaluate.page import page
from drivegen.evaluate.pairs import Pairs, open_pairs
from drivegen.features import embedding
from drivegen.support import files, runtime
from drivegen.support.errors import InputError
from drivegen.support.locks import locked_folder

JSON, PAGE, LINES = "report.json", "report.html", "audit.jsonl"


@dataclass(frozen=True)
class Asked:
    """What the user asked for: versions, how many frames, which networks."""

    version: str | None = None
    generated_version: str | None = None
    num: int | None = None
    inception: Path | None = None
    referee: str | None = None
    referee_command: str | None = None
    referee_classes: str | None = None
    found_at: float = FOUND_AT
    device: str = "auto"
    model: str | None = None
    frames: int = 4
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.model is None and self.steps is not None:
            raise InputError("--steps is of the generations that --model makes; give a model too")

    def judge(self) -> Judge:
        """Return the referee; raises InputError where two are named, or one without its classes."""
        own = self.referee or self.referee_command
        if self.referee and self.referee_command:
            raise InputError("--referee and --referee-command are both given; give one")
        if bool(own) != bool(self.referee_classes):
            raise InputError(
                "a referee of one's own and --referee-classes, which says what its class numbers mean "
                "(drivable=0,vehicle=13+14+15), go together"
            )
        if own is None:
            return judges.committed(runtime.choose_device(self.device))
        classes = judges.parse_classes(self.referee_classes or "")
        if self.referee:
            return judges.named(self.referee, classes, runtime.choose_device(self.device))
        return judges.command(own, classes)


def evaluate(real: Path, generated: Path, out: Path, asked: Asked, screen: Screen) -> None:
    """Evaluate a generated dataset, and write the report: a page, its figures as JSON, and every box with its evidence.

    Args:
        real: the recorded dataset.
        generated: what was made of it.
        out: the report's folder.
        asked: everything else.
        screen: where the figures are printed.
    """
    judge = asked.judge()
    features = embedding.load(asked.inception, runtime.choose_device(asked.device))
    pairs = open_pairs(real, generated, asked.version, asked.generated_version, asked.num)
    with locked_folder(out):
        found, looked = look(pairs, judge, features, asked.found_at)
        if asked.model is not None:
            found = _with_conditions(found, pairs, judge, asked)
        checked = audit(looked, asked.found_at)
        values = replace(found, audit=checked.facts()).to_dict()
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in checked.lines())
        files.write_atomically(out / LINES, text.encode())
        files.write_atomically(out / PAGE, page(values, pairs, checked).encode())
        files.write_json(out / JSON, values)
    show(screen, values)
    screen.line(f"look at {out / PAGE}")


def _with_conditions(found: report.Report, pairs: Pairs, judge: Judge, asked: Asked) -> report.Report:
    """Add what changes when a model's conditions do."""
    from drivegen.evaluate.conditions import conditions_used
    from drivegen.pipeline.manifest import model_facts
    from drivegen.pipeline.pipeline import Pipeline

    pipe = Pipeline.from_pretrained(str(asked.model), asked.device)
    tokens = list(dict.fromkeys(pair.real for pair in pairs))
    chosen = [tokens[i * len(tokens) // asked.frames] for i in range(min(asked.frames, len(tokens)))]
    chosen = list(dict.fromkeys(chosen))
    facts = {
        **judge.facts, "found at": asked.found_at, "model": model_facts(pipe.model, pipe.extensions.sha256)["model_sha256"],
        "steps": asked.steps or pipe.model.sampling.steps, "recorded samples": chosen,
    }  # fmt: skip
    own = report.fingerprint(facts)
    used = conditions_used(pipe, pairs.real, chosen, judge, asked.steps, asked.found_at, own)
    return replace(
        found, figures=found.figures + used.figures, notes=found.notes + used.notes,
        fingerprints={**found.fingerprints, own: facts},
    )  # fmt: skip


def show(screen: Screen, values: Mapping[str, Any]) -> None:
    """Print the figures of a report."""
    about, figures, notes = values["about"], values["figures"], values["notes"]
    for part in dict.fromkeys(row["part"] for row in figures):
        shown = [
            (row["name"], report.said(row["generated"]), report.said(row["real"]), report.said(row["share"], interval=False))
            for row in figures if row["part"] == part
        ]  # fmt: skip
        screen.table((part, *report.COLUMNS.get(part, report.COLUMNS[""])), shown)
        screen.line("")
    screen.line(
        f"{about['frames']} frames of {about['recorded frames']} recorded ones; 95 % intervals over {about['intervals over']}; "
        f"referee: {about['referee']}; features: {about['features']}"
    )
    for note in notes:
        screen.line(("note", "yellow"), f" {note}")


def compare(paths: Sequence[Path], screen: Screen) -> None:
    """Print figures of several reports side by side; raises InputError where some were measured in different ways."""
    if len(paths) < 2:
        raise InputError("compare needs two reports or more")
    rows, refused = report.side_by_side([report.read(path) for path in paths])
    if rows:
        screen.table(("figure", *(str(path) for path in paths)), rows)
    if refused:
        raise InputError(f"not put side by side, as they were measured in different ways: {' | '.join(refused)}")

"""`drivegen evaluate` and `drivegen compare`: figures on the screen, and the report's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivegen.cli.screen import Screen
from drivegen.evaluate import judges, report
from drivegen.evaluate.evaluation import evaluate as look
from drivegen.evaluate.judges import Judge
from drivegen.evaluate.pairs import open_pairs
from drivegen.features import embedding
from drivegen.support import files, runtime
from drivegen.support.errors import InputError
from drivegen.support.locks import locked_folder

JSON = "report.json"


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
    device: str = "auto"

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
    """Evaluate a generated dataset, and write OUT/report.json.

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
        found, _ = look(pairs, judge, features)
        values = found.to_dict()
        files.write_json(out / JSON, values)
    show(screen, values)
    screen.line(f"wrote {out / JSON}")


def show(screen: Screen, values: Mapping[str, Any]) -> None:
    """Print the figures of a report."""
    about, figures, notes = values["about"], values["figures"], values["notes"]
    for part in dict.fromkeys(row["part"] for row in figures):
        shown = [
            (row["name"], report.said(row["generated"]), report.said(row["real"]), report.said(row["share"], interval=False))
            for row in figures if row["part"] == part
        ]  # fmt: skip
        screen.table((part, "generated", "real", "share"), shown)
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

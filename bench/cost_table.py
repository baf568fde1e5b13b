"""The results of a cost measurement: ratios with their spread, beside goals and the arithmetic; a table and JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

GOALS = {"fp32": 1.05, "bf16": 0.50, "memory": 1.1, "error": 1e-4}
"""Upper limits on a CPU: ours over diffusers in time, our bf16 over our fp32, ours over diffusers in memory, relative error."""
WITHOUT_BF16 = "not measured: this processor has no instructions for bfloat16"


@dataclass(frozen=True)
class Contender:
    """One contestant's figures: seconds and processor seconds of each round, and seconds of a generation's first step.

    limit_flops is the rate of a large matrix product in the same number format (operations per second).
    """

    name: str
    dtype: str
    seconds: tuple[float, ...]
    processor_seconds: tuple[float, ...]
    first_seconds: float
    flops: float
    peak_bytes: float
    limit_flops: float

    @property
    def share_of_limit(self) -> float:
        """Operations per second in the median round, over the limit."""
        return self.flops / median(self.seconds) / self.limit_flops


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of the ratios of each round."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.least:.3f} to {self.greatest:.3f})"


@dataclass(frozen=True)
class Measured:
    """A whole run: the contenders, and the differences between their results.

    contenders are diffusers, ours in fp32 and, where the processor has instructions for it, ours in bf16; diffusers is in one
    of our formats. error is ours against our plain path, in fp32; psnr_db that of our bf16 latents, if any, against our fp32
    after psnr_steps steps.
    """

    contenders: tuple[Contender, ...]
    error: float
    psnr_db: float | None
    psnr_steps: int
    threads: int
    on_cpu: bool

    @property
    def diffusers(self) -> Contender:
        """What ours is compared with."""
        return self.contenders[0]

    @property
    def fp32(self) -> Contender:
        """Ours in fp32."""
        return self.contenders[1]

    @property
    def bf16(self) -> Contender | None:
        """Ours in bf16, where it took part."""
        return next((c for c in self.contenders[1:] if c.dtype == "bfloat16"), None)

    @property
    def ours(self) -> Contender:
        """Ours in the number format of diffusers."""
        return next(c for c in self.contenders[1:] if c.dtype == self.diffusers.dtype)

    @property
    def bf16_ratio(self) -> Spread | None:
        """Time of ours in bf16 over ours in fp32."""
        return spread(self.bf16.seconds, self.fp32.seconds) if self.bf16 else None

    @property
    def got(self) -> float:
        """The least share of its threads' time that a step got from the machine: well below 1 where others computed too."""
        pairs = [pair for c in self.contenders for pair in zip(c.processor_seconds, c.seconds, strict=True)]
        return min(used / (wall * self.threads) for used, wall in pairs)


def spread(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Ratios of the rounds, one by one."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return Spread(median(ratios), min(ratios), max(ratios))


def rows(m: Measured) -> list[tuple[str, str, str, str]]:
    """Return the table's rows: figure, measured value, goal, remarks."""
    ours, theirs = m.ours, m.diffusers
    goal = "fp32" if ours.dtype == "float32" else None
    time, memory = spread(ours.seconds, theirs.seconds), ours.peak_bytes / theirs.peak_bytes
    memories = f"{_gib(ours.peak_bytes)} / {_gib(theirs.peak_bytes)}"
    halved = (WITHOUT_BF16, "", "")
    if m.bf16 and m.bf16_ratio:
        psnr = f"PSNR of latents {m.psnr_db:.1f} dB after {m.psnr_steps} steps"
        halved = (str(m.bf16_ratio), _goal(m, "bf16", m.bf16_ratio.median), psnr)
        memories += f"; ours bfloat16 {_gib(m.bf16.peak_bytes)}"
    extra = f"{ours.first_seconds - median(ours.seconds):.2f} s"
    return [
        (f"time of a step, ours / diffusers, {ours.dtype}", str(time), _goal(m, goal, time.median),
         f"FLOPs {ours.flops / theirs.flops:.3f}: {ours.flops / 1e12:.3f}e12 / {theirs.flops / 1e12:.3f}e12"),
        ("time of a step, ours bfloat16 / ours float32", *halved),
        (f"peak memory, ours / diffusers, {ours.dtype}", f"{memory:.3f}", _goal(m, "memory", memory), memories),
        ("relative error, ours / ours plain, float32", f"{m.error:.1e}", _goal(m, "error", m.error, always=True), ""),
        ("once per generation, ours", extra, "", "tokens, map, keys and values: a first step less the median one"),
    ]  # fmt: skip


def _goal(m: Measured, name: str | None, value: float, always: bool = False) -> str:
    if name is None or not (m.on_cpu or always):
        return ""
    return f"≤ {GOALS[name]:g} {'✓' if value <= GOALS[name] else '✗'}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def markdown(m: Measured, notes: Mapping[str, Any]) -> str:
    """Write both tables, then how and where it was measured."""
    lines = ["| figure | measured | goal | beside |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(m)]
    heads = ("contestant", "seconds per step", "GFLOP/s", "large matrix product", "share of it", "peak memory")
    lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for c in m.contenders:
        middle = median(c.seconds)
        cells = (
            f"{c.name}, {c.dtype}", f"{middle:.3f} ({min(c.seconds):.3f} to {max(c.seconds):.3f})",
            f"{c.flops / middle / 1e9:.0f}", f"{c.limit_flops / 1e9:.0f} GFLOP/s", f"{c.share_of_limit:.0%}",
            _gib(c.peak_bytes),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "In brackets: least and greatest of the rounds; ratios are taken within a round.", ""]
    if m.on_cpu and m.got < 0.9:
        lines += [f"**Not a quiet machine**: at worst a step got {m.got:.0%} of its threads' time.", ""]
    return "\n".join(lines + [f"- {name}: {value}" for name, value in notes.items()]) + "\n"


def as_json(m: Measured, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a run to JSON values: notes, the derived figures, and every round."""
    ours, theirs = m.ours, m.diffusers
    derived = {
        "time_ratio": asdict(spread(ours.seconds, theirs.seconds)),
        "bf16_ratio": asdict(m.bf16_ratio) if m.bf16_ratio else None,
        "memory_ratio": ours.peak_bytes / theirs.peak_bytes,
        "flop_ratio": ours.flops / theirs.flops,
        "relative_error": m.error,
        "psnr_db": m.psnr_db,
        "psnr_steps": m.psnr_steps,
        "least_share_of_threads": m.got,
    }
    contenders = [asdict(c) | {"share_of_limit": c.share_of_limit} for c in m.contenders]
    return {**notes, **derived, "goals": GOALS, "contestants": contenders}

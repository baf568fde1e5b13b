"""One guided step of MagicDrive's own networks beside drivegen's with the same weights: time, arithmetic, numbers.

    git clone https://github.com/cure-lab/MagicDrive out/MagicDrive
    python scripts/compare_magicdrive.py out/MagicDrive --size sd15 --rounds 5

The code of the copy is run. Both compute in this process, in turns, in fp32 on the CPU, with six views at 224×400; the weights
are random and the same. The status is 1 when the numbers differ by more than 1e-4.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from bench.cost import SIZES, latents, relative_error, timestep
from bench.cost_process import count_flops
from bench.magicdrive import Converted, Theirs
from drivegen.support.errors import InputError

LIMIT = 1e-4


def timed(contestant: Any, size: Any, round_: int) -> tuple[float, torch.Tensor]:
    x, t = latents(size, round_), timestep(round_)
    began = time.perf_counter()
    out = contestant.step(x, t)
    return time.perf_counter() - began, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, help="a checked-out copy of MagicDrive's repository")
    parser.add_argument("--size", choices=SIZES, default="sd15")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    size = SIZES[given.size]
    try:
        theirs = Theirs(given.repository, size)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as folder:
        ours = Converted(theirs.save(Path(folder)), size)
    took: dict[str, list[float]] = {"theirs": [], "ours": []}
    errors = []
    for round_ in range(given.rounds + 1):
        found = {}
        for name in ("theirs", "ours") if round_ % 2 else ("ours", "theirs"):
            seconds, found[name] = timed({"theirs": theirs, "ours": ours}[name], size, round_)
            if round_:  # the first computes what is constant over a generation
                took[name].append(seconds)
        errors.append(relative_error(found["ours"], found["theirs"]))
    last = given.rounds + 1
    flops = {
        name: count_flops(lambda one=one: one.step(latents(size, last), timestep(last)))
        for name, one in (("theirs", theirs), ("ours", ours))
    }
    ratios = [a / b for a, b in zip(took["ours"], took["theirs"], strict=True)]
    print("| networks | seconds per step | FLOPs |\n|---|---|---|")
    for name, label in {"theirs": "MagicDrive's own", "ours": "drivegen"}.items():
        s = took[name]
        print(f"| {label} | {statistics.median(s):.2f} ({min(s):.2f} to {max(s):.2f}) | {flops[name]:.3g} |")
    print(
        f"\nratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), "
        f"relative difference {max(errors):.1e}; "
        f"size {given.size}, {given.rounds} rounds, {given.threads} threads, torch {torch.__version__}"
    )
    sys.exit(max(errors) > LIMIT)


if __name__ == "__main__":
    main()

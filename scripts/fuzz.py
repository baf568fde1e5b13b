"""Read damaged inputs, and list those that end in anything but success or one sentence.

    python scripts/fuzz.py --cases 500 --only lora_file
    python scripts/fuzz.py --only lora_file --seed 123    # one case again, with its traceback

The status is 1 when there is a fault.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

HOUSE = Path(__file__).parents[1]
sys.path[:0] = [str(HOUSE), str(HOUSE / "plugins")]

from drivegen.support.errors import InputError
from drivegen.support.progress import track
from tests.fuzzing import TARGETS, Outcome, run


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="of each kind of input")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--only", action="append", choices=sorted(TARGETS), help="kind of input; may be repeated")
    parser.add_argument("--seed", type=int, help="run this one case, and let its error through")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = options.only or sorted(TARGETS)
    with tempfile.TemporaryDirectory() as folder:
        if options.seed is not None:
            return one(names[0], options.seed, Path(folder))
        faults = []
        print(f"{'input':<12} {'read':>6} {'refused':>8} {'faults':>7} {'slowest':>9}")
        for name in names:
            seeds = range(options.first, options.first + options.cases)
            outcomes = [run(name, seed, Path(folder) / "case") for seed in track(seeds, name, unit="cases")]
            faults += table_row(name, outcomes)
    for fault in faults:
        print(f"{fault.target} --seed {fault.seed}: {fault.result}: {fault.said}")
    return 1 if faults else 0


def table_row(name: str, outcomes: list[Outcome]) -> list[Outcome]:
    """Print a kind's row; return the first case of each kind of fault."""
    faults = {o.result: o for o in reversed(outcomes) if o.is_fault}
    counts = Counter(o.result for o in outcomes)
    slowest = max(outcomes, key=lambda o: o.seconds)
    bad = sum(o.is_fault for o in outcomes)
    print(f"{name:<12} {counts['read']:>6} {counts['refused']:>8} {bad:>7} {slowest.seconds:>7.1f} s")
    return list(faults.values())


def one(name: str, seed: int, folder: Path) -> int:
    """Run one case without a net."""
    read = TARGETS[name](random.Random(f"{name} {seed}"), folder)
    try:
        print(f"read: {read()!r}"[:500])
    except InputError as error:
        print(f"refused: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

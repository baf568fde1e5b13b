"""One guided step of MagicDrive's own networks beside drivegen's with the same weights: time, arithmetic, numbers.

    git clone https://github.com/cure-lab/MagicDrive out/MagicDrive
    python scripts/compare_magicdrive.py out/MagicDrive --size sd15 --rounds 5

The code of the copy is run. Each computes in a process of its own, in turns, on the CPU, with six views at 224×400; the
weights are random and the same. In one process MagicDrive's networks would gain from the memory that drivegen keeps between
layers. MagicDrive computes in fp32, drivegen in --dtype. The status is 1 when the numbers differ by more than 1e-4, in bfloat16
by more than 5e-2.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from bench.cost import SIZES, latents, relative_error, timestep
from bench.cost_process import count_flops
from bench.magicdrive import Converted, Theirs
from drivegen.support.errors import InputError

LIMITS = {"float32": 1e-4, "bfloat16": 5e-2}


_own: Any = None
"""What a worker process computes with."""


def _begin_theirs(repository: Path, size: str, threads: int) -> None:
    global _own
    torch.set_num_threads(threads)
    _own = Theirs(repository, SIZES[size])


def _begin_ours(checkpoint: Path, size: str, threads: int, dtype: str) -> None:
    global _own
    torch.set_num_threads(threads)
    _own = Converted(checkpoint, SIZES[size], getattr(torch, dtype))


def _save(folder: Path) -> Path:
    return _own.save(folder)


def _step(size: str, round_: int) -> tuple[float, Any]:
    x, t = latents(SIZES[size], round_), timestep(round_)
    began = time.perf_counter()
    out = _own.step(x, t)
    return time.perf_counter() - began, out.float().numpy()


def _flops(size: str, round_: int) -> float:
    return float(count_flops(lambda: _own.step(latents(SIZES[size], round_), timestep(round_))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, help="a checked-out copy of MagicDrive's repository")
    parser.add_argument("--size", choices=SIZES, default="sd15")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=LIMITS, default="float32", help="what drivegen computes in")
    given = parser.parse_args()
    took: dict[str, list[float]] = {"theirs": [], "ours": []}
    errors, asked = [], (given.size, given.threads)
    spawned = partial(ProcessPoolExecutor, 1, get_context("spawn"))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        theirs, ours = stack.enter_context(spawned()), stack.enter_context(spawned())
        try:
            theirs.submit(_begin_theirs, given.repository, *asked).result()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        saved = theirs.submit(_save, Path(folder)).result()
        ours.submit(_begin_ours, saved, *asked, given.dtype).result()
        pools = {"theirs": theirs, "ours": ours}
        for round_ in range(given.rounds + 1):
            found = {}
            for name in ("theirs", "ours") if round_ % 2 else ("ours", "theirs"):
                seconds, array = pools[name].submit(_step, given.size, round_).result()
                found[name] = torch.from_numpy(array)
                if round_:  # the first computes what is constant over a generation
                    took[name].append(seconds)
            errors.append(relative_error(found["ours"], found["theirs"]))
        flops = {name: pool.submit(_flops, given.size, given.rounds + 1).result() for name, pool in pools.items()}
    ratios = [a / b for a, b in zip(took["ours"], took["theirs"], strict=True)]
    print("| networks | seconds per step | FLOPs |\n|---|---|---|")
    for name, label in {"theirs": "MagicDrive's own", "ours": f"drivegen, {given.dtype}"}.items():
        s = took[name]
        print(f"| {label} | {statistics.median(s):.2f} ({min(s):.2f} to {max(s):.2f}) | {flops[name]:.3g} |")
    print(
        f"\nratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), "
        f"relative difference {max(errors):.1e}; "
        f"size {given.size}, {given.rounds} rounds, {given.threads} threads, torch {torch.__version__}"
    )
    sys.exit(max(errors) > LIMITS[given.dtype])


if __name__ == "__main__":
    main()

"""Measure what the conditions cost: a denoising step with MagicDrive's against diffusers' own ControlNet and UNet.

    python scripts/bench.py --size sd15 --rounds 5 --out out/bench

Random weights, six views, latents of 28×50, guidance. Processes (diffusers, ours, and ours in bfloat16 where the processor has
instructions for it) take turns, one step each a round. Writes OUT/figures.json and OUT/table.md; the status is 1 when our
numbers are not those of the plain path to 1e-4, 2 for bad input. At full size: about 16 GiB of memory.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
import time
from contextlib import ExitStack
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

HOUSE = Path(__file__).parents[1]
sys.path.insert(0, str(HOUSE))  # the laboratory (bench/) is no part of the installed package

from bench.cost import SIZES, psnr
from bench.cost_process import Process, Step, Task
from bench.cost_table import GOALS, Contender, Measured, as_json, markdown
from drivegen.evaluate.measure import machine
from drivegen.support import files, runtime
from drivegen.support.errors import InputError
from drivegen.training import config

RECIPE = HOUSE / "configs" / "magicdrive_224x400.yaml"
PSNR_STEPS = 4
FORMATS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; argparse ends with status 2 on what it does not know, InputError says the rest."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="sd15", help="sd15: 1.3 G parameters; small: for a try")
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each contestant, in turns")
    parser.add_argument("--dtype", default="auto", help="number format of diffusers' call: auto is float32 on a CPU")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of figures.json and table.md")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        raise InputError(f"--rounds {options.rounds} must be 1 or more")
    if options.threads < 0:
        raise InputError(f"--threads {options.threads} must be 0 (torch's choice) or more")
    options.threads = options.threads or torch.get_num_threads()
    device = runtime.choose_device(options.device)
    options.device = str(device)
    # Emulated, products in bfloat16 are so slow that a run would take days.
    options.formats = tuple(FORMATS) if runtime.has_bfloat16(device) else (torch.float32,)
    default = torch.float32 if device.type == "cpu" else options.formats[-1]
    options.dtype = runtime.choose_dtype(default if options.dtype == "auto" else options.dtype, device)
    if options.dtype not in FORMATS:
        raise InputError("--dtype must be auto, float32 or bfloat16, which ours is measured in")
    if options.dtype not in options.formats:
        raise InputError("--dtype bfloat16: this processor has no instructions for it; use auto, float32 or another --device")
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file; name a folder")
    return options


def tasks(options: argparse.Namespace) -> list[Task]:
    """The contestants: diffusers, then ours in each number format, with the plugins of the recipe for MagicDrive's networks."""
    common: dict[str, Any] = {"size": options.size, "device": options.device, "threads": options.threads}
    plugins = {
        name: {k: tuple(v) if isinstance(v, list) else v for k, v in settings.options.items()}
        for name, settings in config.load(RECIPE).plugins.items()
    }
    return [
        Task("diffusers", dtype=options.dtype, **common),
        *(Task("drivegen", dtype=dtype, plugins=plugins, **common) for dtype in options.formats),
    ]


def label(task: Task) -> str:
    """Name a contestant in a line of progress."""
    return f"{task.name} in {FORMATS[task.dtype]}"


def measure(options: argparse.Namespace) -> Measured:
    """Build the contestants, let them take turns, compare numbers."""
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - start:6.0f} s  {text}", file=sys.stderr, flush=True)

    with ExitStack() as stack:
        processes = []
        for task in tasks(options):
            say(f"building {label(task)}")
            processes.append(Process(task))
            stack.callback(processes[-1].end)
        say("one step each to warm up, and one in which arithmetic is counted")
        for process in processes:
            process.ask("step", 0)
        flops = [process.ask("flops", 1) for process in processes]
        side = 4096 if options.size == "sd15" else 2048
        limits = [process.ask("limit", side) for process in processes]
        steps: list[list[Step]] = [[] for _ in processes]
        for round_ in range(options.rounds):
            order = range(len(processes)) if round_ % 2 == 0 else reversed(range(len(processes)))
            for i in order:
                steps[i].append(processes[i].ask("step", 2 + round_))
            said = [f"{label(p.task)} {s[-1].seconds:.2f} s" for p, s in zip(processes, steps, strict=True)]
            say(f"round {round_ + 1} of {options.rounds}: {', '.join(said)}")
        peaks = [process.ask("peak") for process in processes]
        first: list[Step] = [process.ask("first_step", 2 + options.rounds) for process in processes]
        again = [process.ask("limit", side) for process in processes]
        psnr_db = None
        if torch.bfloat16 in options.formats:
            say(f"latents of {PSNR_STEPS} steps in both formats")
            fp32, bf16 = (torch.from_numpy(process.ask("sampled", PSNR_STEPS)) for process in processes[1:])
            psnr_db = psnr(bf16, fp32)
        say("the plain path, for comparison")
        error = processes[1].ask("error", 3 + options.rounds)
    contenders = tuple(
        Contender(
            p.task.name, FORMATS[p.task.dtype], tuple(s.seconds for s in own), tuple(s.processor_seconds for s in own),
            first[i].seconds, flops[i], peaks[i], max(limits[i], again[i]),
        )
        for i, (p, own) in enumerate(zip(processes, steps, strict=True))
    )  # fmt: skip
    return Measured(contenders, error, psnr_db, PSNR_STEPS, options.threads, options.device == "cpu")


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, print; returns the exit status."""
    try:
        options = parse(arguments)
        measured = measure(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    notes = {
        "size": options.size,
        "rounds": options.rounds,
        "machine": machine(),
        "versions": f"python {platform.python_version()}, diffusers {version('diffusers')}",
        "date": date.today().isoformat(),
        "command": shlex.join(["python", "scripts/bench.py", *(arguments if arguments is not None else sys.argv[1:])]),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    files.write_json(options.out / "figures.json", as_json(measured, notes))
    text = markdown(measured, notes)
    files.write_atomically(options.out / "table.md", text.encode())
    print(text)
    return 0 if measured.error <= GOALS["error"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

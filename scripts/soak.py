"""Kill the workers and the command of a synthesis at random moments, and compare the dataset with one that nothing disturbed.

    bash scripts/soak.sh                                   # 100 kills
    python scripts/soak.py --kills 10 --engine ray --frames 8

A small random network makes small pictures of the built-in scene. When a dataset is whole, its bytes are compared, `verify`
checks it, and the next one is begun, until there were so many kills. A line of the table is a dataset.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

RECIPE = "name: soak\nsteps: 1\nvariants:\n  a: {{seeds: {frames}, time: night}}\n"
WAIT_S = 300.0


def make_model(folder: Path) -> None:
    """Write a random model with two plugins that takes about a second to load."""
    from drivegen.catalog import registry
    from drivegen.host.host import Host
    from drivegen.sampling import Sampling
    from drivegen.saved import model
    from drivegen.testing.models import randomize, tiny_backbone

    host = Host(tiny_backbone(0, vae_factor=8), {name: registry.load(name)() for name in ("text", "boxes")})
    for name in host.plugins:
        randomize(host.plugin(name), 1)
    sampling = Sampling(sampler="ddim", steps=1, guidance=1.0)
    model.save(host.eval().requires_grad_(False), folder, sampling, image_size=(64, 112), about={"data": "none"})


def digest(out: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        found.update(path.relative_to(out).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def workers_of(process: int) -> list[int]:
    """Numbers of the processes below one that make frames, local ones or Ray's."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) if entry.name.isdigit() else None
        except OSError:
            continue
        if parent is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [process]
    while todo:
        for number in children.get(todo.pop(), []):
            todo.append(number)
            try:
                command = Path(f"/proc/{number}/cmdline").read_bytes()
            except OSError:
                continue
            if b"drivegen.workers.process" in command or command.startswith(b"ray::do"):
                found.append(number)
    return found


class Soak:
    """One dataset after the other, until there were enough kills."""

    def __init__(self, work: Path, kills: int, frames: int, engine: str, seed: int) -> None:
        self.work, self.kills, self.chance = work, kills, random.Random(f"{engine} {seed}")
        self.model, self.recipe = work / "model", work / "recipe.yaml"
        work.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(RECIPE.format(frames=frames))
        if not self.model.is_dir():
            make_model(self.model)
        self.more = ["--workers", "2", *(["--engine", "ray"] if engine == "ray" else [])]
        self.of_workers = self.of_commands = self.runs = 0
        self.longest_s = 0.0

    def command(self, out: Path, *more: str) -> list[str]:
        import drivegen

        source = Path(drivegen.__file__).parent / "assets" / "scene"
        own = ["--recipe", str(self.recipe), "--model", str(self.model), "--dtype", "float32", "--device", "cpu"]
        return [sys.executable, "-m", "drivegen.cli.main", "synthesize", str(source), str(out), *own, "--threads", "1", *more]

    def undisturbed(self) -> str:
        out, began = self.work / "undisturbed", time.monotonic()
        subprocess.run(self.command(out, "--workers", "1"), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.longest_s = (time.monotonic() - began) / 4  # moments are drawn as this machine is fast
        return digest(out)

    def disturbed(self, out: Path) -> None:
        """Run the command again and again until the dataset is whole, killing while kills are left."""
        units = out / ".synthesis" / "units"
        while True:
            self.runs += 1
            process = subprocess.Popen(self.command(out, *self.more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and self.of_workers + self.of_commands < self.kills:
                if self.chance.random() < 0.5:  # while something is made
                    self.wait_for_one_more(units, process)
                    time.sleep(self.chance.random() * 0.3)
                else:
                    time.sleep(self.chance.random() * self.longest_s)
                self.kill(process)
            if process.wait() == 0:
                return

    def wait_for_one_more(self, units: Path, process: subprocess.Popen[bytes]) -> None:
        def count() -> int:
            return len(list(units.glob("*.json"))) if units.is_dir() else 0

        before, until = count(), time.monotonic() + WAIT_S
        while count() <= before and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            return
        workers = workers_of(process.pid)
        if workers and self.chance.random() < 0.75:
            try:
                os.kill(self.chance.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                return
            self.of_workers += 1
        else:
            process.kill()
            process.wait()
            self.of_commands += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--frames", type=int, default=24, help="of each dataset")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, default=Path("out/soak"))
    given = parser.parse_args()
    soak = Soak(given.work / given.engine, given.kills, given.frames, given.engine, given.seed)
    expected, number, same = soak.undisturbed(), 0, True
    print("| engine | dataset | frames | runs | workers killed | commands killed | minutes | verify | bytes |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    while soak.of_workers + soak.of_commands < soak.kills:
        number += 1
        out = soak.work / f"out-{number}"
        before, began = (soak.runs, soak.of_workers, soak.of_commands), time.monotonic()
        soak.disturbed(out)
        whole = subprocess.run([sys.executable, "-m", "drivegen.cli.main", "verify", str(out)], capture_output=True)
        equal = digest(out) == expected
        same = same and equal and whole.returncode == 0
        after = (soak.runs, soak.of_workers, soak.of_commands)
        counts = [now - was for now, was in zip(after, before, strict=True)]
        checked, compared = "passes" if whole.returncode == 0 else "FAILS", "the same" if equal else "DIFFER"
        minutes = f"{(time.monotonic() - began) / 60:.1f}"
        cells = (given.engine, number, given.frames, *counts, minutes, checked, compared)
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    kills = soak.of_workers + soak.of_commands
    print(f"\n{kills} kills in {soak.runs} runs: {'all the same bytes' if same else 'NOT the same'}")
    sys.exit(not same)


if __name__ == "__main__":
    main()

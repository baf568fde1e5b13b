"""Kill the workers and the command of a synthesis at random moments, and compare the dataset with one that nothing disturbed.

    bash scripts/soak.sh                                   # 100 kills
    python scripts/soak.py --kills 10 --engine ray --frames 8

A small random network makes small pictures of the built-in scene. When a dataset is whole, its bytes are compared, `verify`
checks it, and the next one is begun, until there were so many kills. A line of the table is a dataset. The same command goes on
where it was ended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.processes import workers_of

RECIPE = "name: soak\nsteps: 1\nvariants:\n  a: {{seeds: {frames}, time: night}}\n"
WAIT_S = 300.0
SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


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


class Soak:
    """One dataset after the other, until there were enough kills; what is done is kept, and the same command goes on."""

    def __init__(self, work: Path, kills: int, frames: int, engine: str, seed: int) -> None:
        self.work, self.kills, self.frames, self.engine, self.seed = work, kills, frames, engine, seed
        self.model, self.recipe, self.done = work / "model", work / "recipe.yaml", work / "datasets.jsonl"
        work.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(RECIPE.format(frames=frames))
        if not self.model.is_dir():
            make_model(self.model)
        self.rows: list[dict[str, Any]] = (
            [json.loads(line) for line in self.done.read_text().splitlines()] if self.done.exists() else []
        )

    def left(self, now: Counter[str] | None = None) -> int:
        """How many kills are still to come."""
        return self.kills - sum(row["workers"] + row["commands"] for row in (*self.rows, *((now,) if now else ())))

    def command(self, out: Path, *more: str) -> list[str]:
        import drivegen

        source = Path(drivegen.__file__).parent / "assets" / "scene"
        own = ["--recipe", str(self.recipe), "--model", str(self.model), "--dtype", "float32", "--device", "cpu"]
        return [sys.executable, "-m", "drivegen.cli.main", "synthesize", str(source), str(out), *own, "--threads", "1", *more]

    def undisturbed(self) -> tuple[str, float]:
        """Digest of the dataset that nothing disturbs, and the seconds that it takes."""
        known = self.work / "undisturbed.json"
        if not known.is_file():
            out, began = self.work / "undisturbed", time.monotonic()
            shutil.rmtree(out, ignore_errors=True)
            subprocess.run(self.command(out, "--workers", "1"), check=True, **SILENT)
            known.write_text(json.dumps([digest(out), time.monotonic() - began]))
        found, took_s = json.loads(known.read_text())
        return found, took_s

    def next(self) -> dict[str, Any]:
        """Make one more dataset, killing while kills are left, and check it."""
        expected, took_s = self.undisturbed()
        number, began = len(self.rows) + 1, time.monotonic()
        out = self.work / f"out-{number}"
        shutil.rmtree(out, ignore_errors=True)
        kills = self.disturbed(out, random.Random(f"{self.engine} {self.seed} {number}"), took_s)
        verified = subprocess.run([sys.executable, "-m", "drivegen.cli.main", "verify", str(out)], **SILENT).returncode == 0
        row = {
            "engine": self.engine, "dataset": number, "frames": self.frames, **kills,
            "minutes": round((time.monotonic() - began) / 60, 1), "verify": "passes" if verified else "FAILS",
            "bytes": "the same" if digest(out) == expected else "DIFFER",
        }  # fmt: skip
        self.rows.append(row)
        self.done.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        if verified and row["bytes"] == "the same":
            shutil.rmtree(out)
        return row

    def disturbed(self, out: Path, chance: random.Random, took_s: float) -> Counter[str]:
        """Run the command again and again until the dataset is whole; count runs and kills."""
        units, counts = out / ".synthesis" / "units", Counter(runs=0, workers=0, commands=0)
        more = ["--workers", "2", *(["--engine", "ray"] if self.engine == "ray" else [])]
        while True:
            counts["runs"] += 1
            process = subprocess.Popen(self.command(out, *more), **SILENT)
            while process.poll() is None and self.left(counts) > 0:
                if chance.random() < 0.8:  # while something is made
                    wait_for_one_more(units, process)
                    time.sleep(chance.random() * 0.3)
                else:
                    time.sleep(chance.random() * took_s / 4)
                if process.poll() is None:
                    counts[kill(process, chance)] += 1
            if process.wait() == 0:
                counts.pop("nobody", None)
                return counts


def wait_for_one_more(units: Path, process: subprocess.Popen[bytes]) -> None:
    def count() -> int:
        return len(list(units.glob("*.json"))) if units.is_dir() else 0

    before, until = count(), time.monotonic() + WAIT_S
    while count() <= before and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


def kill(process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Kill one of the workers, or the command itself; says which."""
    workers = workers_of(process.pid)
    if not workers or chance.random() > 0.8:
        process.kill()
        process.wait()
        return "commands"
    try:
        os.kill(chance.choice(workers), signal.SIGKILL)
    except ProcessLookupError:
        return "nobody"
    return "workers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--frames", type=int, default=24, help="of each dataset")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, default=Path("out/soak"))
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no dataset after so long; the same command goes on"
    )
    given = parser.parse_args()
    until = time.monotonic() + given.minutes * 60
    soak = Soak(given.work / given.engine, given.kills, given.frames, given.engine, given.seed)
    while soak.left() > 0 and time.monotonic() < until:
        soak.next()
        print(soak.rows[-1], file=sys.stderr, flush=True)
    columns = ("engine", "dataset", "frames", "runs", "workers killed", "commands killed", "minutes", "verify", "bytes")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in soak.rows:
        print(f"| {' | '.join(map(str, row.values()))} |")
    same = all(row["verify"] == "passes" and row["bytes"] == "the same" for row in soak.rows)
    runs, said = sum(row["runs"] for row in soak.rows), "all the same bytes" if same else "NOT the same"
    print(f"\n{given.kills - soak.left()} kills in {runs} runs: {said}")
    sys.exit(not same or soak.left() > 0)


if __name__ == "__main__":
    main()

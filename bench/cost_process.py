"""Each contestant in a separate process, so that time, arithmetic and memory are measured separately."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.cost import SIZES, Diffusers, Ours, latents, relative_error, timestep


@dataclass(frozen=True)
class Task:
    """What a process computes: diffusers' call where plugins is None, ours with these plugins otherwise."""

    name: str
    size: str
    dtype: torch.dtype
    device: str
    threads: int
    plugins: Mapping[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Step:
    """Seconds of one step, and the seconds of processor time that it got in them."""

    seconds: float
    processor_seconds: float


class Worker:
    """What runs in the process; each public method answers a request by name."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(task.threads)
        torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32
        self.task, self.device = task, torch.device(task.device)
        self.size = size = SIZES[task.size]
        self.contestant: Any = (
            Diffusers(size, task.dtype, self.device)
            if task.plugins is None
            else Ours(size, task.plugins, task.dtype, self.device)
        )
        _forget_peak(self.device)

    def step(self, round_: int) -> Step:
        """Run one step and time it."""
        x, t = latents(self.size, round_).to(self.device), timestep(round_)
        self._wait()
        start, used = time.perf_counter(), time.process_time()
        self.contestant.step(x, t)
        self._wait()
        return Step(time.perf_counter() - start, time.process_time() - used)

    def first_step(self, round_: int) -> Step:
        """Run and time a step that computes what is constant over a generation as well."""
        if isinstance(self.contestant, Ours):
            self.contestant.anew()
        return self.step(round_)

    def flops(self, round_: int) -> float:
        """Count the floating-point operations of one step: two for each multiplication with its addition."""
        return count_flops(lambda: self.contestant.step(latents(self.size, round_), timestep(round_)))

    def peak(self) -> float:
        """Return the greatest memory since the networks were built: the process's resident set, or the GPU's allocated
        memory.
        """
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return _peak_rss()

    def error(self, round_: int) -> float:
        """Return the relative error of a step against the plain one."""
        x, t = latents(self.size, round_), timestep(round_)
        return relative_error(self.contestant.step(x, t), self.contestant.plain(x, t))

    def sampled(self, steps: int) -> np.ndarray:
        """Return the latents (V, 4, h, w) of a short generation."""
        values: np.ndarray = self.contestant.sampled(steps).numpy()
        return values

    def limit(self, side: int) -> float:
        """Return the floating-point operations per second of a product of two square matrices in this format: the best of
        five.
        """
        a, b = (torch.randn(side, side, device=self.device).to(self.task.dtype) for _ in range(2))
        best = float("inf")
        for _ in range(6):  # the first warms up
            self._wait()
            start = time.perf_counter()
            a @ b
            self._wait()
            best = min(best, time.perf_counter() - start)
        return 2 * side**3 / best

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def count_flops(run: Callable[[], Any]) -> float:
    """Count what torch's counter counts (convolutions, matrix products), and attention's CPU kernel, which it leaves out."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
        return int(sdpa_flop_count(q, k, v))

    mapping: Any = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return float(counter.get_total_flops())


def _forget_peak(device: torch.device) -> None:
    """Give back what building the networks left, and start the peak of the resident set anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    libc: Any = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    refs = Path("/proc/self/clear_refs")
    if refs.exists():
        refs.write_text("5")


def _peak_rss() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _serve(task: Task, pipe: Any) -> None:
    try:
        worker = Worker(task)
        pipe.send(None)
        while True:
            name, args = pipe.recv()
            if name == "end":
                return
            pipe.send(getattr(worker, name)(*args))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        pipe.send(error)


class Process:
    """A `Worker` in another process, asked by name; raises what the worker raises."""

    def __init__(self, task: Task) -> None:
        # Spawned, not forked: a process with threads of its own must not be copied.
        context = multiprocessing.get_context("spawn")
        self.task, (self._pipe, there) = task, context.Pipe()
        self._process = context.Process(target=_serve, args=(task, there), daemon=True)
        self._process.start()
        there.close()
        self._answer()

    def ask(self, name: str, *args: Any) -> Any:
        """Call a method of the worker and return its result."""
        self._pipe.send((name, args))
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self.task.name} ended by itself; is there enough memory?") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._pipe.send(("end", ()))
            self._process.join(30)
        if self._process.is_alive():
            self._process.terminate()

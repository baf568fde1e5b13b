"""Jobs as tasks of Ray Core, on this machine or on a cluster; who fails or vanishes is tried again as everywhere else.

Ray's own retries are off, so that a job that ends its process is counted and set aside as with local workers.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from drivegen.support.errors import InputError
from drivegen.support.progress import report_to
from drivegen.workers.crew import TRIES, Crew, Outcome
from drivegen.workers.failure import cannot_begin, described, raise_for_all
from drivegen.workers.later import finished
from drivegen.workers.local import LEASE_S
from drivegen.workers.process import Work, find

OBJECTS_BYTES = 100_000_000
"""Shared memory of a Ray that is started here; no pictures pass through it."""

_begun: dict[str, Work] = {}
"""What a process of Ray has open: its model and dataset, from one task to the next."""


class RayCrew(Crew):
    """As many tasks at a time as there are setups."""

    def __init__(self, target: str, setups: Sequence[Any], address: str | None = None, gpu: bool = False) -> None:
        """Choose what is done; nothing starts yet.

        Args:
            target: ``package.module:function``, called once in each process; it returns `process.Work`.
            setups: what it is called with, JSON values: one task at a time for each.
            address: of a cluster, such as "auto" or "ray://host:10001"; None starts Ray on this machine.
            gpu: each task has a GPU of its own, which Ray chooses.
        """
        self.address, self.gpu = address, gpu
        # A GPU is the only one that its task sees.
        given = [setup | {"device": "cuda"} if gpu else setup for setup in setups]
        self._setups = [json.dumps({"target": target, "given": setup}) for setup in given]
        self._places: dict[Any, int] = {}
        self._failed_to_begin = 0

    def __enter__(self) -> RayCrew:
        try:
            import ray
        except ImportError as error:
            raise InputError("--engine ray needs Ray; pip install 'drivegen[ray]'") from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            os.environ.pop("RAY_ADDRESS", None)
            os.environ.setdefault("RAY_worker_niceness", "0")  # as any other process of the user's
            options |= {"num_cpus": len(self._setups), "object_store_memory": OBJECTS_BYTES, "include_dashboard": False}
        else:
            options["address"] = self.address
        try:
            ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as error:
            where = f"no Ray cluster answers at {self.address}" if self.address else "Ray does not start here"
            raise InputError(f"{where}: {' '.join(str(error).split())[:300]}") from error
        self._ray = ray
        self._task = ray.remote(num_cpus=1, num_gpus=1 if self.gpu else 0, max_retries=0)(do)
        return self

    def __exit__(self, *error: object) -> None:
        self._ray.shutdown()

    def idle(self) -> Sequence[int]:
        """List the numbers of tasks that may be added."""
        return [place for place in range(len(self._setups)) if place not in self._places.values()]

    def give(self, place: int, job: Any) -> None:
        """Submit a task."""
        self._places[self._task.remote(self._setups[place], json.dumps(job))] = place

    def wait(self) -> Sequence[tuple[int, Outcome]]:
        """Return the tasks that are done."""
        ready, _ = self._ray.wait(list(self._places), num_returns=1, timeout=1.0)
        return [(self._places.pop(task), self._outcome(task)) for task in ready]

    def _outcome(self, task: Any) -> Outcome:
        from ray.exceptions import RayError

        try:
            told = json.loads(self._ray.get(task))
        except RayError as error:
            return Outcome(error=f"its task ended: {type(error).__name__} {' '.join(str(error).split())[:300]}")
        if told.get("began") is False:
            self._failed_to_begin += 1
            if told["kind"] == "input" or self._failed_to_begin >= TRIES:
                raise cannot_begin(told)
            return Outcome(error=told["error"], trace=told["trace"], counts=False)
        if "error" in told:
            raise_for_all(told)
            return Outcome(error=told["error"], trace=told["trace"])
        return Outcome(told["result"])


def do(setup: str, job: str) -> str:
    """Do a job in a process of Ray; what it needs is opened once. A job that is silent for too long ends its process.

    Args:
        setup: target and what it is given, as JSON.
        job: the job, as JSON.
    """
    silence = _Silence(LEASE_S)
    with report_to(None):
        try:
            if setup not in _begun:
                _begun.clear()
                parts = json.loads(setup)
                _begun[setup] = find(parts["target"])(parts["given"])
        except Exception as error:
            return json.dumps({"began": False, **described(error)})
        try:
            return json.dumps({"result": finished(_begun[setup](json.loads(job), silence.broken))})
        except Exception as error:
            return json.dumps(described(error))
        finally:
            silence.end()


class _Silence:
    """Ends this process when nothing is heard for some time."""

    def __init__(self, lease_s: float) -> None:
        self._heard, self._done = time.monotonic(), threading.Event()
        self._lease_s = lease_s
        threading.Thread(target=self._watch, daemon=True).start()

    def broken(self) -> None:
        """Note a sign of life."""
        self._heard = time.monotonic()

    def end(self) -> None:
        """Watch no longer."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(1.0):
            if time.monotonic() - self._heard > self._lease_s:
                os._exit(1)

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from drivegen.support.errors import CannotGoOn, CannotWrite, InputError
from drivegen.workers import Crew, Here, Later, LocalCrew, Outcome, carry_out, early
from drivegen.workers import local as workers_local
from tests.workers import jobs

TARGET = "tests.workers.jobs:begin"


def local(folder: Path, count: int = 2, **more: Any) -> LocalCrew:
    lease_s = more.pop("lease_s", 30.0)
    return LocalCrew(TARGET, [{"folder": str(folder), **more}] * count, lease_s)


def here(folder: Path) -> Here:
    return Here(jobs.begin({"folder": str(folder)}))


def all_of(crew: Crew, work: list[dict[str, Any]]) -> dict[int, Outcome]:
    with crew:
        found = [(job["n"], outcome) for job, outcome in carry_out(crew, work, lambda job: job["n"] // 4)]
    assert Counter(n for n, _ in found).keys() == {job["n"] for job in work}
    assert len(found) == len(work)  # none lost, none twice
    return dict(found)


@pytest.mark.parametrize("where", [local, here])
def test_every_job_is_done_once(tmp_path: Path, where: Any) -> None:
    found = all_of(where(tmp_path), [{"n": n, "later": n % 3 > 0} for n in range(12)])
    assert {n: outcome.result["square"] for n, outcome in found.items()} == {n: n * n for n in range(12)}
    assert all(not outcome.error for outcome in found.values())


@pytest.mark.parametrize("where", [local, here])
def test_what_fails_is_tried_again_and_set_aside_at_the_third_time(tmp_path: Path, where: Any) -> None:
    found = all_of(where(tmp_path), [
        {"n": 0}, {"n": 1, "trouble": "raise"}, {"n": 2, "trouble": "refuse", "once": True}, {"n": 3, "trouble": "refuse"},
    ])  # fmt: skip
    assert (found[1].error, found[3].error) == ("KeyError: 'broken'", "bad frame")
    assert "in work" in found[1].trace
    assert not found[3].trace
    assert found[0].result["square"] == 0
    assert found[2].result["square"] == 4


def test_processes_that_started_early_are_taken_or_ended(tmp_path: Path) -> None:
    with early(3, "tests.workers.jobs:prepare"):
        waiting = [process.popen for process in workers_local._early]
        with local(tmp_path) as crew:
            assert [process.popen for process in crew._processes] == waiting[:2]  # type: ignore[attr-defined]
            assert waiting[2].wait(10) != 0
            found = [outcome.result for _, outcome in carry_out(crew, [{"n": n} for n in range(6)], lambda job: job["n"])]
        assert sorted(result["square"] for result in found) == [n * n for n in range(6)]
        assert all(result["prepared"] for result in found)
    with early(1, "tests.workers.jobs:no_such_function"), local(tmp_path, 1) as crew:  # what fails is said by begin, if at all
        (one,) = [outcome.result for _, outcome in carry_out(crew, [{"n": 7}], lambda job: 0)]
    assert (one["square"], one["prepared"]) == (49, False)
    with early(1, "tests.workers.jobs:prepare"):
        (left,) = [process.popen for process in workers_local._early]
    assert left.poll() is not None


@pytest.mark.slow
def test_the_dead_and_the_silent_are_replaced(tmp_path: Path) -> None:
    work = [
        {"n": 0, "trouble": "kill"}, {"n": 1, "trouble": "kill", "once": True}, {"n": 2, "trouble": "term", "once": True},
        {"n": 3, "trouble": "hang", "once": True}, {"n": 4, "trouble": "beat"}, {"n": 5},
    ]  # fmt: skip
    found = all_of(local(tmp_path, lease_s=4.0), work)
    assert "signal 9" in found[0].error
    assert {n: outcome.result["square"] for n, outcome in found.items() if n} == {n: n * n for n in range(1, 6)}
    assert len({outcome.result["process"] for n, outcome in found.items() if n}) > 2


def test_what_ends_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="No space left"):
        all_of(local(tmp_path), [{"n": 0, "trouble": "full"}])
    with pytest.raises(InputError, match="no such model"):
        all_of(local(tmp_path, broken=True), [{"n": 0}])
    with pytest.raises(CannotGoOn, match="end before they begin"):
        all_of(local(tmp_path, 1, dies=True), [{"n": 0}])
    with pytest.raises(InputError, match="cannot find tests"):
        all_of(LocalCrew("tests.workers.jobs:nothing", [{}]), [{"n": 0}])


def test_the_workers_warnings_are_heard_once(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    all_of(local(tmp_path), [{"n": n, "trouble": "warn"} for n in range(4)])
    assert [str(warning.message) for warning in recwarn.list] == ["half of it is cut off"]


def test_stopped_work_is_finished_and_no_more_is_begun(tmp_path: Path) -> None:
    done: list[int] = []
    with local(tmp_path) as crew:
        for job, _ in carry_out(crew, [{"n": n} for n in range(40)], lambda job: 0, stop=lambda: len(done) >= 3):
            done.append(job["n"])
    assert 3 <= len(done) <= 5
    begun = {int(path.name.removeprefix("begun-")) for path in tmp_path.iterdir()}
    # A worker whose first word is still on its way counts as one that is beginning, which is not waited for.
    assert set(done) <= begun
    assert len(begun) <= len(done) + 1


def test_a_worker_that_is_only_beginning_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    with local(tmp_path, slow_s=60) as crew:
        asked = iter([False, False, True])
        assert not list(carry_out(crew, [{"n": 0}], lambda job: 0, stop=lambda: next(asked, True)))
    assert time.monotonic() - began < 30


def test_workers_end_with_who_started_them(tmp_path: Path) -> None:
    code = (
        f"import json\nfrom pathlib import Path\nfrom tests.workers.test_workers import local\n"
        f"crew = local(Path({str(tmp_path)!r})).__enter__()\n"
        "for place in range(2): crew.give(place, {'n': place, 'trouble': 'hang'})\n"
        "print(json.dumps([process.popen.pid for process in crew._processes]), flush=True)\n"
        "while True: crew.wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    numbers = json.loads(process.stdout.readline())
    until = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    while any(map(alive, numbers)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(alive, numbers))


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    try:  # one that nobody has waited for yet is dead all the same
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_job_leaves_for_later_is_done_beside_the_next() -> None:
    begun, failed = [threading.Event() for _ in range(4)], []

    def work(job: dict[str, int], beat: Any) -> Later:
        n = job["n"]
        begun[n].set()

        def finish() -> int:
            assert all(event.wait(20) for event in begun[: n + 2])  # nobody waits for it before the next one is begun
            if n == 1 and len(failed) < 2:
                failed.append(n)
                raise RuntimeError("in its finish")
            if n == 2:
                raise InputError("never")
            return n * n

        return Later(finish)

    found = all_of(Here(work), [{"n": n} for n in range(4)])
    assert [found[n].result for n in (0, 1, 3)] == [0, 1, 9]
    assert found[2].error == "never"


def test_a_full_disk_ends_all_when_it_is_met_later() -> None:
    made: list[int] = []

    def finish() -> None:
        raise CannotWrite("no space left")

    def work(job: dict[str, int], beat: Any) -> Later:
        made.append(job["n"])
        return Later(finish)

    with pytest.raises(CannotWrite, match="no space left"):
        all_of(Here(work), [{"n": n} for n in range(8)])
    assert made == [0, 1]


def test_a_worker_stays_with_its_group(tmp_path: Path) -> None:
    class Noted(Here):
        def __init__(self) -> None:
            self.order: list[int] = []
            super().__init__(lambda job, beat: self.order.append(job["n"]))

    crew = Noted()
    all_of(crew, [{"n": n} for n in (0, 4, 1, 5, 2, 6)])
    assert [n // 4 for n in crew.order] == [0, 0, 0, 1, 1, 1]

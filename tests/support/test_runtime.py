"""torch's default format while something computes: everybody's, and given back when the last one is done."""

from __future__ import annotations

import threading

import pytest
import torch

from drivegen.support import runtime


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("first_out", ["first in", "last in"])
def test_threads_that_overlap_give_the_callers_default_back(double, first_out: str) -> None:
    entered, leave, seen = threading.Event(), threading.Event(), []

    def compute() -> None:
        with runtime.float32_by_default():
            entered.set()
            leave.wait(5)
            seen.append(torch.get_default_dtype())

    thread = threading.Thread(target=compute)
    if first_out == "last in":
        thread.start()
        entered.wait(5)
    with runtime.float32_by_default():
        if first_out == "first in":
            thread.start()
            entered.wait(5)
        if first_out == "last in":
            leave.set()
            thread.join()
        assert torch.get_default_dtype() is torch.float32
    leave.set()
    thread.join()
    assert seen == [torch.float32]
    assert torch.get_default_dtype() is torch.float64

"""What all tests share."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

MANY = 50
"""Modules that a test imports, as torch's and diffusers' are when they are used first."""

FIRST = (
    "test_train.py", "test_tutorial.py", "test_workers.py", "test_generate_devices.py", "test_notebooks.py", "test_site.py",
)  # fmt: skip
"""Files whose few tests take long, most of them with processes of their own: begun last, they would keep one worker alone."""

_settled = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes seconds; `bash scripts/test.sh -m 'not slow'` leaves it out")
    config.stash[_settled] = 0


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while the test files are imported: hardly any of it is."""
    gc.disable()
    yield
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Keep what was imported out of later garbage collections, which would walk through all of it: a seventh of the time."""
    yield
    ended = nextitem is None or nextitem.path != item.path  # a file's fixtures are gone then, and nothing of them is kept
    if ended or len(sys.modules) > item.config.stash[_settled] + MANY:
        gc.collect()
        gc.freeze()
        item.config.stash[_settled] = len(sys.modules)

"""Arrays that plugins prepare, as pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from drivegen.sheet.prepared import MOST_CHANNELS, channels, prepared_sheet

VIEWS = [Image.new("RGB", (64, 48), (10 * i, 100, 200)) for i in range(3)]


@pytest.mark.parametrize(
    ("shape", "dtype", "names", "per_view"),
    [
        ((3, 48, 64), "uint8", ["a"], True),
        ((3, 2, 48, 64), "float16", ["a[0]", "a[1]"], True),
        ((3, 3, 48, 64), "uint8", ["a"], True),
        ((3, 48, 64, 3), "uint8", ["a"], True),
        ((48, 64), "bool", ["a"], False),
        ((8, 200, 200), "uint8", [f"a[{i}]" for i in range(8)], False),
        ((3, 99, 48, 64), "float32", [f"a[{i}]" for i in range(MOST_CHANNELS)], True),
        ((3, 20, 8, 3), "float32", [], True),
        ((3, 7), "float32", [], True),
        ((), "float32", [], True),
        ((2, 2, 2, 48, 64), "float32", [], True),
        ((3, 0, 64), "float32", [], True),
    ],
)
def test_which_arrays_are_pictures(shape: tuple[int, ...], dtype: str, names: list[str], per_view: bool) -> None:
    found = channels("a", np.zeros(shape, dtype), 3)
    assert [each.name for each in found] == names
    assert all(each.per_view == per_view and len(each.pictures) == (3 if per_view else 1) for each in found)


@pytest.mark.parametrize("value", [1, 2.5, True, np.nan])
def test_what_is_said_lies_over_the_picture_and_zero_leaves_it_open(value: Any) -> None:
    array = np.zeros((3, 48, 64), np.asarray(value).dtype)
    array[1, :24] = value
    drawn = prepared_sheet(VIEWS, {"a": array, "numbers": np.zeros(4)})
    assert drawn is not None
    rows = np.asarray(drawn).astype(int)
    above, below = rows[24:204], rows[244:424]  # the recorded pictures, and the array's row
    different = np.abs(above - below).max(-1) > 3
    assert different[10:85, 8 + 248 : 8 + 248 + 240].mean() > 0.9
    assert not different[95:, :].any()
    assert not different[:, :248].any()
    assert not different[:, 8 + 2 * 248 :].any()


def test_numbers_alone_make_no_picture() -> None:
    assert prepared_sheet(VIEWS, {"a": np.zeros((3, 7)), "b": np.zeros(())}) is None

from __future__ import annotations

import pickle
import pickletools

import numpy as np
import pytest

from drivegen.export.pickled import pickled


def value(shared: bool) -> dict[str, object]:
    text = "data/a.png"
    other = text if shared else "".join(["data/", "a.png"])
    names = np.array(["car", "pedestrian"])
    return {
        "a": text,
        "b": [other, 1.5, None, True],
        "names": names if shared else names.copy(),
        "n": np.int64(3),
        "x": np.eye(3).T,
    }


def test_bytes_depend_on_values_alone() -> None:
    assert pickled(value(True)) == pickled(value(False))
    array = np.zeros(3)
    assert pickled([array, array]) == pickled([np.zeros(3), np.zeros(3)])


def test_it_reads_back_with_numpy_alone() -> None:
    data = pickled(value(True))
    back = pickle.loads(data)
    assert back["names"].tolist() == ["car", "pedestrian"]
    assert back["n"] == 3
    np.testing.assert_array_equal(back["x"], np.eye(3))
    texts = [argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)]
    assert "numpy.core.multiarray" in texts  # which numpy 1 and 2 know; numpy._core is numpy 2's
    assert max(argument for code, argument, _ in pickletools.genops(data) if code.name == "PROTO") == 4


@pytest.mark.parametrize("wrong", [object(), {1, 2}, b"bytes", np.array([object()]), 1j])
def test_nothing_else_goes_in(wrong: object) -> None:
    with pytest.raises(TypeError, match="cannot go into"):
        pickled({"a": [wrong]})

"""Which base a plugin was made for: the weights as they are stored, in whatever format a program has cast them to."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch

from drivegen.saved import card, model
from drivegen.saved.sharing import Extensions
from tests.tiny_hosts import SIZE, tiny_host

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, host = tmp_path_factory.mktemp("bases"), tiny_host(("camera",))
    formats = {"fp32": None, "fp16": torch.float16}
    return {name: model.save(host, root / name, dtype=dtype, image_size=SIZE) for name, dtype in formats.items()}


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["fp32", "fp16"])
def test_the_same_base_in_another_format_is_the_same_base(bases: dict[str, Path], tmp_path: Path, stored: str) -> None:
    expected = card.fingerprint(model.load(bases["fp32"]).host.backbone.unet)
    Extensions(model.load(bases["fp32"])).save_plugin("camera", tmp_path / "camera")
    for dtype in DTYPES:
        loaded = model.load(bases[stored])
        loaded.host.to(dtype=dtype)
        assert card.fingerprint(loaded.host.backbone.unet) == expected
        extensions = Extensions(loaded)
        extensions.remove_plugin("camera")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            extensions.add_plugin(tmp_path / "camera")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_base_is_another_in_any_format(bases: dict[str, Path], tmp_path: Path, dtype: torch.dtype) -> None:
    Extensions(model.load(bases["fp32"])).save_plugin("camera", tmp_path / "camera")
    loaded = model.load(bases["fp32"])
    with torch.no_grad():
        loaded.host.backbone.unet.conv_in.bias += 1  # as training of the UNet would
    loaded.host.to(dtype=dtype)
    extensions = Extensions(loaded)
    extensions.remove_plugin("camera")
    with pytest.warns(UserWarning, match="the weights of unet are others here"):
        extensions.add_plugin(tmp_path / "camera")


def test_files_that_are_gone_are_not_missed(bases: dict[str, Path], tmp_path: Path) -> None:
    loaded = model.load(shutil.copytree(bases["fp32"], tmp_path / "m"))
    shutil.rmtree(tmp_path / "m")
    loaded.host.to(dtype=torch.bfloat16)
    assert len(card.fingerprint(loaded.host.backbone.unet)) == 64

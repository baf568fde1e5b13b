"""Weight files: read by content and by variant, whatever they are called, and refused with a sentence when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from drivegen.support import weight_folders, weights
from drivegen.support.errors import InputError
from tests.hostile import Hostile

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "count": torch.tensor(3)}


def same(found: dict[str, Tensor], expected: dict[str, Tensor] = STATE) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(value, expected[key]) for key, value in found.items())


@pytest.mark.parametrize("name", ["m.safetensors", "m.SAFETENSORS", "m.bin", "m.fp16.ckpt", "m", "m.safetensors.bak"])
def test_safetensors_are_told_by_their_content(tmp_path: Path, name: str) -> None:
    save_file(STATE, tmp_path / name)
    assert same(weights.load_file(tmp_path / name))
    (tmp_path / "link").symlink_to(name)
    assert same(weights.load_file(tmp_path / "link"))


@pytest.mark.parametrize("name", ["m.bin", "m.Bin", "m.PTH", "m.ckpt", "m"])
@pytest.mark.parametrize("old", [False, True])
def test_pickles_are_told_by_their_content(tmp_path: Path, name: str, old: bool) -> None:
    torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=not old)
    assert same(weights.load_file(tmp_path / name))


def test_a_pickle_under_the_name_of_safetensors_is_refused(tmp_path: Path) -> None:
    for name in ("m.safetensors", "m.SafeTensors"):
        torch.save({**STATE, "more": Hostile(tmp_path / "mark")}, tmp_path / name)
        with pytest.raises(InputError, match="is not a whole safetensors file: it is a pickle under that name"):
            weights.load_file(tmp_path / name)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    if suffix == "bin":
        torch.save(STATE, path)
    else:
        save_file(STATE, path)
    whole = path.read_bytes()
    for count in (0, 1, 8, 9, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:count])
        for read in (weights.load_file, lambda p: weights.load_file(p, lambda name: name == "a.bias"), weights.metadata):
            if read is weights.metadata and suffix == "bin":
                continue
            with pytest.raises(InputError, match=rf"m\.{suffix} (is not a whole|was refused)"):
                read(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_of_eight_bits_are_read_as_fp32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in STATE.items()}
    save_file(state, tmp_path / "m.safetensors")
    torch.save(state, tmp_path / "m.bin")
    for name in ("m.safetensors", "m.bin"):
        found = weights.load_file(tmp_path / name)
        assert same(found, {key: value.float() if key != "count" else value for key, value in state.items()})
        assert found["a.weight"].dtype == torch.float32


@pytest.mark.parametrize("mark", ["a.scale_weight", "scaled_fp8", "a.weight_scale"])
def test_eight_bits_that_are_to_be_scaled_are_refused(tmp_path: Path, mark: str) -> None:
    save_file({"a.weight": torch.ones(2).to(torch.float8_e4m3fn), mark: torch.ones(1)}, tmp_path / "m.safetensors")
    for wanted in (None, lambda name: name == "a.weight"):
        with pytest.raises(InputError, match=rf"quantised to fp8 with scales \('{mark}'\)"):
            weights.load_file(tmp_path / "m.safetensors", wanted)


def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path) -> None:
    for wrong in (torch.eye(3).to_sparse(), torch.ones(2).to(torch.float8_e8m0fnu), torch.ones(2, device="meta")):
        torch.save({"a": wrong}, tmp_path / "m.bin")
        with pytest.raises(InputError, match=r"m\.bin"):
            weights.load_file(tmp_path / "m.bin")


def test_whole_numbers_are_no_weights() -> None:
    with pytest.raises(InputError, match=r"m does not fit the network: weight is of torch.int8, expected torch.float32"):
        weights.load_strict(nn.Linear(2, 2), {"weight": torch.ones(2, 2).to(torch.int8), "bias": torch.zeros(2)}, "m")


def test_what_is_not_wanted_may_be_anything(tmp_path: Path) -> None:
    state = {**STATE, "ema.a.weight": torch.full((2,), float("nan"))}
    save_file(state, tmp_path / "m.safetensors")
    torch.save({**state, "optimizer": {"steps": 3, "groups": ["x"]}}, tmp_path / "m.ckpt")
    for name in ("m.safetensors", "m.ckpt"):
        assert same(weights.load_file(tmp_path / name, STATE.__contains__))
        with pytest.raises(InputError, match=r"NaN or infinite values|something other than named tensors"):
            weights.load_file(tmp_path / name)


# -- which files a folder has ----------------------------------------------------------------------------------------------


def shards(folder: Path, index: str, shard: str) -> None:
    """Write STATE as two shards and the index of them."""
    keys = list(STATE)
    parts = {shard.format(1): keys[:1], shard.format(2): keys[1:]}
    for name, part in parts.items():
        save_file({key: STATE[key] for key in part}, folder / name)
    (folder / index).write_text(json.dumps({"weight_map": {key: name for name, part in parts.items() for key in part}}))


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("model.safetensors.index.json", "model-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "model-0000{}-of-00002.fp16.safetensors"),
        ("model.fp16.safetensors.index.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.bf16.json", "model.bf16-0000{}-of-00002.safetensors"),
    ],
)
def test_shards_as_diffusers_and_transformers_name_them(tmp_path: Path, index: str, shard: str) -> None:
    shards(tmp_path, index, shard)
    assert same(weight_folders.load_state(tmp_path, "model"))


def test_shards_that_diffusers_itself_writes(tmp_path: Path) -> None:
    from tests.tiny_models import tiny_backbone

    unet = tiny_backbone().unet
    unet.save_pretrained(tmp_path, variant="fp16", max_shard_size="300KB")
    assert not (tmp_path / "diffusion_pytorch_model.fp16.safetensors").exists()
    assert same(weight_folders.load_state(tmp_path, "diffusion_pytorch_model"), unet.state_dict())


def test_the_variant_is_chosen_or_asked_for(tmp_path: Path) -> None:
    def chosen(variant: str | None = None) -> str:
        return weight_folders.find_state(tmp_path, "model", variant)[0].name

    for name in ("model.non_ema.safetensors", "model.ema.safetensors"):
        save_file(STATE, tmp_path / name)
    with pytest.raises(InputError, match="has the variants ema, non_ema of its weights; say which with variant"):
        chosen()
    assert chosen("ema") == "model.ema.safetensors"
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    save_file(STATE, tmp_path / "model.fp16.safetensors")
    assert chosen() == "model.fp16.safetensors"
    save_file(STATE, tmp_path / "model.safetensors")
    assert (chosen(), chosen("fp16"), chosen("bf16")) == ("model.safetensors", "model.fp16.safetensors", "model.safetensors")


def test_a_name_in_capitals_and_a_single_variant_are_found(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.BF16.SAFETENSORS")
    assert same(weight_folders.load_state(tmp_path, "model"))
    with pytest.raises(InputError, match=r"no other\.safetensors or other\.bin in"):
        weight_folders.find_state(tmp_path, "other")


# -- what torch wraps ------------------------------------------------------------------------------------------------------


def test_states_have_a_networks_own_names_whatever_wraps_it() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    inner = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    expected = {key: value.clone() for key, value in inner.state_dict().items()}
    inner[1] = nn.DataParallel(checkpoint_wrapper(torch.compile(inner[1])))
    for network in (inner, torch.compile(inner), nn.DataParallel(torch.compile(inner))):
        assert same(weights.named_state(network), expected)
        assert weights.unwrapped(network) is inner

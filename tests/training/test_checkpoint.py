"""Damage to a checkpoint is seen, and so is another base, plugin or dataset than the one that it was trained on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from drivegen import training
from drivegen.host.host import Host
from drivegen.support.errors import Diverged, InputError
from drivegen.training import checkpoint as checkpoints
from drivegen.training.frozen import check_frozen, frozen_digests
from tests.tiny_hosts import tiny_host
from tests.tiny_models import tiny_backbone

STATE = {
    "global_step": 4, "state_dict": {"a": torch.arange(300.0)},
    "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(9)}}}],
    "lr_schedulers": [{"last_epoch": 4, "_last_lr": [0.1]}], "callbacks": {"EMA": {"average": {"a": torch.ones(3)}}},
}  # fmt: skip


def write(path: Path, **changes: Any) -> Path:
    checkpoints.AtomicIO().save_checkpoint({**STATE, **changes}, path)
    return path


def test_every_flipped_bit_is_seen_and_the_last_good_checkpoint_is_named(tmp_path: Path) -> None:
    write(tmp_path / "step-00000002.ckpt", global_step=2)
    good = write(tmp_path / "step-00000003.ckpt", global_step=3)
    last = write(tmp_path / "last.ckpt")
    os.link(last, tmp_path / "step-00000004.ckpt")  # another name of the damaged file is no cure
    whole = last.read_bytes()
    assert torch.load(last, weights_only=True)["global_step"] == 4  # a plain file of torch's all the same
    for at in {0, 1, 30, *range(40, len(whole), len(whole) // 60), len(whole) - 81, len(whole) - 80, len(whole) - 1}:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        last.write_bytes(damaged)
        with pytest.raises(InputError, match=r"last\.ckpt was refused: .*step-00000003\.ckpt"):
            checkpoints.read(last)
    for cut in (0, 10, len(whole) // 2, len(whole) - 80, len(whole) - 1):
        last.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="was refused"):
            checkpoints.read(last)
    last.write_bytes(whole)
    assert checkpoints.read(last)["global_step"] == 4
    good.unlink()
    (tmp_path / "step-00000002.ckpt").write_bytes(b"nothing")
    last.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="no good one beside it"):
        checkpoints.read(last)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"state_dict": {"w": None}}, r"state_dict\.w"),
        ({"optimizer_states": [{"state": {0: {"exp_avg": None}}}]}, r"optimizer_states\[0\]\.state\.0\.exp_avg"),
        ({"callbacks": {"EMA": {"average": {"w": None}}}}, r"callbacks.*EMA\.average\.w|EMA\.average\.w"),
    ],
)
def test_what_is_not_finite_is_neither_written_nor_read(tmp_path: Path, part: dict[str, Any], name: str, value: float) -> None:
    def filled(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {k: filled(v) for k, v in tree.items()}
        return [filled(v) for v in tree] if isinstance(tree, list) else torch.tensor([1.0, value])

    path = write(tmp_path / "last.ckpt")
    with pytest.raises(Diverged, match=name):
        write(path, **filled(part))
    assert checkpoints.read(path)["global_step"] == 4
    torch.save({**STATE, **filled(part)}, path)
    with pytest.raises(InputError, match=name):
        checkpoints.read(path)


def test_files_of_before_are_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "old.ckpt")
    assert not checkpoints.is_sealed(tmp_path / "old.ckpt")
    assert checkpoints.read(tmp_path / "old.ckpt")["global_step"] == 4
    assert checkpoints.is_sealed(write(tmp_path / "new.ckpt"))


def changed(host: Host, part: str) -> None:
    """Replace one part of a host by another of the same shape."""
    backbone: Any = host.backbone
    with torch.no_grad():
        if part == "scheduler":
            backbone.scheduler = type(backbone.scheduler).from_config({**backbone.scheduler.config, "beta_end": 0.013})
        elif part == "tokenizer":
            backbone.tokenizer.add_tokens(["zebra"])
        elif part.startswith("plugin"):
            next(host.plugin("camera").parameters()).add_(1e-3)
        else:
            next(getattr(backbone, part).parameters()).view(-1)[-1].add_(1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler", "tokenizer", "plugin 'camera'"])
def test_the_digest_names_the_part_that_was_replaced(part: str) -> None:
    host = tiny_host(("text", "camera")).requires_grad_(False)
    before = frozen_digests(host)
    check_frozen(before, frozen_digests(host), "x")
    check_frozen(None, before, "x")
    changed(host, part)
    with pytest.raises(InputError, match=rf"^x was trained on other frozen parts than those here: {part};"):
        check_frozen(before, frozen_digests(host), "x")


def test_what_trains_is_no_part_of_the_digest() -> None:
    host = tiny_host(("text", "camera")).requires_grad_(False)
    host.plugin("camera").requires_grad_(True)
    before = frozen_digests(host)
    changed(host, "plugin 'camera'")
    assert frozen_digests(host) == before


@pytest.mark.slow
def test_a_run_does_not_go_on_on_another_base_or_other_frames(config: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_backbone(prediction_type="v_prediction").save(base)
    short = [f"model.base={base}", "train.steps=1", "train.accumulate=1", "train.unet=false", "drop_groups=[]"]
    assert training.run(config, short) == 0
    longer = [*short, "train.steps=2"]
    other = tiny_backbone(prediction_type="v_prediction")
    next(other.text_encoder.parameters()).data.mul_(1.5)
    other.save(tmp_path / "other")
    base.rename(tmp_path / "kept")
    (tmp_path / "other").rename(base)
    for go_on in (
        lambda: training.run(config, longer, "auto"),
        lambda: training.export(tmp_path / "run" / "last.ckpt", tmp_path),
    ):
        with pytest.raises(InputError, match=r"last\.ckpt was trained on other frozen parts than those here: text_encoder;"):
            go_on()
    base.rename(tmp_path / "other")
    (tmp_path / "kept").rename(base)
    checkpoint = checkpoints.read(tmp_path / "run" / "last.ckpt")
    write(tmp_path / "run" / "last.ckpt", **{**checkpoint, "frames": "others"})
    with pytest.raises(InputError, match="than those here: frames;"):
        training.run(config, longer, "auto")
    write(tmp_path / "run" / "last.ckpt", **checkpoint)
    assert training.run(config, longer, "auto") == 0

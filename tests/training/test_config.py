"""Configs: what is said is read, and what is not allowed is refused with its place, before any work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from drivegen.support import strict_yaml
from drivegen.support.errors import InputError
from drivegen.training import config
from drivegen.training.plain_config import differences, to_dict

GOOD = """
output: runs/x
model: {base: somewhere}
plugins:
  a: {kind: text, drop: 0.25}
data: {roots: [data], size: [32, 48]}
train: {steps: 10, lr: 1e-4}
"""


def load(tmp_path: Path, text: str, *overrides: str) -> config.Config:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return config.load(path, overrides)


def test_values_defaults_and_overrides(tmp_path):
    made = load(tmp_path, GOOD, "train.lr=2e-3", "data.roots=[a, b]", "plugins.b.kind=boxes", "preview.every=7")
    assert made.train.lr == 2e-3
    assert made.train.steps == 10
    assert made.train.clip == 1.0
    assert made.data.roots == ("a", "b")
    assert made.data.size == (32, 48)
    assert list(made.plugins) == ["a", "b"]
    assert made.plugins["a"].drop == 0.25
    assert made.preview.every == 7


@pytest.mark.parametrize("spelling", ["1e-4", "1E-4", "1.0e-4", "0.0001", "'1e-4'", "1e-04"])
def test_numbers_as_people_write_them(tmp_path, spelling):
    assert load(tmp_path, GOOD.replace("lr: 1e-4", f"lr: {spelling}")).train.lr == 1e-4


def test_interpolation_of_other_keys(tmp_path):
    made = load(tmp_path, GOOD + "preview: {every: '${train.steps}'}\n")
    assert made.preview.every == 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.lrr=1", ["train.lrr", "did you mean 'lr'"]),
        ("modle.base=x", ["modle", "did you mean 'model'"]),
        ("plugins.a.dropp=0.1", ["plugins.a.dropp", "did you mean 'drop'"]),
        ("train.st=5", ["unknown setting train.st"]),  # no prefix expansion
        ("train.steps=ten", ["train.steps", "'ten'", "whole number"]),
        ("train.steps=1.5", ["train.steps", "1.5", "whole number"]),
        ("train.steps=true", ["train.steps", "True"]),
        ("train.steps=0", ["train.steps = 0", ">= 1"]),
        ("train.lr=-1", ["train.lr = -1", "> 0", "<= 1"]),
        ("train.lr=.nan", ["train.lr", "finite"]),
        ("plugins.a.drop=1.5", ["plugins.a.drop", "1.5", "<= 1"]),
        ("train.precision=bf61", ["train.precision", "bf61", "did you mean 'bf16'"]),
        ("train.gradient_checkpointing=maybe", ["train.gradient_checkpointing", "true or false"]),
        ("train.betas=[0.9, 1.0]", ["train", "betas", "1.0", "beta < 1"]),
        ("train.betas=[-0.1, 0.99]", ["betas", "-0.1"]),
        ("lora.targets='('", ["lora", "targets", "'('", "regular expression"]),
        ("lora.text_targets='*'", ["lora", "text_targets"]),
        ("train.seed=-1", ["train.seed", ">= 0"]),
        ("train.seed=9223372036854775808", ["train.seed"]),
        ("data.size=[32]", ["data.size", "2 values"]),
        ("data.size=[30, 48]", ["size", "multiples of 8"]),
        ("drop_groups=[{names: [], probability: 0.1}]", ["drop_groups", "without names"]),
        ("data.roots=[]", ["data", "roots is empty"]),
        ("data.val_scenes=1.0", ["val_scenes", "1"]),
        ("data.roots=data", ["data.roots", "list"]),
        ("stage=autoencoder", ["stage", "autoencoder"]),
        ("model.unet.in_channels=4", ["model", "unet"]),
        ("train", ["'train'", "key=value"]),
        ("output.x=1", ["output", "value"]),
        ("model._target_=os.system", ["model._target_", "code"]),
        ("plugins.a.options.class_path=os.system", ["class_path"]),
        ("output=${oc.env:HOME}", ["resolver", "environment"]),
        ("output=${output}", ["c.yaml"]),
        ("output=${nowhere}", ["nowhere"]),
    ],
)
def test_refusals_name_place_value_and_cure(tmp_path, change, said):
    with pytest.raises(InputError) as caught:
        load(tmp_path, GOOD, change)
    for words in said:
        assert words in str(caught.value)


BOMB = "a: &a [x, x]\n" + "\n".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]" for i in range(12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "train: {steps: 5}\n", "comes twice"),
        (GOOD.replace("lr: 1e-4", "lr: 1e-4, lr: 1e-3"), "comes twice"),
        (BOMB, "aliases"),
        (GOOD + "sampling: {x: !!python/object/apply:os.system [id]}\n", "tag"),
        (GOOD + "sampling: {x: !custom 1}\n", "tag"),
        (GOOD.replace("runs/x", "${a}") + "a: ${b}\nb: ${output}\n", ""),
        ("[1, 2]", "mapping"),
        ("", "mapping"),
        ("a: [1", "line"),
        ("[" * 5000, ""),
        ("1: x", "not a name"),
    ],
)
def test_hostile_files_are_refused_at_once(tmp_path, text, said):
    begun = time.process_time()
    with pytest.raises(InputError, match=said):
        load(tmp_path, text)
    assert time.process_time() - begun < 2  # an alias bomb takes OmegaConf more than a minute


def test_a_missing_or_binary_file(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        config.load(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read"):
        config.load(tmp_path / "b.yaml")


def test_required_settings_are_named(tmp_path):
    with pytest.raises(InputError, match=r"train\.steps is missing"):
        load(tmp_path, GOOD.replace("steps: 10, ", ""))


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configs_are_valid(path):
    made = config.load(path)
    assert differences(to_dict(made), to_dict(config.load(path))) == []


def test_arguments_are_of_the_annotated_types():
    def made(
        count: int = 1, share: float = 0.0, kind: Literal["a", "b"] = "a", size: int | tuple[int, int] | None = None,
        names: tuple[str, ...] = (), options: Mapping[str, Any] | None = None, path: Path | None = None, other=None,
        several: list[int] = [], either: float | int = 0.5, loose: int = "", flag: Literal[True, "auto"] = "auto",  # noqa: B006
        **more: int,
    ) -> None:  # fmt: skip
        pass

    good = {"count": 2, "share": 1, "kind": "b", "size": [2, 3], "names": ["x"], "options": {"x": [1]}, "path": "p"}
    good |= {"other": [[1]], "several": (1, 2), "either": 3, "loose": "", "flag": True, "more": {"x": 1}}
    expected = {**good, "share": 1.0, "size": (2, 3), "names": ("x",), "several": [1, 2]}
    found = strict_yaml.arguments(made, good, "here")
    assert found == expected
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}
    assert strict_yaml.arguments(made, {"size": None, "options": None, "unknown": 1}, "here")["unknown"] == 1
    bad = {"count": "2", "share": True, "kind": "c", "size": [1, 2, 3], "names": "x", "options": 3}
    bad |= {"several": [1, "2"], "either": "x", "loose": "x", "flag": 1}
    for name, value in bad.items():
        with pytest.raises(InputError, match=rf"^here\.{name}"):
            strict_yaml.arguments(made, {name: value}, "here")


def test_differences_name_both_values(tmp_path):
    old, new = (to_dict(load(tmp_path, GOOD, f"train.lr={lr}")) for lr in (1e-4, 1e-3))
    assert differences(old, new) == ["train.lr: 0.0001 -> 0.001"]

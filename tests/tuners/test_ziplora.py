"""ZipLoRA: equal to the sum and to the closed form by columns, an ordinary LoRA on disk, trained by what each LoRA does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from drivegen import lora
from drivegen.catalog import registry, tuners
from drivegen.host.host import Host
from drivegen.objectives.merging import Merging
from drivegen.plugin.tuner import Tuner
from drivegen.saved import tuners as saved
from drivegen.support.errors import InputError
from drivegen.testing import objectives
from drivegen.testing.models import randomize, tiny_backbone
from drivegen.testing.tuners import CHECKS, Case
from drivegen.tuners.ziplora import ZipLoRA
from tests.tuners.test_layouts import predict

TARGETS = r"mid_block.*(attn[12]\.to_[qk]|conv1|proj_in)"
KINDS = ("lora", "loha")


def made(folder: Path, kind: str, seed: int, **options: Any) -> str:
    """Write the file of a tuner of random numbers for the tiny model."""
    host, tuner = bare(), tuners.make(kind, {"rank": seed + 2, "targets": TARGETS, "text_encoder": True, **options})
    host.add_tuner("it", tuner)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in tuner.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return str(tuner.save(folder / f"{kind}{seed}"))


def bare() -> Host:
    return Host(tiny_backbone(), {"text": registry.load("text")()}).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pair")
    return [made(folder, kind, seed) for seed, kind in enumerate(KINDS)]


def zipped(pair: list[str], used: bool = True) -> tuple[Host, ZipLoRA]:
    host, tuner = bare(), ZipLoRA(pair)
    host.add_tuner("both", tuner)
    if used:
        randomize(tuner, 5)
    return host, tuner


@pytest.mark.parametrize("check", CHECKS)
def test_the_battery(check: str, pair: list[str]) -> None:
    CHECKS[check](Case(ZipLoRA, {"loras": pair}))


@pytest.mark.parametrize("check", ["gives_losses", "gradients_reach_what_learns", "asks_plugins", "steps_and_resumes"])
def test_the_objectives_battery(check: str, pair: list[str]) -> None:
    objectives.CHECKS[check](objectives.Case(Merging, trains="tuner", tuner=lambda: ZipLoRA(pair)))


def test_numbers_of_one_are_the_sum_and_each_alone_is_itself(pair: list[str]) -> None:
    host, tuner = zipped(pair, used=False)
    other = bare()
    both = [lora.read(file) for file in pair]
    lora.apply(other, [(one, 1.0) for one in both])
    assert torch.equal(predict(host.backbone), predict(other.backbone))
    randomize(tuner, 5)
    for one, part in zip(both, tuner.parts, strict=True):
        lora.apply(other, [(one, 1.0)])
        with tuner.alone(part):
            assert torch.equal(predict(host.backbone), predict(other.backbone))
    with pytest.raises(InputError, match=r"has no part 'lora_3'"), tuner.alone("lora_3"):
        pass


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_is_written_is_an_ordinary_lora_of_the_columns_in_closed_form(
    pair: list[str], tmp_path: Path, dtype: torch.dtype | None
) -> None:
    host, tuner = zipped(pair)
    plain = bare().backbone
    for network, name, key in tuner.sites:
        change: Any = tuner.changes[key]
        weight = getattr(plain, network).get_submodule(name).weight
        for (a, b), merger in zip(change.pairs(), change.mergers, strict=True):
            weight += ((b.flatten(1) @ a.flatten(1)) * merger.flatten()).reshape(weight.shape)
    wanted = predict(host.backbone)
    torch.testing.assert_close(predict(plain), wanted, rtol=1e-4, atol=1e-5)
    saved.save(tuner, tmp_path / "both", dtype)
    other = bare()
    lora.apply(other, [(lora.read(tmp_path / "both"), 1.0)])
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype is None else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(predict(other.backbone), wanted, **near)
    about = saved.read(tmp_path / "both")
    assert (about.kind, about.options["rank"]) == ("lora", 2 + 9)
    assert len(json.loads((tmp_path / "both" / "tuner.json").read_text())["made_of"]) == 2
    again, file = saved.make(tmp_path / "both")
    lora.remove(other)
    other.add_tuner("both", again)
    again.load(file)
    torch.testing.assert_close(predict(other.backbone), wanted, **near)


def test_the_loss_is_each_loras_own_prediction_on_its_own_frames(pair: list[str]) -> None:
    case = objectives.Case(Merging, trains="tuner", tuner=lambda: ZipLoRA(pair, overlap=0.5))
    module, lesson = case.module(), case.lesson(case.module())
    host, tuner = module.host, module.host.tuner("tuner")
    randomize(tuner, 6)
    losses = module.objective.step(host, lesson)
    assert list(losses) == ["lora_1", "lora_2"]
    ours = host(lesson.noisy(), lesson.t, lesson.encode(host))
    host.remove_tuner("tuner")
    for number, (file, name) in enumerate(zip(pair, losses, strict=True)):
        lora.apply(host, [(lora.read(file), 1.0)])
        theirs = host(lesson.noisy(), lesson.t, lesson.encode(host))
        rows = slice(3 * number, 3 * number + 3)
        torch.testing.assert_close(losses[name], F.mse_loss(ours[rows], theirs[rows]))
    cosines = [F.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in (one.mergers for one in tuner.changes.values())]
    torch.testing.assert_close(tuner.penalty(), 0.5 * torch.stack(cosines).abs().sum())
    assert ZipLoRA(pair, overlap=0).penalty() is None


def files_of_another_base(folder: Path) -> str:
    host, tuner = Host(tiny_backbone(family="sdxl"), {}), tuners.make("lora", {"rank": 2, "targets": TARGETS})
    host.add_tuner("it", tuner)
    return str(tuner.save(folder / "sdxl"))


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (lambda folder, one: made(folder, "lora", 1, targets="mid_block.*attn1.to_q"), r"lora0\S* changes unet\.\S+, which "),
        (lambda folder, one: made(folder, "lora", 1, text_encoder=False), r"changes text_encoder\.\S+, which"),
        (files_of_another_base, r"sdxl\S*: the LoRA (was made for another base: in unet|changes unet)"),
        (lambda folder, one: one, "is given twice, or is a copy"),
        (lambda folder, one: str(folder / "nothing.safetensors"), "nothing.safetensors"),
    ],
)  # fmt: skip
def test_pairs_that_do_not_go_together_are_refused(
    pair: list[str], tmp_path: Path, second: Callable[..., str], said: str
) -> None:
    other = second(tmp_path) if second is files_of_another_base else second(tmp_path, pair[0])
    host = bare()
    with pytest.raises(InputError, match=said):
        host.add_tuner("both", ZipLoRA([pair[0], other]))
    assert not host.tuners


def test_a_file_that_was_merged_of_others_is_refused(pair: list[str], tmp_path: Path) -> None:
    _, tuner = zipped(pair)
    file = zipped([pair[0], made(tmp_path, "lora", 7)])[1].save(tmp_path / "other")
    before = [p.clone() for p in tuner.parameters()]
    with pytest.raises(InputError, match="was not merged of"):
        tuner.load(file)
    with pytest.raises(InputError, match="was not merged of"):
        tuner.load(Path(pair[0]))
    assert all(torch.equal(a, b) for a, b in zip(before, tuner.parameters(), strict=True))
    for wrong in ([pair[0]], "file", [pair[0], 3]):
        with pytest.raises(InputError, match="must be two files"):
            ZipLoRA(wrong)  # type: ignore[arg-type]


def test_merging_needs_one_tuner_with_parts() -> None:
    plain: Callable[[], Tuner] = lambda: tuners.make("lora", {"rank": 1})  # noqa: E731
    with pytest.raises(InputError, match="here none is made of parts"):
        objectives.Case(Merging, trains="tuner", tuner=plain).module()

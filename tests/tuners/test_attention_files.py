"""Hypernetworks and Custom Diffusion as others release them: the numbers of their own tools, or a sentence."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, CustomDiffusionAttnProcessor
from safetensors.torch import save_file
from torch import nn

from drivegen import words
from drivegen.catalog import registry
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.plugin import per_row
from drivegen.sampling import Sampling
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from drivegen.support.files import sha256
from drivegen.testing.frames import frame
from drivegen.tuners.custom_diffusion import CustomDiffusion
from drivegen.tuners.merge_concepts import merge, merged, states_of
from tests.hostile import Hostile
from tests.tiny_models import WIDTH, randomize, tiny_backbone


def pipeline(*kinds: str) -> Pipeline:
    host = Host(tiny_backbone(), {kind: registry.load(kind)() for kind in kinds}).eval()
    for name in host.plugins:
        randomize(host.plugin(name), len(name))
    return Pipeline(Model(host, Sampling(), (48, 64)))


def predict(host: Host, unet: Any = None) -> torch.Tensor:
    """One prediction for two scenes of two views; by another UNet in the place of the host's where one is given."""
    plugins = {name: host.plugin(name) for name in host.plugins}
    made = data.collate([data.prepare(frame(i, 2), plugins) for i in range(2)], plugins, views=2)
    x, t = torch.randn(4, 4, 12, 16, generator=torch.Generator().manual_seed(1)), torch.full((4,), 500)
    with torch.no_grad():
        conditions = host.encode(made.arrays, made.grid)
        if unet is None:
            return host(x, t, conditions)
        tokens = torch.cat([per_row(conditions.signals[n].tokens, made.grid) for n in host.plugins], 1)
        return unet(x, t, encoder_hidden_states=tokens, return_dict=False)[0]


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).norm() / b.norm()) < 1e-5


# -- hypernetworks ----------------------------------------------------------------------------------------------------

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"layer_structure": [1, 2, 2, 1], "activation_func": "swish", "is_layer_norm": True, "activate_output": False},
    {"layer_structure": [1, 1.5, 1], "activation_func": "relu", "activate_output": True},
    {"layer_structure": [1, 2, 1, 1], "activation_func": "tanh", "use_dropout": True, "activate_output": False},
    {"layer_structure": [1, 2, 1], "is_layer_norm": True, "activation_func": "Sigmoid", "dropout_structure": [0, 0.2, 0]},
)


def network(width: int, seed: int, about: dict[str, Any]) -> nn.Sequential:
    """A network as that interface builds it, part for part."""
    structure, activation = about.get("layer_structure", [1, 2, 1]), about.get("activation_func")
    dropout = about.get("dropout_structure") or ([0, 0.3, 0, 0] if about.get("use_dropout") else [0] * len(structure))
    activations = {"swish": nn.Hardswish, "relu": nn.ReLU, "tanh": nn.Tanh, "Sigmoid": nn.Sigmoid}
    parts: list[nn.Module] = []
    for i in range(len(structure) - 1):
        parts.append(nn.Linear(int(width * structure[i]), int(width * structure[i + 1])))
        if activation is not None and (about.get("activate_output", True) or i < len(structure) - 2):
            parts.append(activations[activation]())
        if about.get("is_layer_norm"):
            parts.append(nn.LayerNorm(int(width * structure[i + 1])))
        if dropout[i + 1] > 0:
            parts.append(nn.Dropout(dropout[i + 1]))
    return randomize(nn.Sequential(*parts), seed).eval()


class Through(nn.Module):
    """A projection that is given ``x + multiplier · h(x)``."""

    def __init__(self, layer: nn.Module, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.layer, self.inner, self.scale = layer, inner, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x + self.inner(x) * self.scale)


def write(path: Path, about: dict[str, Any]) -> dict[int, tuple[nn.Module, nn.Module]]:
    nets = {width: (network(width, width, about), network(width, width + 1, about)) for width in (WIDTH, 32, 64)}
    values = {
        width: tuple({f"linear.{k}": v for k, v in one.state_dict().items()} for one in pair) for width, pair in nets.items()
    }
    torch.save({**values, "name": "rain", "step": 9, "sd_checkpoint": None, **about}, path)
    return nets


@pytest.mark.parametrize("about", KINDS)
def test_a_hypernetwork_is_its_closed_form(about: dict[str, Any], tmp_path: Path) -> None:
    nets = write(tmp_path / "rain.pt", about)
    pipe = pipeline("text")
    before = predict(pipe.host)
    expected = copy.deepcopy(tiny_backbone().unet)
    for module in list(expected.modules()):
        if isinstance(module, Attention):
            k, v = nets[module.to_k.in_features]
            module.to_k, module.to_v = Through(module.to_k, k, 0.7), Through(module.to_v, v, 0.7)
    assert pipe.load_tuner(tmp_path / "rain.pt", 0.7) == "rain"
    found = predict(pipe.host)
    assert near(found, predict(pipe.host, expected))
    assert not near(found, before)
    assert pipe.tuners == {"rain": 0.7}
    assert pipe.extensions.sha256 == {"rain": sha256(tmp_path / "rain.pt")}
    saved = pipe.host.tuner("rain").save(tmp_path / "again")
    pipe.unload_tuner("rain")
    assert torch.equal(predict(pipe.host), before)
    pipe.load_tuner(saved, 0.7)
    assert torch.equal(predict(pipe.host), found)


def test_files_of_safetensors_and_old_names_are_read(tmp_path: Path) -> None:
    nets = write(tmp_path / "rain.pt", {})
    new = {f"{w}.{'kv'[i]}.linear.{k}": v for w, pair in nets.items() for i in (0, 1) for k, v in pair[i].state_dict().items()}
    save_file(new, tmp_path / "rain.safetensors", {"layer_structure": "[1, 2, 1]", "activation_func": "linear", "name": "rain"})
    old = {
        w: [{f"linear{int(k[0]) + 1}{k[1:]}": v for k, v in one.state_dict().items()} for one in pair]
        for w, pair in nets.items()
    }
    torch.save(old, tmp_path / "old.pt")
    outs = []
    for name in ("rain.pt", "rain.safetensors", "old.pt"):
        pipe = pipeline("text")
        pipe.load_tuner(tmp_path / name)
        outs.append(predict(pipe.host))
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


# -- Custom Diffusion -------------------------------------------------------------------------------------------------


def released(crossattn: bool) -> tuple[Any, dict[str, torch.Tensor]]:
    """A UNet with diffusers' processors, and their file."""
    unet = copy.deepcopy(tiny_backbone().unet)
    processors: dict[str, Any] = {}
    for name, module in unet.named_modules():
        if isinstance(module, Attention):
            cross = bool(module.is_cross_attention)
            made = CustomDiffusionAttnProcessor(
                cross, cross and crossattn, module.to_q.in_features, module.to_k.in_features if cross else None
            )
            processors[f"{name}.processor"] = randomize(made, len(processors))
    state = {f"{name}.{key}": value for name, one in processors.items() for key, value in one.state_dict().items()}
    unet.set_attn_processor(processors)  # which empties the dictionary
    return unet, state


@pytest.mark.parametrize("crossattn", [False, True])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_custom_diffusion_is_diffusers_processor(crossattn: bool, suffix: str, tmp_path: Path) -> None:
    unet, state = released(crossattn)
    file = tmp_path / f"pytorch_custom_diffusion_weights.{suffix}"
    if suffix == "bin":
        torch.save({**state, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor": {}}, file)
    else:
        save_file(state, file)
    torch.save({"<new1>": torch.randn(WIDTH)}, tmp_path / "<new1>.bin")
    pipe = pipeline("text")
    before = predict(pipe.host)
    name = pipe.load_tuner(tmp_path)
    assert pipe.words == {"<new1>": 1}
    assert near(predict(pipe.host), predict(pipe.host, unet))
    saved = pipe.host.tuner(name).save(tmp_path / "again")
    theirs = copy.deepcopy(tiny_backbone().unet)
    models = SimpleNamespace(hf_device_map=None, components={})  # without a pipeline it reads the file and leaves it at that
    theirs.load_attn_procs(str(tmp_path / "again"), weight_name=saved.name, _pipeline=models)
    assert near(predict(pipe.host), predict(pipe.host, theirs))
    pipe.unload_tuner()
    assert pipe.words == {}
    assert torch.equal(predict(pipe.host), before)


def test_tokens_of_boxes_stay_as_they_are(tmp_path: Path) -> None:
    unet, state = released(False)
    save_file(state, tmp_path / "cd.safetensors")
    for kinds in (("boxes",), ("boxes", "text")):
        pipe = pipeline(*kinds)
        before = predict(pipe.host)
        pipe.load_tuner(tmp_path / "cd.safetensors")
        assert torch.equal(before, predict(pipe.host)) is (kinds == ("boxes",))
    # Beside boxes it is neither nothing nor what the processors, which change every token, would make of it.
    assert not near(predict(pipe.host), predict(pipe.host, unet))


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    pipe = pipeline("text")
    before = predict(pipe.host)
    _, state = released(False)
    first = next(iter(state))
    half = {key: value for key, value in state.items() if key != first}
    save_file(half, tmp_path / "half.safetensors")
    save_file({**half, first: torch.zeros(32, 768)}, tmp_path / "wide.safetensors")
    save_file({"a.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    fine = write(tmp_path / "rain.pt", {})[32][0].state_dict()
    pair = [{f"linear.{k}": v for k, v in fine.items()}] * 2
    torch.save({768: pair}, tmp_path / "sd1.pt")
    torch.save({64: pair}, tmp_path / "shapes.pt")
    torch.save({32: [pair[0], {}]}, tmp_path / "cut.pt")
    torch.save({32: pair, "activation_func": "magic"}, tmp_path / "magic.pt")
    torch.save({32: pair, "layer_structure": [1, 2, 2]}, tmp_path / "odd.pt")
    torch.save({32: pair, "is_layer_norm": "yes"}, tmp_path / "yes.pt")
    torch.save({32: pair, "name": Hostile(tmp_path / "mark")}, tmp_path / "hostile.pt")
    for name, said in (
        ("half.safetensors", "another base, or with other options: it lacks"), ("wide.safetensors", r"\(32, 768\), and here"),
        ("lora.safetensors", "no tuner reads it"), ("sd1.pt", "width 768, .*another base"), ("shapes.pt", "shape"),
        ("cut.pt", "the file is damaged"), ("magic.pt", "activation_func = 'magic' is none of"),
        ("odd.pt", "damaged|begin and end with 1"), ("yes.pt", "is_layer_norm"), ("hostile.pt", "plain tensors"),
        ("gone.pt", "there is no tuner's file"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            pipe.load_tuner(tmp_path / name)
        assert pipe.tuners == {}
        assert not pipe.host.tuners
    torch.save({"<wide>": torch.randn(768)}, tmp_path / "<wide>.bin")
    save_file(state, tmp_path / "pytorch_custom_diffusion_weights.safetensors")
    with pytest.raises(InputError, match="another text encoder"):
        pipe.load_tuner(tmp_path)
    assert pipe.words == {}
    assert torch.equal(predict(pipe.host), before)
    assert not (tmp_path / "mark").exists()


def test_subjects_are_merged_under_their_constraints() -> None:
    draw = torch.Generator().manual_seed(0)
    base, kept = torch.randn(6, 10, generator=draw), torch.randn(50, 10, generator=draw)
    learned = [(base + torch.randn(6, 10, generator=draw), torch.randn(n, 10, generator=draw)) for n in (1, 2)]
    made = merged(base, learned, kept)
    for own, states in learned:
        assert torch.allclose(states @ made.T, states @ own.T, atol=1e-4)  # what each subject's words give
    moved = ((made - base) @ kept.T).norm()
    directions = torch.linalg.svd(torch.cat([states for _, states in learned]))[2][3:]  # what no constraint speaks of
    for direction in directions:
        for sign in (1e-2, -1e-2):
            other = made + sign * torch.ones(6, 1) * direction
            assert ((other - base) @ kept.T).norm() > moved  # the least of all that hold them
    with pytest.raises(InputError, match="depend on each other"):
        merged(base, [(learned[0][0], learned[0][1].repeat(2, 1))], kept)


def test_two_subjects_in_one_speak_as_each_did_alone(tmp_path: Path) -> None:
    pipe = pipeline("text")
    backbone, subjects = pipe.host.backbone, {}
    words.teach(backbone, {f"<new{i}>": torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(i)) for i in (1, 2)})
    for i in (1, 2):
        tuner = CustomDiffusion()
        tuner.bind(backbone)
        subjects[f"<new{i}>"] = randomize(tuner, i)
    before = predict(pipe.host)
    made = merge(backbone, subjects, [a + b + c for a in "abcdef" for b in "ghi" for c in "jkl"])
    assert torch.equal(predict(pipe.host), before)  # nothing is put in
    for phrase, tuner in subjects.items():
        states = states_of(backbone, phrase)
        for key, change in tuner.changes.items():
            assert torch.allclose(states @ made.changes[key].weight.T, states @ change.weight.T, atol=1e-3)
    pipe.host.add_tuner("both", made)
    again = pipeline("text")
    again.load_tuner(made.save(tmp_path))
    assert torch.equal(predict(again.host), predict(pipe.host))
    with pytest.raises(InputError, match="queries and outputs"):
        merge(backbone, {"a": CustomDiffusion(True)}, ["b"])
    with pytest.raises(InputError, match="at least one"):
        merge(backbone, {}, ["b"])

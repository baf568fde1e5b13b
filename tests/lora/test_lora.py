"""LoRA: kohya, PEFT and diffusers files against diffusers' own loading, taps on wrapped layers, unloading."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from drivegen import lora
from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.lora.alpha import Alphas
from drivegen.pipeline.pipeline import Pipeline
from drivegen.sampling import Sampling
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from drivegen.testing import Case
from drivegen.testing.frames import frame
from drivegen.testing.models import WIDTH, randomize, tiny_backbone
from tests.hostile import Hostile

CASE = Case(registry.load("image_prompt"), backbone=lambda: tiny_backbone(image_encoder=True), frames=(frame(0, 2),))
UNET = [
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_q",
]
TEXT = ["encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.out_proj"]


def make(names: tuple[str, ...] = ("text",)) -> Host:
    host = Host(tiny_backbone(image_encoder=True), {name: registry.load(name)() for name in names})
    for i, name in enumerate(names):
        randomize(host.plugin(name), i)
    return host.eval().requires_grad_(False)


def matrices(host: Host, rank: int = 3) -> dict[str, tuple[Tensor, Tensor]]:
    """Random A and B for some layers, by network and module."""
    generator = torch.Generator().manual_seed(0)
    out = {}
    for network, names in (("unet", UNET), ("text_encoder", TEXT)):
        for name in names:
            rows, columns = getattr(host.backbone, network).get_submodule(name).weight.shape
            a, b = (0.3 * torch.randn(*shape, generator=generator) for shape in ((rank, columns), (rows, rank)))
            out[f"{network}.{name}"] = (a, b)
    return out


def full(name: str) -> str:
    """transformers' older name of a text encoder's layer, which files keep."""
    return name.replace("text_encoder.", "text_encoder.text_model.")


def kohya(pairs: dict[str, tuple[Tensor, Tensor]], alpha: Callable[[str], float] = lambda name: 2.0) -> dict[str, Tensor]:
    out = {}
    for name, (a, b) in pairs.items():
        network, _, module = full(name).partition(".")
        key = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[network] + module.replace(".", "_")
        out |= {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b, f"{key}.alpha": torch.tensor(alpha(name))}
    return out


def diffusers_new(pairs: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {f"{full(n)}.lora_{end}.weight": m for n, pair in pairs.items() for end, m in zip("AB", pair, strict=True)}


def diffusers_old(pairs: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    out = {}
    for name, pair in pairs.items():
        for end, m in zip(("down", "up"), pair, strict=True):
            if name.startswith("unet"):
                parent, _, layer = name.replace(".to_out.0", ".to_out").rpartition(".")
                out[f"{parent}.processor.{layer}_lora.{end}.weight"] = m
            else:
                out[f"{full(name)}.lora_linear_layer.{end}.weight"] = m
    return out


def predict(backbone: Any) -> Tensor:
    """UNet on the text encoder's states of one prompt."""
    ids = torch.tensor(backbone.tokenizer(["a wet street"], padding="max_length", truncation=True)["input_ids"])
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return backbone.unet(x, 500, backbone.text_encoder(ids)[0]).sample


def theirs(host: Host, state: dict[str, Tensor], scale: float) -> Tensor:
    from diffusers import StableDiffusionPipeline

    b = copy.deepcopy(host.backbone)
    pipe = StableDiffusionPipeline(
        b.vae, b.text_encoder, b.tokenizer, b.unet, b.scheduler, None, None, requires_safety_checker=False
    )
    pipe.load_lora_weights(dict(state), adapter_name="a")
    pipe.set_adapters(["a"], [scale])
    return predict(b)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("layout", [kohya, diffusers_new, diffusers_old])
def test_files_equal_diffusers(layout: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    host = make()
    state = {name: value.to(dtype).contiguous() for name, value in layout(matrices(host)).items()}
    save_file(state, tmp_path / "style.safetensors")
    plain = predict(host.backbone)
    pipe = Pipeline(Model(host, Sampling(), (48, 64)))
    assert pipe.load_lora(tmp_path / "style.safetensors", 0.7) == "style"
    out = predict(host.backbone)
    expected = theirs(make(), state, 0.7)
    assert float((out - expected).norm() / expected.norm()) < 1e-5
    assert float((out - plain).norm() / plain.norm()) > 1e-2
    assert pipe.loras == {"style": 0.7}


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("layout", ["kohya", "peft", "peft pickle"])
def test_an_alpha_a_layer(layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Against the weights with the matrices added: with several alphas, diffusers reads kohya's as one."""
    host, twin = make(), make()
    pairs = {n: (a.to(dtype), b.to(dtype)) for n, (a, b) in matrices(host).items() if n.startswith("unet")}
    alpha = lambda name: 1.25 if "attn1.to_q" in name else 5.0  # noqa: E731
    if layout == "kohya":
        save_file(kohya(pairs, alpha), tmp_path / "file.safetensors")
    else:
        named = diffusers_new(pairs)
        state = {f"base_model.model.{name.removeprefix('unet.')}": m for name, m in named.items()}
        if layout == "peft":
            save_file(state, tmp_path / "adapter_model.safetensors")
        else:
            torch.save(state, tmp_path / "adapter_model.bin")
        config = {"r": 3, "lora_alpha": 5, "alpha_pattern": {"attn1.to_q": 1.25}}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    Pipeline(Model(host, Sampling(), (48, 64))).load_lora(tmp_path / "file.safetensors" if layout == "kohya" else tmp_path)
    for name, (a, b) in pairs.items():
        twin.backbone.unet.get_submodule(name.removeprefix("unet.")).weight += alpha(name) / 3 * b.float() @ a.float()
    expected = predict(twin.backbone)
    assert float((predict(host.backbone) - expected).norm() / expected.norm()) < 1e-5


@torch.no_grad()
def test_two_add_up_and_unloading_leaves_no_bit(tmp_path: Path) -> None:
    host = make(("text", "image_prompt", "bev_map"))
    pipe = Pipeline(Model(host, Sampling(), (48, 64)))
    before = {name: value.clone() for name, value in host.state_dict().items()}
    modules = [id(m) for m in host.modules()]
    plain = predict(host.backbone)
    lora_file = lora.save(lora.LoRA(split(matrices(host))), tmp_path)
    assert pipe.load_lora(lora_file, 0.25, "a") == "a"
    pipe.load_lora(lora_file, 0.5, "b")
    both = predict(host.backbone)
    pipe.unload_lora()
    pipe.load_lora(lora_file, 0.75, "c")
    assert torch.allclose(predict(host.backbone), both, atol=1e-5)
    pipe.unload_lora("c")
    after = host.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [id(m) for m in host.modules()] == modules
    assert torch.equal(predict(host.backbone), plain)
    with pytest.raises(InputError, match="no LoRA 'c'"):
        pipe.unload_lora("c")


def split(pairs: dict[str, tuple[Tensor, Tensor]]) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
    out: dict[str, dict[str, tuple[Tensor, Tensor]]] = {"unet": {}, "text_encoder": {}}
    for name, pair in pairs.items():
        network, _, module = name.partition(".")
        out[network][module] = pair
    return out


@torch.no_grad()
def test_taps_borrow_the_changed_weights() -> None:
    """An image prompt beside a LoRA equals one on a UNet whose weights have the LoRA added."""
    case = Case(CASE.make, user_input=None, backbone=CASE.backbone, frames=CASE.frames)
    host, merged = case.host(), case.host()
    pairs = {n: p for n, p in matrices(host).items() if n.startswith("unet")}
    lora.apply(host, [(lora.LoRA(split(pairs)), 1.0)])
    for name, (a, b) in pairs.items():
        merged.backbone.unet.get_submodule(name.removeprefix("unet.")).weight += b @ a
    batch = case.batch(host)
    arrays = batch.arrays[case.name]
    arrays["pixels"] = torch.randint(0, 256, (1, 1, 3, 32, 32), dtype=torch.uint8)
    arrays["index"], arrays["scale"] = torch.zeros_like(arrays["index"]), torch.ones_like(arrays["scale"])
    out, expected = case.run(host, batch=batch), case.run(merged, batch=batch)
    assert float((out - expected).norm() / expected.norm()) < 1e-5
    assert not torch.allclose(expected, case.run(merged, batch=batch, scale=0.0), atol=1e-3)


def faults(host: Host) -> Iterator[tuple[dict[str, Tensor], str]]:
    state = diffusers_new(matrices(host))
    name = next(iter(state))
    yield {name.replace("down_blocks.0", "down_blocks.7"): state[name], **dict(list(state.items())[1:2])}, "only one of its two"
    yield {k.replace("down_blocks.0", "down_blocks.7"): v for k, v in state.items()}, "does not have"
    wide = r"another base: in unet\..* it changes weights of shape \(\d+, \d+\), and here they have \(\d+, \d+\), of a Linear"
    yield {k: v.repeat(1, 2) if ".lora_A" in k else v for k, v in state.items()}, wide
    kernels = {k: v[:, :, None, None] for k, v in state.items()}
    yield kernels, r"changes weights of shape \((\d+, \d+), 1, 1\), and here they have \(\1\), of a Linear"
    yield {k: v if ".lora_A" in k else v[:, :2] for k, v in state.items()}, r"A is float32 \(3, \d+\) and B float32 \(\d+, 2\)"
    yield {k: v[:0] if ".lora_A" in k else v[:, :0] for k, v in state.items()}, r"A is float32 \(0, \d+\)"
    yield {k: v.to(torch.int8) for k, v in state.items()}, "A is int8"
    yield {k: v.flatten() for k, v in state.items()}, r"A is float32 \(\d+,\)"
    old = kohya(matrices(host))
    for bad, said in ((torch.ones(2), r"a tensor of shape \(2,\)"), (torch.tensor(1e9), "1000000000.0; it must be one number")):
        yield {k: bad if k.endswith(".alpha") else v for k, v in old.items()}, said
    yield {k.replace("lora_down", "lora_inner"): v for k, v in old.items()}, "is of no layer"
    factors = {"lora_A.weight": "hada_w1_a", "lora_B.weight": "hada_w1_b"}
    halves = {k.replace(a, b): v for k, v in state.items() for a, b in factors.items() if k.endswith(a)}
    yield halves, "is LoHa and lacks hada_w2_a, hada_w2_b; the file is damaged"
    for key, kind in (("lora_unet_x.oft_blocks", "OFT"), ("emb_params", "textual inversion")):
        yield {key: torch.zeros(2)}, f"is a file of {kind}; LoRA, LoHa, LoKr, DoRA and whole differences are read"
    yield {"lora_unet_down_blocks_9.diff": torch.zeros(2, 2)}, "changes unet.down_blocks_9, which this model does not have"
    yield {"lora_unet_conv_in.diff": torch.zeros(3, 3)}, r"another base: in unet.conv_in it changes weights of shape \(3, 3\)"
    yield {"lora_unet_conv_in.w_norm": torch.zeros(3)}, "changes unet.conv_in as a norm, and it is a Conv2d"
    yield {"lora_unet_conv_in.diff_b": torch.zeros(3)}, r"changes the bias of unet.conv_in by \(3,\) numbers"
    yield {"lora_unet_conv_in.lokr_w1": torch.zeros(3, 3)}, "has neither lokr_w2 alone nor"
    yield {"something.weight": torch.zeros(2)}, "is not a LoRA"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"lora_alpha": 4, "alpha_pattern": {"(a+)+$": 2}},
            r"regular expression '\(a\+\)\+\$', and none from a file is run",
        ),
        ({"lora_alpha": 4, "alpha_pattern": {".*attn1.*": 2}}, "regular expression"),
        ({"lora_alpha": 4, "alpha_pattern": {"[": 2}}, "regular expression"),
        ({"lora_alpha": 4, "alpha_pattern": {"to_q": "2"}}, r"alpha_pattern\['to_q'\] is '2'; it must be one number"),
        ({"lora_alpha": 4, "alpha_pattern": ["to_q"]}, "alpha_pattern must be an object of numbers, not list"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": [1, 2]}, r"lora_alpha is \[1, 2\]"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": 4, "use_rslora": "no"}, "use_rslora = 'no' must be true or false"),
        (["lora_alpha"], "must (hold|be) an object, not list"),
    ],
)
@pytest.mark.parametrize("layout", ["header", "config"])
def test_numbers_beside_the_weights_are_checked(config: Any, said: str, layout: str, tmp_path: Path) -> None:
    state = {f"unet.{UNET[0]}.lora_A.weight": torch.ones(2, 32), f"unet.{UNET[0]}.lora_B.weight": torch.ones(32, 2)}
    if layout == "header":
        named = {f"unet.{key}": value for key, value in config.items()} if isinstance(config, dict) else config
        save_file(state, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(named)})
    else:
        save_file(state, tmp_path / "adapter_model.safetensors")
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=said):
        lora.read(tmp_path / "a.safetensors" if layout == "header" else tmp_path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"lora_alpha": 4, "use_dora": True}, "says DORA, and the file holds LoRA without"),
        ({"alpha": 4, "peft_type": "LOHA"}, "says LOHA, and the file holds LoRA"),
        ({"lora_alpha": 4, "peft_type": "OFT"}, "is of 'OFT'; LORA, LOHA, LOKR are read"),
    ],
)
def test_peft_says_what_a_file_is(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    state = {f"unet.{UNET[0]}.lora_A.weight": torch.ones(2, 32), f"unet.{UNET[0]}.lora_B.weight": torch.ones(32, 2)}
    save_file(state, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=said):
        lora.read(tmp_path)


@pytest.mark.parametrize(
    ("config", "said"),
    [({"r": 2}, "does not say lora_alpha"), ({"lora_alpha": 4, "alpha_pattern": {"to_.": 8}}, "'to_.', which is no layer")],
)
def test_numbers_that_reach_no_layer_are_said(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    state = {f"unet.{UNET[0]}.lora_A.weight": torch.ones(2, 32), f"unet.{UNET[0]}.lora_B.weight": torch.ones(32, 2)}
    save_file(state, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=said):
        lora.read(tmp_path)


def test_patterns_of_names_mean_what_they_mean_to_peft() -> None:
    from peft.utils.other import get_pattern_key

    names = (*UNET, *TEXT, "to_q", "attn1.to_q", "mid.xattn1.to_q")
    patterns = {p: float(i) for i, p in enumerate(("^to_q", "attn1.to_q", f"^{UNET[2]}", r"attn2\.to_q$", "q_proj"), 1)}
    alphas = Alphas(9.0, {p.removesuffix("$").replace("\\", ""): value for p, value in patterns.items()})
    for name in names:
        assert alphas.factor(name, 1) == patterns.get(get_pattern_key(patterns.keys(), name), 9.0), name
    assert Alphas(8.0, rslora=True).factor("a", 4) == 4.0


def test_words_that_a_file_brings_come_and_go_with_it(tmp_path: Path) -> None:
    state = kohya(matrices(make()))
    vectors = torch.randn(2, WIDTH)
    save_file({**state, "bundle_emb.rainy.string_to_param.*": vectors}, tmp_path / "with.safetensors")
    save_file({**state, "bundle_emb.wet.emb_params": vectors[:1]}, tmp_path / "other.safetensors")
    save_file({**state, "bundle_emb.rainy.emb_params": 2 * vectors}, tmp_path / "clash.safetensors")
    save_file({**state, "bundle_emb.rainy.clip_g": vectors}, tmp_path / "xl.safetensors")
    save_file({**state, "bundle_emb.rainy": vectors}, tmp_path / "strange.safetensors")
    save_file(state, tmp_path / "plain.safetensors")
    found = lora.read(tmp_path / "with.safetensors")
    plain = lora.read(tmp_path / "plain.safetensors").layers
    assert all(torch.equal(found.layers[n][k][1], plain[n][k][1]) for n in plain for k in plain[n])
    host = make()
    other = lora.read(tmp_path / "other.safetensors")
    lora.apply(host, [(found, 1.0), (found, 0.5), (other, 1.0)])
    assert list(host.backbone.words.table) == ["rainy", "wet"]
    assert torch.equal(host.backbone.words["rainy"], vectors)
    with pytest.raises(InputError, match="two LoRAs bring the word 'rainy'"):
        lora.apply(host, [(found, 1.0), (lora.read(tmp_path / "clash.safetensors"), 1.0)])
    assert not list(host.backbone.words.table)
    with pytest.raises(InputError, match="of SDXL's second text encoder"):
        lora.read(tmp_path / "xl.safetensors")
    with pytest.raises(InputError, match="no vector of a word"):
        lora.read(tmp_path / "strange.safetensors")


def test_a_hostile_pickle_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({**diffusers_new(matrices(make())), "more": Hostile(mark)}, tmp_path / "adapter_model.bin")
    with pytest.raises(InputError, match="was refused: it is not a file of plain tensors"):
        lora.read(tmp_path)
    assert not mark.exists()


def test_misfits_are_refused_and_change_nothing(tmp_path: Path) -> None:
    host = make()
    pipe = Pipeline(Model(host, Sampling(), (48, 64)))
    modules = [id(m) for m in host.modules()]
    for state, message in faults(host):
        save_file({k: v.clone().contiguous() for k, v in state.items()}, tmp_path / "bad.safetensors")
        with pytest.raises(InputError, match=message):
            pipe.load_lora(tmp_path / "bad.safetensors")
        assert pipe.loras == {}
        assert [id(m) for m in host.modules()] == modules

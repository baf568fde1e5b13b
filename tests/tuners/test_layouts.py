"""What tuners write is what other programs read, and they give the same numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drivegen import lora
from drivegen.catalog import registry, tuners
from drivegen.host.host import Host
from drivegen.plugin.tuner import Tuner
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from drivegen.testing.models import randomize, tiny_backbone
from drivegen.tuners.textual_inversion import TextualInversion

TARGETS = r".*(attn[12]\.to_[qkv]|conv1|proj_in)"


def make(seed: int = 0) -> Host:
    return Host(tiny_backbone(seed), {"text": registry.load("text")()}).eval().requires_grad_(False)


def used(kind: str, **options: Any) -> tuple[Host, Tuner]:
    """A host with a tuner whose numbers are random."""
    host, tuner = make(), tuners.make(kind, {"targets": TARGETS, **options})
    host.add_tuner("it", tuner)
    for name, parameter in tuner.named_parameters():
        if not name.endswith("magnitude"):
            torch.nn.init.normal_(parameter, std=0.3)
    return host, tuner


def encoded(backbone: Any) -> Tensor:
    ids = torch.tensor(backbone.tokenizer(["a wet street"], padding="max_length", truncation=True)["input_ids"])
    return backbone.text_encoder(ids)[0]


@torch.no_grad()
def predict(backbone: Any) -> Tensor:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return backbone.unet(x, 500, encoded(backbone)).sample


def diffusers_pipe(backbone: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    b = copy.deepcopy(backbone)
    return StableDiffusionPipeline(
        b.vae, b.text_encoder, b.tokenizer, b.unet, b.scheduler, None, None, requires_safety_checker=False
    )


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
def test_the_file_gives_the_same_numbers_when_it_is_loaded_as_a_lora(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    host, tuner = used(kind, rank=3, alpha=2.0, text_encoder=True)
    wanted = predict(host.backbone)
    other = make()
    assert not torch.allclose(predict(other.backbone), wanted, atol=1e-3)
    lora.apply(other, [(lora.read(tuner.save(tmp_path)), 1.0)])
    torch.testing.assert_close(predict(other.backbone), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_diffusers_reads_it(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    host, tuner = used(kind, rank=2, alpha=3.0, text_encoder=True)
    tuner.save(tmp_path)
    pipe = diffusers_pipe(make().backbone)
    pipe.load_lora_weights(str(tmp_path))
    torch.testing.assert_close(predict(pipe), predict(host.backbone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_lycoris_reads_it(kind: str, tmp_path: Path) -> None:
    from lycoris import create_lycoris_from_weights

    torch.manual_seed(2)
    host, tuner = used(kind, rank=3, alpha=2.0)
    file = tuner.save(tmp_path)
    other = make()
    state = {key.replace("lora_unet_", "lycoris_"): value for key, value in weights_of(file).items()}
    network, _ = create_lycoris_from_weights(1.0, None, other.backbone.unet, weights_sd=state)
    network.apply_to()
    assert len(network.loras) == len(tuner.sites)
    torch.testing.assert_close(predict(other.backbone), predict(host.backbone), rtol=1e-4, atol=1e-5)


def weights_of(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(file)


def test_a_lora_of_kohyas_trainer_is_gone_on_with(tmp_path: Path) -> None:
    torch.manual_seed(3)
    host, tuner = used("lora", rank=2)
    state = {}
    for network, name, key in tuner.sites:
        layer, flat = tuner.changes[key], f"lora_{network}_{name.replace('.', '_')}"
        state |= {f"{flat}.lora_down.weight": layer.A.detach(), f"{flat}.lora_up.weight": layer.B.detach()}
        state[f"{flat}.alpha"] = torch.tensor(2.0)
    from safetensors.torch import save_file

    save_file(state, tmp_path / "kohya.safetensors")
    other, again = used("lora", rank=2)
    again.load(tmp_path / "kohya.safetensors")
    assert torch.equal(predict(other.backbone), predict(host.backbone))
    wide = used("lora", rank=3)[1]
    with pytest.raises(InputError, match=r"A is of shape \(2, .*\(3, .* is expected; the options must be those"):
        wide.load(tmp_path / "kohya.safetensors")
    fewer = used("lora", rank=2, targets=r".*attn2\.to_q")[1]
    with pytest.raises(InputError, match="does not fit: it has unet"):
        fewer.load(tmp_path / "kohya.safetensors")


@pytest.mark.parametrize("vectors", [1, 3])
def test_diffusers_reads_a_word(vectors: int, tmp_path: Path) -> None:
    host = make()
    word = TextualInversion("<tanker>", "ab", vectors)
    host.add_tuner("word", word)
    randomize(word, 4)
    word.save(tmp_path)
    plain = make().backbone
    pipe = diffusers_pipe(plain)
    pipe.load_textual_inversion(str(tmp_path))
    prompt = "a <tanker> b"
    text = pipe.maybe_convert_prompt(prompt, pipe.tokenizer)
    theirs = pipe.tokenizer(text, padding="max_length", truncation=True, max_length=16, return_tensors="pt").input_ids
    ours = torch.from_numpy(host.plugin("text").prepare(frame(0, 1), {"prompt": prompt})["ids"])[None]
    a, b = (model(ids) for model, ids in ((host.backbone.text_encoder, ours), (pipe.text_encoder, theirs)))
    assert torch.equal(a.last_hidden_state, b.last_hidden_state)
    rows = host.backbone.text_encoder.get_input_embeddings().weight
    assert torch.equal(rows, plain.text_encoder.get_input_embeddings().weight)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_both_text_encoders_of_sdxl_are_changed(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    hosts = [Host(tiny_backbone(family="sdxl"), {}).eval().requires_grad_(False) for _ in range(2)]
    tuner = tuners.make(kind, {"rank": 2, "text_encoder": True})
    hosts[0].add_tuner("it", tuner)
    for parameter in tuner.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert {network for network, _, _ in tuner.sites} == {"unet", "text_encoder", "text_encoder_2"}
    lora.apply(hosts[1], [(lora.read(tuner.save(tmp_path)), 1.0)])
    ids = torch.arange(6)[None]
    with torch.no_grad():
        for network in ("text_encoder", "text_encoder_2"):
            a, b = (getattr(host.backbone, network)(ids)[0] for host in hosts)
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="and this is SDXL"):
        hosts[1].add_tuner("word", TextualInversion("<tanker>", "ab"))
    refiner = Host(tiny_backbone(family="sdxl_refiner"), {})
    refiner.add_tuner("it", tuners.make(kind, {"rank": 2, "text_encoder": True}))
    assert refiner.tuner("it").sites[-1][0] == "text_encoder_2"

"""What does not fit together, or asks for what the host does not feed, is refused when it is loaded, built or swapped."""

from __future__ import annotations

import copy
import inspect
import json
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from drivegen.backbones.compatibility import NOT_HOSTED, check_unet, check_vae
from drivegen.backbones.stable_diffusion import Backbone
from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.saved import model
from drivegen.support.errors import InputError
from tests.street import street_frame
from tests.tiny_models import tiny_backbone, tiny_tokenizer

STRUCTURE = {
    "sample_size", "in_channels", "out_channels", "center_input_sample", "flip_sin_to_cos", "freq_shift", "down_block_types",
    "mid_block_type", "up_block_types", "only_cross_attention", "block_out_channels", "layers_per_block",
    "downsample_padding", "mid_block_scale_factor", "dropout", "act_fn", "norm_num_groups", "norm_eps",
    "cross_attention_dim", "transformer_layers_per_block", "reverse_transformer_layers_per_block", "attention_head_dim",
    "num_attention_heads", "use_linear_projection", "upcast_attention", "resnet_time_scale_shift", "resnet_skip_time_act",
    "resnet_out_scale_factor", "time_embedding_dim", "time_embedding_act_fn", "timestep_post_act", "conv_in_kernel",
    "conv_out_kernel", "mid_block_only_cross_attention", "cross_attention_norm",
}  # fmt: skip
"""Settings of a UNet2DConditionModel that shape it and ask for no input."""

OF_OTHERS = {"addition_time_embed_dim", "projection_class_embeddings_input_dim", "addition_embed_type_num_heads"}
"""Settings that say how wide an input is which another setting asks for."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "sd"
    tiny_backbone().save(path)
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "sd"))


def change(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; ... takes one out."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def test_every_setting_of_diffusers_is_looked_at() -> None:
    """A setting that a later diffusers brings fails here until somebody says whether it asks for an input."""
    from diffusers import UNet2DConditionModel

    known = {
        name: p.default for name, p in inspect.signature(UNet2DConditionModel.__init__).parameters.items() if name != "self"
    }
    assert known.keys() == STRUCTURE | OF_OTHERS | NOT_HOSTED.keys()
    check_unet(known, 4)  # the defaults are Stable Diffusion's own


WHAT = [
    ({"in_channels": 9}, "an inpainting UNet of nine channels"), ({"in_channels": 8}, "an instruct-pix2pix UNet of eight"),
    ({"in_channels": 5}, "a depth-to-image UNet of five"), ({"in_channels": 7}, "an upscaling UNet of seven"),
    ({"in_channels": 6}, "a UNet of six channels"), ({"out_channels": 8}, "learned variance"),
    ({"out_channels": 3}, "a UNet of other outputs"),
    ({"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80},
     "lacks text_encoder_2, tokenizer_2 .* a Stable Diffusion XL folder has them"),
    ({"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 72},
     "a Stable Diffusion XL refiner folder has them"),
    ({"addition_embed_type": "image"}, "a Kandinsky 2.2 UNet"), ({"addition_embed_type": "new"}, "with an added embedding"),
    ({"time_cond_proj_dim": 256}, "an LCM-distilled UNet with a guidance embedding"),
    ({"class_embed_type": "projection"}, "an unCLIP UNet"), ({"class_embed_type": "timestep"}, "a second timestep"),
    ({"class_embed_type": "simple_projection"}, "AudioLDM"), ({"num_class_embeds": 1000}, "a class-conditional UNet"),
    ({"encoder_hid_dim": 64}, "projects its context"), ({"encoder_hid_dim_type": "text_proj"}, "projects its text"),
    ({"encoder_hid_dim_type": "image_proj"}, "image-variation"), ({"attention_type": "gated"}, "a GLIGEN UNet"),
    ({"encoder_hid_dim_type": "ip_image_proj"}, "an IP-Adapter built in"), ({"dual_cross_attention": True}, "two contexts"),
    ({"time_embedding_type": "fourier"}, "noise levels"), ({"cross_attention_dim": [32, 32]}, "one context of one width"),
    ({"sample_size": "x"}, "sample_size is 'x'"), ({"sample_size": [8, 8, 8]}, "sample_size"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "what"), [case for case in WHAT if case[0] != {"in_channels": 9}])
def test_a_unet_that_is_not_hosted_is_named(folder: Path, settings: dict[str, Any], what: str) -> None:
    change(folder / "unet" / "config.json", **settings)
    with pytest.raises(InputError, match=what) as caught:
        model.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"in_channels": 9}, {"time_cond_proj_dim": 8}, {"num_class_embeds": 3}, {"out_channels": 8}]
)
def test_in_python_too(settings: dict[str, Any]) -> None:
    what = next(said for other, said in WHAT if other.keys() == settings.keys())
    with pytest.raises(InputError, match=what):
        tiny_backbone(unet=settings)


def nine_channels(backbone: Backbone) -> None:
    from diffusers import UNet2DConditionModel

    backbone.unet = UNet2DConditionModel.from_config({**backbone.unet.config, "in_channels": 9})


def other_scheduler(backbone: Backbone) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    backbone.scheduler = FlowMatchEulerDiscreteScheduler()


def other_words(backbone: Backbone) -> None:
    backbone.text_encoder.resize_token_embeddings(500)


@pytest.mark.parametrize(
    ("swap", "said"),
    [
        (nine_channels, "inpainting UNet of nine"), (other_scheduler, "flow matching"), (other_words, "514 words and the text"),
        (lambda b: setattr(b, "tokenizer", tiny_tokenizer(99)), "model_max_length is 99, and the text encoder has 16"),
        (lambda b: b.vae.register_to_config(scaling_factor=0), "scaling_factor is 0"),
        (lambda b: setattr(b, "unet", torch.nn.Linear(1, 1)), "the denoising network is a Linear"),
    ],
)  # fmt: skip
def test_a_part_that_was_swapped_is_checked_before_it_generates(swap: Any, said: str) -> None:
    host = Host(tiny_backbone(vae_factor=8), {"text": registry.load("text")()})
    pipe = Pipeline(model.Model(host, model.Sampling(steps=1), (64, 112)))
    swap(host.backbone)
    with pytest.raises(InputError, match=said):
        pipe(street_frame())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        *(({"scaling_factor": v}, "scaling_factor is") for v in (0, -1, float("nan"), float("inf"), [1, 2], "x", None, True)),
        ({"shift_factor": "a"}, "shift_factor is 'a'"), ({"latents_mean": [1, 1, 1, 1]}, "latents_mean"),
        ({"in_channels": 6}, "in_channels is 6"), ({"latent_channels": 0}, "latent_channels is 0"),
    ],
)  # fmt: skip
def test_a_vae_whose_latents_are_not_scaled_by_a_number_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_vae(settings)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("EDMEulerScheduler", "trained by EDM"), ("FlowMatchEulerDiscreteScheduler", "flow matching"),
        pytest.param(
            "DPMSolverSDEScheduler", "requires the torchsde library",
            marks=pytest.mark.skipif(find_spec("torchsde") is not None, reason="torchsde is installed"),
        ),
        ("os.system", "not a scheduler of diffusers"),
        ("FlaxDDPMScheduler", "not a scheduler of diffusers"),
    ],
)  # fmt: skip
def test_a_folder_with_another_scheduler_is_refused(folder: Path, name: str, said: str) -> None:
    change(folder / "model_index.json", scheduler=["diffusers", name])
    with pytest.raises(InputError, match=said):
        model.load(folder)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prediction_type": "epsilom"}, "did you mean 'epsilon'"), ({"beta_schedule": "nope"}, "cannot be built"),
        ({"trained_betas": [0.1]}, "are 1 numbers for 1000"), ({"num_train_timesteps": 10**12}, "num_train_timesteps"),
        ({"rescale_betas_zero_snr": True}, "zero terminal SNR with prediction_type 'epsilon'"),
    ],
)  # fmt: skip
def test_a_scheduler_is_checked_when_it_is_loaded(folder: Path, settings: dict[str, Any], said: str) -> None:
    change(folder / "scheduler" / "scheduler_config.json", **settings)
    with pytest.raises(InputError, match=rf"scheduler_config\.json: .*{said}"):
        model.load(folder)


# -- the tokenizer and the text encoder ------------------------------------------------------------------------------------


def settings_alone(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()


def without_merges(folder: Path) -> None:
    values = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    values["model"]["vocab"] |= {"night</w>": 900}
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(values))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (settings_alone, r"needs tokenizer\.json, or vocab\.json and merges\.txt"),
        (lambda f: (f / "tokenizer" / "tokenizer.json").write_text("{}"), "holds no vocabulary"),
        (lambda f: (f / "tokenizer" / "tokenizer.json").write_text('{"model": {"vocab": []}}'), "holds no vocabulary"),
        (lambda f: (f / "tokenizer" / "tokenizer.json").write_text('{"model": {"vocab": {}, "merges": []}}'), "tokenizer"),
        (without_merges, "0 merges for 1 words of several characters; the file was cut"),
        (lambda f: change(f / "tokenizer" / "tokenizer_config.json", model_max_length=77), "has 16 positions"),
        (lambda f: change(f / "tokenizer" / "tokenizer_config.json", model_max_length=1), "model_max_length is 1"),
        (lambda f: change(f / "tokenizer" / "tokenizer_config.json", model_max_length="x"), "model_max_length is 'x'"),
        (lambda f: change(f / "tokenizer" / "tokenizer_config.json", bos_token="<new>"), "515 words and the text encoder 514"),
        (lambda f: change(f / "text_encoder" / "config.json", eos_token_id=5), "eos_token_id 5"),
        (lambda f: change(f / "text_encoder" / "config.json", vocab_size=8_000_000), r"expected \(8000000, 32\)"),
        (lambda f: change(f / "text_encoder" / "config.json", vocab_size=9 * 10**9), "vocab_size = 9000000000"),
        (lambda f: change(f / "text_encoder" / "config.json", num_hidden_layers=10**9), "num_hidden_layers = 1000000000"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_is_not_the_text_encoders_is_refused(folder: Path, damage: Any, said: str) -> None:
    damage(folder)
    with pytest.raises(InputError, match=said):
        model.load(folder)


def test_what_real_tokenizers_and_encoders_say_is_taken(folder: Path) -> None:
    """Stable Diffusion's text encoders say eos 2; some tokenizers state no length."""
    change(folder / "text_encoder" / "config.json", eos_token_id=2, bos_token_id=0, pad_token_id=1)
    change(folder / "tokenizer" / "tokenizer_config.json", model_max_length=...)
    assert model.load(folder).host.backbone.tokenizer.model_max_length == 16


# -- other parts of a folder -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "entry", [["diffusers", "ControlNetModel"], [["diffusers", "ControlNetModel"], ["diffusers", "ControlNetModel"]]]
)
def test_a_part_that_is_not_loaded_is_named(folder: Path, entry: list[Any]) -> None:
    change(folder / "model_index.json", controlnet=entry, safety_checker=["a", "b"], feature_extractor=["c", "d"])
    with pytest.warns(UserWarning, match=r"controlnet \(.*ControlNetModel.*drivegen convert controlnet") as caught:
        model.load(folder)
    assert not any("safety_checker" in str(w.message) for w in caught)


def test_parts_that_are_nothing_are_not_named(folder: Path) -> None:
    change(folder / "model_index.json", image_encoder=[None, None], safety_checker=["a", "b"], requires_safety_checker=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.load(folder)


def test_a_folder_of_another_pipeline_is_named(folder: Path) -> None:
    change(folder / "model_index.json", _class_name="StableDiffusionImageVariationPipeline", text_encoder=..., tokenizer=...)
    with pytest.raises(InputError, match=r"lacks text_encoder, tokenizer \(it is of a StableDiffusionImageVariationPipeline\)"):
        model.load(folder)


# -- how torch is set, and what it wraps -----------------------------------------------------------------------------------


def test_models_are_fp32_and_their_pictures_the_same_whatever_torchs_default_is(saved: Path) -> None:
    def latents() -> torch.Tensor:
        pipe = Pipeline.from_pretrained(saved, device="cpu", dtype="float32")
        assert {p.dtype for p in pipe.host.parameters()} == {torch.float32}
        made = pipe(street_frame(), prompt="day", num_inference_steps=1, size=(32, 56), output_type="latent")
        return torch.stack(list(made.values()))

    plain = latents()
    torch.set_default_dtype(torch.float64)
    try:
        other = latents()
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(other.float(), plain, rtol=1e-4, atol=1e-5)


def compiled(backbone: Backbone) -> None:
    backbone.unet = torch.compile(backbone.unet)


def compiled_part(backbone: Backbone) -> None:
    backbone.unet.mid_block = torch.compile(backbone.unet.mid_block)
    backbone.text_encoder = torch.compile(backbone.text_encoder)


def parallel(backbone: Backbone) -> None:
    backbone.unet = torch.nn.DataParallel(backbone.unet)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [compiled, compiled_part, parallel])
def test_what_torch_has_wrapped_is_saved_under_its_own_names(tmp_path: Path, wrap: Any) -> None:
    own = tiny_backbone()
    expected = copy.deepcopy(own.state_dict())
    wrap(own)
    folder = model.save(Host(own, {"text": registry.load("text")()}), tmp_path / "m", image_size=(64, 64))
    found = model.load(folder).host.backbone.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


def test_training_is_refused_as_sampling_is() -> None:
    """Zero terminal SNR with epsilon, which a scheduler may say that was swapped in."""
    from diffusers import DDPMScheduler

    from drivegen.training.config import TrainConfig
    from drivegen.training.module import DriveModule

    host = Host(tiny_backbone(), {"text": registry.load("text")()})
    host.backbone.scheduler = DDPMScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(InputError, match="zero terminal SNR with prediction_type 'epsilon'"):
        DriveModule(host, TrainConfig(steps=1))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
@pytest.mark.parametrize("wrong", [None, torch.nn.Linear(1, 1), "x"])
def test_a_part_that_is_none_is_refused(part: str, wrong: Any) -> None:
    own = tiny_backbone()
    parts = {name: own.component(name) for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")}
    with pytest.raises(InputError, match=part.replace("unet", "denoising network").replace("_", " ")):
        Backbone(**{**parts, part: wrong})


@pytest.mark.slow
def test_a_text_encoder_of_another_width_is_refused(folder: Path) -> None:
    from drivegen.backbones.networks import save_model

    other = tiny_backbone(unet={"cross_attention_dim": 16})
    save_model(other.unet, folder / "unet", "diffusion_pytorch_model", None)
    with pytest.raises(InputError, match="its text encoder has width 32, and the UNet attends to tokens of width 16"):
        model.load(folder)


def test_a_prediction_type_is_stated_for_a_plain_folder_alone(folder: Path, tmp_path: Path) -> None:
    assert model.load(folder, prediction_type="v_prediction").host.backbone.scheduler.config.prediction_type == "v_prediction"
    own = model.save(model.load(folder).host, tmp_path / "own", image_size=(64, 64))
    for source, option, said in (
        (own, {"prediction_type": "epsilon"}, "says itself what its UNet predicts"),
        (folder, {"prediction_type": "v"}, "prediction_type 'v' is unknown"),
        (folder, {"variant": "fp16"}, "has no weights of the variant 'fp16'; it has none"),
        (
            folder / "unet" / "diffusion_pytorch_model.safetensors",
            {"variant": "fp16"},
            "is a single file, which has no variants",
        ),
    ):
        with pytest.raises(InputError, match=said):
            model.load(source, **option)

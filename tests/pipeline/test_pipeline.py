from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.plugin import Plugin
from drivegen.sampling import (
    SAMPLERS,
    Sampling,
    build_scheduler,
    camera_generators,
    classifier_free,
    draw_noise,
    sample,
    start_at,
)
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from tests.street import camera, street_frame
from tests.tiny_hosts import SIZE, tiny_host
from tests.tiny_models import tiny_backbone

LATENT = (4, 8, 14)


def pipeline(host: Host | None = None, **sampling) -> Pipeline:
    return Pipeline(Model(host or tiny_host(), Sampling(**({"steps": 2, "sampler": "ddim"} | sampling)), SIZE))


def latents(pipe: Pipeline, frame, **options) -> torch.Tensor:
    views = pipe(frame, output_type="latent", **options)
    return torch.stack([views[channel] for channel in views])


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return pipeline()


@pytest.fixture(scope="module")
def frame():
    return street_frame()


# -- sampling is a function of a denoiser --------------------------------------------------------------------------------


def oracle(scheduler, clean: torch.Tensor):
    """The denoiser that knows the clean latents: x_t = √ᾱ x₀ + √(1−ᾱ) ε solved for the prediction."""
    alphas = scheduler.alphas_cumprod.double()

    def denoise(x, t, known=None):
        a = torch.from_numpy(np.interp([float(t)], np.arange(len(alphas)), alphas.numpy())).to(x)
        noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
        return a.sqrt() * noise - (1 - a).sqrt() * clean if scheduler.config.prediction_type == "v_prediction" else noise

    return denoise


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_reaches_what_the_denoiser_knows(name: str, kind: str) -> None:
    clean = torch.randn(2, *LATENT, generator=torch.Generator().manual_seed(1))
    scheduler = build_scheduler(name, tiny_backbone(prediction_type=kind).scheduler, 12)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    generators = camera_generators(0, ["a", "b"])
    found = sample(oracle(scheduler, clean), scheduler, noise * scheduler.init_noise_sigma, generators=generators)
    # DDIM, DDPM and PNDM end at the first timestep's own small noise, UniPC at sigma_min.
    assert (found - clean).abs().mean() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_image_to_image_runs_the_end_of_the_schedule(name: str) -> None:
    clean = torch.randn(1, *LATENT, generator=torch.Generator().manual_seed(1))
    scheduler = build_scheduler(name, tiny_backbone().scheduler, 12)
    timesteps = start_at(scheduler, 0.5)
    assert 0 < len(timesteps) < len(scheduler.timesteps)
    x = scheduler.add_noise(clean, torch.randn(clean.shape, generator=torch.Generator().manual_seed(2)), timesteps[:1])
    found = sample(oracle(scheduler, clean), scheduler, x, timesteps, camera_generators(0, ["a"]))
    assert (found - clean).abs().mean() < 0.05


def test_zero_terminal_snr_keeps_trailing_spacing() -> None:
    from diffusers import DDIMScheduler

    trained = DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
    for name, entry in SAMPLERS.items():
        if entry.zero_snr:
            assert int(build_scheduler(name, trained, 10).timesteps[0]) == 999
        else:
            with pytest.raises(InputError, match="zero terminal SNR"):
                build_scheduler(name, trained, 10)


def test_a_saved_scheduler_does_not_change_a_sampler() -> None:
    from diffusers import DDPMScheduler

    plain = tiny_backbone().scheduler
    stated = DDPMScheduler.from_config(
        dict(plain.config) | {"clip_sample": True, "timestep_spacing": "trailing", "steps_offset": 0}
    )
    for name in SAMPLERS:
        assert build_scheduler(name, plain, 7).config == build_scheduler(name, stated, 7).config


def test_guidance_extrapolates_and_passes_known_on() -> None:
    asked = []

    def denoise(x, t, known=None):
        asked.append(dict(known or {}))
        return x * (1.0 if (known or {}).get("text", True) else 0.25)

    x, t = torch.randn(2, *LATENT), torch.tensor(5)
    torch.testing.assert_close(classifier_free(denoise, 3.0, ["text"])(x, t), x * (0.25 + 3 * 0.75))
    assert asked == [{}, {"text": False}]
    assert classifier_free(denoise, 1.0, ["text"]) is denoise
    assert classifier_free(denoise, 3.0, []) is denoise
    asked.clear()
    torch.testing.assert_close(classifier_free(denoise, 3.0, ["text"])(x, t, {"text": False}), x * 0.25)
    rescaled = classifier_free(denoise, 3.0, ["text"], rescale=1.0)(x, t)
    torch.testing.assert_close(rescaled.std((1, 2, 3)), x.std((1, 2, 3)))


# -- the pipeline --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "kind", "guidance"), [("ddim", "epsilon", 7.5), ("unipc", "v_prediction", 3.0), ("pndm", "epsilon", 1.0)]
)
def test_text_alone_equals_diffusers_pipeline(sampler: str, kind: str, guidance: float) -> None:
    from diffusers import StableDiffusionPipeline

    host = tiny_host(("text",), prediction_type=kind)
    b = host.backbone
    one = replace(street_frame(), cameras=(camera("CAM_FRONT", 0),), description="night")
    ours = latents(pipeline(host, sampler=sampler, guidance=guidance, steps=4), one, negative_prompt="fog")
    reference = StableDiffusionPipeline(
        b.vae,
        b.text_encoder,
        b.tokenizer,
        b.unet,
        build_scheduler(sampler, b.scheduler, 4),
        None,
        None,
        requires_safety_checker=False,
    )
    reference.set_progress_bar_config(disable=True)
    theirs = reference(
        "night", negative_prompt="fog", height=SIZE[0], width=SIZE[1], num_inference_steps=4, guidance_scale=guidance,
        latents=draw_noise(camera_generators(0, ["CAM_FRONT"]), LATENT), output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_constants_are_computed_once(pipe: Pipeline, frame, monkeypatch) -> None:
    calls: list[tuple[str, bool]] = []
    projections: list[int] = []
    encode = Host.encode_one
    monkeypatch.setattr(
        Host, "encode_one", lambda self, name, a, g, keep=True: calls.append((name, keep)) or encode(self, name, a, g, keep)
    )
    attn2 = next(m for n, m in pipe.host.backbone.unet.named_modules() if n.endswith("attn2"))
    linear = type(attn2.to_k).forward
    counting = lambda self, x: (projections.append(1) if self is attn2.to_k else None, linear(self, x))[1]  # noqa: E731
    monkeypatch.setattr(type(attn2.to_k), "forward", counting)
    once = latents(pipe, frame, num_inference_steps=5)
    assert sorted(calls) == sorted((name, keep) for name in pipe.host.plugins for keep in (True, False))
    assert len(projections) == 2  # one context with all plugins, one with none
    assert "forward" not in vars(attn2.to_k)
    monkeypatch.setattr("drivegen.pipeline.denoise.remembered_projections", lambda host: torch.no_grad())
    torch.testing.assert_close(latents(pipe, frame, num_inference_steps=5), once, rtol=0, atol=0)


def test_same_seed_same_bytes_and_a_frame_does_not_depend_on_others(pipe: Pipeline, frame) -> None:
    other = street_frame(1)
    alone = [pipe(f, seed=3) for f in (frame, other)]
    together = pipe([frame, other], seed=3)
    for a, b in zip(alone, together, strict=True):
        assert list(a) == list(b)
        assert all(a[c].tobytes() == b[c].tobytes() for c in a)
    different = pipe(frame, seed=4)
    assert all(alone[0][c].tobytes() != different[c].tobytes() for c in different)
    drawn = pipe([frame], generator=torch.Generator().manual_seed(1))[0].settings.seed
    assert drawn == pipe([frame], generator=torch.Generator().manual_seed(1))[0].settings.seed != 0


def test_noise_belongs_to_the_camera() -> None:
    both = draw_noise(camera_generators(5, ["CAM_FRONT", "CAM_BACK"]), LATENT)
    torch.testing.assert_close(draw_noise(camera_generators(5, ["CAM_BACK"]), LATENT)[0], both[1], rtol=0, atol=0)
    assert not torch.equal(both[0], both[1])
    shared = draw_noise(camera_generators(5, ["CAM_FRONT", "CAM_BACK"], shared=True), LATENT)
    assert torch.equal(shared[0], shared[1])


@pytest.mark.slow
def test_noise_and_agreement_are_settings(frame) -> None:
    ours = pipeline(noise="sphere", agreement=0.5)
    seen = latents(ours, frame)
    assert not torch.equal(seen, latents(ours, frame, agreement=0.0))
    assert not torch.equal(seen, latents(ours, frame, noise="independent"))
    assert torch.equal(latents(ours, frame, noise="independent", agreement=0.0), latents(pipeline(), frame))
    settings = ours(frame, output_type="latent", agreement=1).settings
    assert (settings.noise, settings.agreement) == ("sphere", 1.0)
    with pytest.raises(InputError, match=r"agreement 1\.5 must be a number from 0 to 1"):
        ours(frame, agreement=1.5)


@pytest.mark.slow
def test_without_leaks_nothing(pipe: Pipeline, frame) -> None:
    empty = replace(frame, boxes=())
    seen = latents(pipe, frame)
    assert not torch.equal(latents(pipe, empty), seen)
    nulled = [latents(pipe, f, without=["boxes", "layout"]) for f in (frame, empty)]
    # Fewer boxes are fewer masked tokens, and sums of another length round differently.
    torch.testing.assert_close(*nulled, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", "boxes", "cross_view", "layout"])
def test_scale_zero_is_the_plugin_removed(name: str, frame) -> None:
    host = tiny_host()
    with_zero = latents(pipeline(host), frame, scales={name: 0})
    full = latents(pipeline(host), frame)
    host.remove_plugin(name)
    torch.testing.assert_close(latents(pipeline(host), frame), with_zero, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(full, with_zero, rtol=1e-2)


def test_guidance_nulls_the_named_plugins(frame) -> None:
    host = tiny_host(("text", "layout"))
    all_null = latents(pipeline(host, guidance=3.0), frame)
    text_null = latents(pipeline(host, guidance=3.0, null=("text",)), frame)
    assert not torch.allclose(all_null, text_null)
    # Nulling a plugin in both halves leaves nothing of it to subtract.
    same = [latents(pipeline(host, guidance=3.0, null=null), frame, without=["layout"]) for null in (None, ("text",))]
    assert torch.equal(*same)
    with pytest.raises(InputError, match="txet"):
        pipeline(host, null=("txet",))


def test_guide_hooks_wrap_in_config_order(frame) -> None:
    order: list[str] = []

    class Guide(Plugin):
        def __init__(self, mark: str = "a") -> None:
            super().__init__()
            self.mark = mark

        def guide(self, denoise, to_x0):
            def guided(x, t, known=None):
                order.append(self.mark)
                prediction = denoise(x, t, known)
                assert torch.isfinite(to_x0(x, t, prediction)).all()
                return prediction

            return guided

    host = tiny_host(("text",))
    before = latents(pipeline(host, steps=1), frame)
    host.add_plugin("first", Guide("a"))
    host.add_plugin("second", Guide("b"))
    assert torch.equal(latents(pipeline(host, steps=1), frame), before)
    assert order == ["b", "a"]  # the last one in the config is outermost
    order.clear()
    latents(pipeline(host, steps=1), frame, scales={"first": 0})
    assert order == ["b"]


@pytest.mark.slow
def test_prompts(pipe: Pipeline, frame) -> None:
    replaced = pipe(frame, prompt="night", output_type="latent")
    assert replaced.frame.description == replaced.settings.prompt == "night"
    described = latents(pipe, replace(frame, description="night"))
    assert torch.equal(torch.stack(list(replaced.values())), described)
    assert torch.equal(described, latents(pipe, frame, inputs={"text": {"prompt": "night"}}))
    assert not torch.equal(latents(pipe, frame, negative_prompt="fog"), latents(pipe, frame))
    assert torch.equal(latents(pipe, frame, negative_prompt="fog"), latents(pipe, frame, inputs={"text": {"negative": "fog"}}))
    with pytest.raises(InputError, match="no plugin of this model takes one"):
        pipeline(tiny_host(("layout",)))(frame, negative_prompt="fog")


@pytest.mark.slow
def test_image_to_image(pipe: Pipeline, frame) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    pictures = {channel: Image.fromarray(np.roll(pixels, i, 1)) for i, channel in enumerate(frame.channels)}
    kept = pipe(frame, image=pictures, strength=0, output_type="pt")
    backbone = pipe.host.backbone
    front = torch.from_numpy(np.asarray(pictures["CAM_FRONT"])).permute(2, 0, 1)[None] / 127.5 - 1
    expected = (backbone.first_stage.decode(backbone.first_stage.encode(front)) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(kept["CAM_FRONT"], expected[0], rtol=1e-4, atol=1e-4)
    ordered = pipe(frame, image=[pictures[c] for c in frame.channels], strength=0.5)
    named = pipe(frame, image=pictures, strength=0.5)
    assert all(ordered[c].tobytes() == named[c].tobytes() for c in named)
    for wrong in ({"CAM_FRONT": pictures["CAM_FRONT"]}, [pictures["CAM_FRONT"]]):
        with pytest.raises(InputError, match="CAM_BACK"):
            pipe(frame, image=wrong)


def test_callback_sees_and_replaces_the_latents(pipe: Pipeline, frame) -> None:
    seen = []

    def callback(pipeline, step, t, state):
        seen.append((pipeline is pipe, step, int(t), tuple(state["latents"].shape)))
        return {"latents": torch.zeros_like(state["latents"])} if step == 2 else None

    assert latents(pipe, frame, num_inference_steps=3, callback_on_step_end=callback).abs().max() == 0
    assert seen == [(True, i, t, (6, *LATENT)) for i, t in enumerate((667, 334, 1))]


@pytest.mark.slow
def test_output_types_are_the_same_picture(pipe: Pipeline, frame) -> None:
    pil, array, tensor = (pipe(frame, output_type=kind)["CAM_BACK"] for kind in ("pil", "np", "pt"))
    assert pil.size == SIZE[::-1]
    assert array.shape == (*SIZE, 3)
    torch.testing.assert_close(tensor.permute(1, 2, 0), torch.from_numpy(array), rtol=0, atol=0)
    assert np.array_equal(np.asarray(pil), (array * 255).round().astype(np.uint8))
    assert pipe(frame, output_type="np").pictures()["CAM_BACK"].tobytes() == pil.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 8])
def test_any_rig(pipe: Pipeline, frame, count: int) -> None:
    yaws = (0, 180, 55, -55, 110, -110, 82, -82)[:count]
    rig = replace(frame, cameras=tuple(camera(f"CAM_{i}", yaw, frame.global_SE3_ego) for i, yaw in enumerate(yaws)))
    views = pipe(rig, num_inference_steps=1)
    assert tuple(views) == rig.channels
    assert views.sheet().size[0] == views.sheet_boxes().size[0]


@pytest.mark.slow
def test_edits_change_what_is_generated(pipe: Pipeline, frame) -> None:
    before = latents(pipe, frame)
    edits = (
        frame.remove_box("car-a"), frame.move_box("truck-a", forward_m=3), frame.edit_box("car-a", category="vehicle.truck"),
        frame.move_camera("CAM_FRONT", yaw_rad=0.3),
    )  # fmt: skip
    for edited in edits:
        assert not torch.equal(latents(pipe, edited), before)
    assert list(pipe(frame.drop_camera("CAM_BACK"), num_inference_steps=1)) == [c for c in frame.channels if c != "CAM_BACK"]


@pytest.mark.slow
def test_any_size(pipe: Pipeline, frame) -> None:
    assert pipe(frame, size=(96, 160), num_inference_steps=1)["CAM_FRONT"].size == (160, 96)
    with pytest.raises(InputError, match="multiples of 8"):
        pipe(frame, size=(100, 160))


@pytest.mark.slow
def test_half_precision_is_near_float32(frame) -> None:
    host = tiny_host()
    exact = latents(pipeline(host, steps=4), frame)
    for dtype, near in ((torch.float16, 0.015), (torch.bfloat16, 0.05)):
        rough = latents(pipeline(host.to(dtype), steps=4), frame)
        host.float()
        assert rough.dtype == torch.float32
        assert (rough - exact).norm() / exact.norm() < near


def test_training_mode_is_left_as_it_was(frame) -> None:
    host = tiny_host(("text",))
    host.train()
    host.backbone.vae.eval()
    latents(pipeline(host, steps=1), frame)
    assert host.backbone.unet.training
    assert host.plugin("text").training
    assert not host.backbone.vae.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed -1"), ({"seed": 2**63}, "whole number"), ({"seed": 1.5}, "seed 1.5"),
        ({"seed": [1, 2]}, "2 seeds"), ({"num_inference_steps": 0}, "steps 0"), ({"num_inference_steps": 1001}, "1001"),
        ({"sampler": "ddimm"}, "did you mean 'ddim'"),
        ({"guidance_scale": float("nan")}, "guidance nan"), ({"without": ["box"]}, "did you mean 'boxes'"),
        ({"scales": {"layuot": 1}}, "did you mean 'layout'"), ({"scales": {"layout": -1}}, "scale -1"),
        ({"strength": 0.5}, "no image"),
        ({"output_type": "jpg"}, "output_type 'jpg'"), ({"inputs": {"photo": 1}}, "photo"),
    ],
)  # fmt: skip
def test_bad_options_are_named(pipe: Pipeline, frame, options, message) -> None:
    with pytest.raises(InputError, match=message):
        pipe([frame], **options)


def test_infinite_latents_are_not_shown(frame) -> None:
    host = tiny_host(("text",))
    with torch.no_grad():
        host.backbone.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        pipeline(host)(frame)


def test_plain_model_names_what_it_ignores(frame) -> None:
    assert pipeline(tiny_host(("text",))).ignored(frame) == ("cameras", "boxes", "map")
    assert pipeline(tiny_host(("text", "layout"))).ignored(frame) == ()
    assert registry.load("text").takes_prompt


@pytest.mark.parametrize("channel", ["sheet", "sheet_boxes"])
def test_a_camera_does_not_overwrite_a_sheet(channel: str, pipe: Pipeline, frame, tmp_path) -> None:
    one = replace(frame, cameras=(replace(frame.cameras[0], channel=channel),))
    with pytest.raises(InputError, match=f"camera '{channel}' has the name of a sheet"):
        pipe(one).save(tmp_path / "views")
    assert not (tmp_path / "views").exists()

"""One field per option: the command line, the manifest and the views' settings have each of them, and refuse what is none."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import pickle
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import drivegen
from drivegen import lora
from drivegen.cli import options as command_line
from drivegen.cli.main import app
from drivegen.pipeline.manifest import Manifest, describe, made_by, model_facts
from drivegen.pipeline.option import DIFFUSERS_WORDS, ELSEWHERE
from drivegen.pipeline.pipeline import Pipeline
from drivegen.pipeline.settings import GenerationSettings, UsedSettings, options
from drivegen.pipeline.spelling import read_guidance_range
from drivegen.plugin import Plugin
from drivegen.sampling import SAMPLERS, Classifier, Sampling, build_scheduler, camera_generators, draw_noise
from drivegen.saved.model import Model
from drivegen.support import dtypes, runtime
from drivegen.support.errors import InputError
from drivegen.support.turns import computing
from tests.street import camera, street_frame
from tests.tiny_hosts import SIZE, tiny_host

LATENT = (4, 8, 14)
FIELDS = [field.name for field in dataclasses.fields(GenerationSettings)]


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(Model(tiny_host(("text", "layout")), Sampling(steps=2, sampler="ddim", guidance=1.0), SIZE))


@pytest.fixture(scope="module")
def frame():
    return replace(street_frame(), cameras=(camera("CAM_FRONT", 0),), description="night")


def latents(pipe: Pipeline, frame, *settings, **overrides) -> torch.Tensor:
    views = pipe(frame, *settings, output_type="latent", **overrides)
    return torch.stack(list(views.values()))


# -- one field, everywhere -----------------------------------------------------------------------------------------------


def test_every_field_is_an_option_of_the_command_line_or_says_why_not() -> None:
    command = typer.main.get_command(app).commands["generate"]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    help_screen = CliRunner().invoke(app, ["generate", "--help"]).output
    for name, about in options().items():
        flag = command_line.flag(name, about)
        assert bool(about.python_only) == (flag not in flags), name
        assert about.python_only or flag in help_screen
        assert about.help.endswith(".")
    assert {"--guidance-rescale", "--timesteps", "--repeats"} <= flags


@pytest.mark.slow
def test_every_field_is_in_the_manifest_and_in_the_settings_of_views(pipe: Pipeline, frame, tmp_path: Path) -> None:
    views = pipe(frame, steps=1)
    assert isinstance(views.settings, UsedSettings)
    views.save(tmp_path / "a")
    facts = model_facts(pipe.model, {})
    (line,) = describe(frame.token, frame.channels, tmp_path / "a", tmp_path, made_by(views.settings, facts, ""))
    assert set(FIELDS) - {"refine_from", "guidance_range"} < set(line)  # noted where there is one
    assert json.loads(json.dumps(line)) == line
    assert all(hasattr(views.settings, name) for name in FIELDS)
    with Manifest(tmp_path) as manifest:
        manifest.add([line])
    assert json.loads((tmp_path / "manifest.jsonl").read_text()) == line


def test_a_new_field_is_a_new_option_everywhere() -> None:
    """Nothing but the field: what the command line reads arrives in the settings under its name."""
    words = {
        "guidance": ["text=3"], "timesteps": "9,5,1", "scales": ["layout=0.5"], "ranges": ["layout=0:0.6"],
        "regions": ["layout=CAM_FRONT"], "inputs": ["text=a.txt"], "size": "64x112", "without": ["text"], "steps": 3,
        "guidance_range": "0.2:1",
    }  # fmt: skip
    settings = command_line.read({**dict.fromkeys(command_line.on_command_line()), **words})
    changed = {
        name: getattr(settings, name) for name in FIELDS if getattr(settings, name) != getattr(GenerationSettings(), name)
    }
    assert changed == {
        "guidance": {"text": 3.0}, "timesteps": (9, 5, 1), "scales": {"layout": 0.5}, "ranges": {"layout": (0.0, 0.6)},
        "regions": {"layout": {"CAM_FRONT": True}}, "inputs": {"text": "a.txt"}, "size": (64, 112), "without": ("text",),
        "steps": 3, "guidance_range": (0.2, 1.0),
    }  # fmt: skip


def test_words_of_diffusers_are_the_same_options(pipe: Pipeline, frame) -> None:
    house = latents(pipe, frame, steps=3, guidance=2.0)
    assert torch.equal(house, latents(pipe, frame, num_inference_steps=3, guidance_scale=2.0))
    assert torch.equal(house, latents(pipe, frame, drivegen.GenerationSettings(steps=3, guidance=7.0), guidance_scale=2.0))
    assert set(DIFFUSERS_WORDS.values()) <= set(FIELDS)
    with pytest.raises(InputError, match="given twice"):
        pipe(frame, steps=3, num_inference_steps=3)
    with pytest.raises(InputError, match="did you mean 'strength'"):
        pipe(frame, strenght=0.5)
    for word, hint in ELSEWHERE.items():
        with pytest.raises(InputError, match=f"no option '{word}'") as caught:
            pipe(frame, **{word: 1})
        assert hint in str(caught.value)


def test_guidance_within_a_range_of_the_steps(pipe: Pipeline, frame) -> None:
    """Half of the steps without guidance, then half with it, made by two whole generations of which one takes over."""
    kept = []

    def keep(pipe, step, t, state):
        kept.append(state["latents"])

    def take_over(pipe, step, t, state):
        return {"latents": kept[1]} if step == 1 else {}

    plain = latents(pipe, frame, steps=4, sampler="ddim", guidance=1.0, callback_on_step_end=keep)
    expected = latents(pipe, frame, steps=4, sampler="ddim", guidance=3.0, callback_on_step_end=take_over)
    half = latents(pipe, frame, steps=4, sampler="ddim", guidance=3.0, guidance_range=(0.5, 1.0))
    assert torch.equal(half, expected)
    assert not torch.equal(half, plain)
    whole = latents(pipe, frame, steps=4, sampler="ddim", guidance=3.0)
    assert torch.equal(whole, latents(pipe, frame, steps=4, sampler="ddim", guidance=3.0, guidance_range=(0, 1)))
    by_name = {"text": 3.0, "layout": 3.0}
    named = [latents(pipe, frame, steps=4, guidance=by_name, guidance_range=ends) for ends in [(0, 0.5), (0, 1)]]
    assert not torch.equal(*named)


def test_a_model_keeps_its_range_of_guidance(pipe: Pipeline, frame) -> None:
    sampling = replace(pipe.model.sampling, sampler="ddim", steps=4, guidance=3.0, guidance_range=(0.5, 1.0))
    assert Sampling.from_dict(json.loads(json.dumps(sampling.to_dict())), "a model") == sampling
    own = Pipeline(replace(pipe.model, sampling=sampling))
    views = own(frame)
    assert views.settings.guidance_range == (0.5, 1.0)
    given = {"sampler": "ddim", "steps": 4, "guidance": 3.0}
    assert torch.equal(latents(own, frame), latents(pipe, frame, guidance_range=(0.5, 1.0), **given))
    assert torch.equal(latents(own, frame, guidance_range=(0, 1)), latents(pipe, frame, **given))


@pytest.mark.parametrize("wrong", [(0.5, 0.5), (-0.1, 1), (0, 1.5), (0.5,), 0.5, "0:1", ("a", 1), (float("nan"), 1)])
def test_a_wrong_range_of_guidance_is_refused(wrong) -> None:
    with pytest.raises(InputError, match="guidance_range"):
        GenerationSettings(guidance_range=wrong)
    with pytest.raises(InputError, match="guidance_range"):
        Sampling(guidance_range=wrong)


@pytest.mark.parametrize("text", ["", "0.2", "a:1", "0:1:2"])
def test_a_range_of_guidance_on_the_command_line(text: str) -> None:
    assert read_guidance_range("0.2:1") == (0.2, 1.0)
    with pytest.raises(InputError, match="START:END"):
        read_guidance_range(text)


def test_the_settings_of_views_make_them_again(pipe: Pipeline, frame) -> None:
    views = pipe(frame, seed=5, steps=3, guidance=3.0, scales={"layout": 0.5}, prompt="fog", output_type="latent")
    again = pipe(frame, views.settings)
    assert torch.equal(views["CAM_FRONT"], again["CAM_FRONT"])
    assert again.settings == views.settings
    assert not torch.equal(views["CAM_FRONT"], pipe(frame, views.settings, seed=6)["CAM_FRONT"])
    region = pipe(frame, regions={"layout": {"CAM_FRONT": True}}, output_type="latent").settings
    with pytest.raises(InputError, match="was given regions"):
        pipe(frame, region)
    pipe(frame, region, regions={"layout": {"CAM_FRONT": True}})


# -- what diffusers' pipeline takes ----------------------------------------------------------------------------------------


def reference(pipe: Pipeline, sampler: str):
    from diffusers import StableDiffusionPipeline

    b = pipe.host.backbone
    scheduler = build_scheduler(sampler, b.scheduler, 4)
    made = StableDiffusionPipeline(
        b.vae, b.text_encoder, b.tokenizer, b.unet, scheduler, None, None, requires_safety_checker=False
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return lambda **given: made(
        "night", height=SIZE[0], width=SIZE[1], output_type="latent", **{"guidance_scale": 1.0, **given}
    ).images  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    return Pipeline(Model(tiny_host(("text",)), Sampling(steps=2, sampler="ddim", guidance=3.0), SIZE))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_guidance_of_one_and_below_is_none_as_in_diffusers(plain: Pipeline, frame, scale: float) -> None:
    noise = draw_noise(camera_generators(0, ["CAM_FRONT"]), LATENT)
    theirs = reference(plain, "ddim")(num_inference_steps=2, guidance_scale=scale, latents=noise)
    torch.testing.assert_close(latents(plain, frame, guidance=scale), theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(latents(plain, frame, guidance={"text": scale}), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_weight_below_one_is_no_guidance_for_its_plugin(pipe: Pipeline, frame) -> None:
    for weight in (0.0, 0.3, 1.0):
        found = latents(pipe, frame, guidance={"text": 3.0, "layout": weight})
        assert torch.equal(found, latents(pipe, frame, guidance={"text": 3.0, "layout": 1.0}))


def test_given_latents_start_as_in_diffusers(plain: Pipeline, frame) -> None:
    noise = torch.randn(1, *LATENT, generator=torch.Generator().manual_seed(7))
    theirs = reference(plain, "euler")(num_inference_steps=2, guidance_scale=3.0, latents=noise)
    for given in (noise, noise.numpy(), {"CAM_FRONT": noise[0]}, [noise]):
        ours = latents(plain, frame, latents=given, sampler="euler")
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    started = pipe_noise = draw_noise(camera_generators(3, ["CAM_FRONT"]), LATENT)
    assert torch.equal(latents(plain, frame, latents=started), latents(plain, frame, seed=3))
    assert pipe_noise.abs().sum() > 0  # what is given is not written to
    with pytest.raises(InputError, match=r"shape \(1, 4, 2, 2\); expected \(1, 4, 8, 14\)"):
        plain(frame, latents=torch.zeros(1, 4, 2, 2))
    with pytest.raises(InputError, match="given once for 2 generations"):
        plain([frame, frame], latents=noise)
    with pytest.raises(InputError, match="1 latents are given for 2"):
        plain(frame, latents=[noise], repeats=2)
    with pytest.raises(InputError, match="image says it too"):
        plain(frame, latents=noise, image=Image.new("RGB", SIZE[::-1]))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_given_timesteps_are_those_of_diffusers_or_refused(plain: Pipeline, frame, sampler: str) -> None:
    given = [900, 500, 100]
    if not SAMPLERS[sampler].takes_timesteps():
        with pytest.raises(InputError, match=re.escape(f"the sampler {sampler!r}")):
            plain(frame, timesteps=given, sampler=sampler)
        return
    ours = latents(plain, frame, timesteps=given, sampler=sampler)
    if sampler not in ("ddpm", "dpm++_sde", "lcm", "tcd"):  # whose noise is drawn from a generator per camera here
        noise = draw_noise(camera_generators(0, ["CAM_FRONT"]), LATENT)
        theirs = reference(plain, sampler)(timesteps=given, guidance_scale=3.0, latents=noise)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert plain(frame, timesteps=given, sampler=sampler, output_type="latent").settings.steps == 3


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["sde_ve", "sde_vp", "lcm", "tcd"])
def test_samplers_with_options_run_a_network(plain: Pipeline, frame, sampler: str) -> None:
    options = {"corrector_steps": 2} if sampler.startswith("sde") else {"original_inference_steps": 20}
    heard = []
    given = {"sampler": sampler, "sampler_options": options, "steps": 3}
    views = plain(frame, **given, output_type="latent", callback_on_step_end=lambda pipe, i, t, state: heard.append(i))
    assert heard == [0, 1, 2]
    assert views.settings.sampler_options == options
    plainly = plain(frame, **given, output_type="latent")
    again = plain(frame, plainly.settings)
    assert torch.equal(views["CAM_FRONT"], again["CAM_FRONT"])
    other = plain(frame, again.settings, sampler="ddim")
    assert other.settings.sampler_options == {}
    start = Image.new("RGB", SIZE[::-1], "gray")
    kept, changed = (latents(plain, frame, **{**given, "image": start, "strength": strength}) for strength in (0.0, 0.6))
    assert torch.isfinite(changed).all()
    assert not torch.equal(kept, changed)
    read = command_line.read({"sampler": sampler, "sampler_options": [f"{name}={value}" for name, value in options.items()]})
    assert read.sampler_options == options
    with pytest.raises(InputError, match=re.escape("--sampler-option 'eta' must be NAME=VALUE")):
        command_line.read({"sampler_options": ["eta"]})


@pytest.mark.parametrize(
    ("given", "said"),
    [([500, 900], "must fall"), ([], "must fall"), ([1000], "from 0 to 999"), ([5, 5], "must fall"), ([1.5], "whole number"),
     (["a"], "whole number"), ("9,5", "must be a list")],
)  # fmt: skip
def test_timesteps_that_are_none_are_refused(plain: Pipeline, frame, given, said: str) -> None:
    with pytest.raises(InputError, match=said):
        plain(frame, timesteps=given, sampler="euler")
    with pytest.raises(InputError, match="leave one of them out"):
        plain(frame, timesteps=[9, 5], steps=3, sampler="euler")


def test_repeats_are_generations_with_the_next_seeds(plain: Pipeline, frame) -> None:
    both = plain(frame, num_images_per_prompt=2, seed=4, output_type="latent")
    assert [views.settings.seed for views in both] == [4, 5]
    noise = torch.cat([draw_noise(camera_generators(seed, ["CAM_FRONT"]), LATENT) for seed in (4, 5)])
    theirs = reference(plain, "ddim")(num_inference_steps=2, guidance_scale=3.0, latents=noise, num_images_per_prompt=2)
    ours = torch.stack([views["CAM_FRONT"] for views in both])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    several = plain([frame, frame], repeats=2, seed=[0, 4], output_type="latent")
    assert [views.settings.seed for views in several] == [0, 1, 4, 5]
    assert torch.equal(several[2]["CAM_FRONT"], both[0]["CAM_FRONT"])
    each = plain([frame, frame], repeats=2, seed=[9, 7, 5, 3], steps=1)
    assert [views.settings.seed for views in each] == [9, 7, 5, 3]


# -- odd values ----------------------------------------------------------------------------------------------------------


ODD = (
    "words", "", b"bytes", -1, 0, 1, 1.5, float("nan"), float("inf"), 10**400, 1 + 2j, True, np.float32(0.5), np.int64(1),
    np.bool_(True), np.array(1), np.array([1, 2]), np.zeros(0), torch.tensor(0.5), torch.zeros(2), object(), [], [None],
    ["a", 1], (1, 2), (0.0, 0.5), {}, {"text": None}, {"text": "a"}, {"text": (0, 1, 2)}, {"text": np.float64(0.5)},
    {"text": [1]}, {1: 2}, {"nobody": 1}, {"layout": {"CAM_FRONT": 7}}, lambda *a, **k: None, Path("nowhere"),
    Image.new("RGB", (8, 8)), Image.new("RGB", (0, 4)), Image.new("I;16", (8, 8)), torch.Generator(), set(), range(2),
    Exception("x"),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FIELDS)
def test_every_option_takes_or_refuses_what_is_odd(pipe: Pipeline, frame, name: str) -> None:
    """Never a TypeError or an AttributeError, from the check or from what comes after it; None is the default."""
    pipe.settings(**{name: None})
    for value in ODD:
        with contextlib.suppress(InputError):
            next(pipe.plans(frame, pipe.settings(**{name: value})))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"seed": np.int64(3)}, {"steps": np.int32(2)}, {"guidance": np.float32(2)}, {"guidance_rescale": np.float16(0.5)},
        {"agreement": np.float64(0)}, {"scales": {"layout": np.float32(0.5)}}, {"ranges": {"layout": np.array([0, 0.5])}},
        {"strength": np.float32(0.5), "image": np.zeros((*SIZE, 3), np.uint8)}, {"size": np.array(SIZE)},
        {"repeats": np.int8(1)},
        {"seed": np.array([3])}, {"without": "layout"}, {"prompt": ["fog"]}, {"guidance": torch.tensor(2.0)},
        {"timesteps": np.array([9, 5]), "sampler": "euler"},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_of_numpy_are_numbers(pipe: Pipeline, frame, options) -> None:
    views = pipe(frame, **options)
    json.dumps(views.settings.to_dict())


@pytest.mark.parametrize(
    "call",
    [
        lambda p, v: Pipeline.from_pretrained(v, device="cpu"),
        lambda p, v: Pipeline.from_pretrained("/nowhere", device=v),
        lambda p, v: Pipeline.from_pretrained("/nowhere", "cpu", dtype=v),
        lambda p, v: Pipeline.from_pretrained("/nowhere", "cpu", offload=v),
        lambda p, v: Pipeline.from_pretrained("/nowhere", "cpu", config_folder=v),
        lambda p, v: Pipeline.from_pretrained("/nowhere", "cpu", vae=v),
        lambda p, v: Pipeline.from_pretrained("/nowhere", "cpu", variant=v),
        lambda p, v: Pipeline.from_pretrained("/nowhere", "cpu", prediction_type=v),
        lambda p, v: p.save_plugin("layout", v, dtype="fp8"), lambda p, v: p.save_plugin("layout", "/proc/nowhere", dtype=v),
        lambda p, v: Pipeline(v),
        lambda p, v: p.add_plugin(v), lambda p, v: p.add_plugin("/nowhere", name=v),
        lambda p, v: p.add_plugin("/nowhere", kind=v), lambda p, v: p.add_plugin("/nowhere", components=v),
        lambda p, v: p.load_lora(v), lambda p, v: p.load_lora("/nowhere", scale=v),
        lambda p, v: p.load_lora("/nowhere", name=v), lambda p, v: p.unload_lora(v),
        lambda p, v: p.remove_plugin(v), lambda p, v: p.save_plugin(v, "/proc/nowhere"),
        lambda p, v: p.push_to_hub("layout", v), lambda p, v: p.push_to_hub(v, "me/it"),
        lambda p, v: list(p.generate(v)), lambda p, v: p.settings(v),
    ],
)  # fmt: skip
def test_every_other_argument_refuses_what_is_odd(pipe: Pipeline, call) -> None:
    for value in (*ODD, None, [None]):
        with contextlib.suppress(InputError):
            call(pipe, value)


def test_values_of_callers_are_not_kept_open_to_change(pipe: Pipeline, frame) -> None:
    scales = {"layout": 0.5}
    settings = GenerationSettings(scales=scales)
    scales["layout"] = 0.0
    assert settings.scales == {"layout": 0.5}
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.steps = 3  # type: ignore[misc]


def test_a_plan_knows_what_the_networks_are_given(pipe: Pipeline, frame) -> None:
    """Equal digests for equal frames, masks, pictures and noise; another one where any of them changes."""
    mask, noise = np.ones(SIZE, bool), draw_noise(camera_generators(0, ["CAM_FRONT"]), LATENT)

    def digest(frame=frame, **options) -> str:
        return next(pipe.plans(frame, pipe.settings(**options))).digest()

    grey = np.full((*SIZE, 3), 0.5)
    found = [
        digest(), digest(prompt="fog"), digest(frame.move_camera("CAM_FRONT", yaw_rad=0.3)), digest(image=grey),
        digest(image=grey * 0), digest(latents=noise), digest(latents=noise + 1),
        digest(regions={"layout": {"CAM_FRONT": mask}}),
        digest(regions={"layout": {"CAM_FRONT": ~mask}}), digest(negative_prompt="fog"), digest(without="layout"),
    ]  # fmt: skip
    assert len(set(found)) == len(found) - 1  # what is null is said by the settings
    assert found[-1] == found[0] == digest(seed=4)


# -- texts, one per frame ------------------------------------------------------------------------------------------------


def test_lists_of_texts_are_one_per_frame(pipe: Pipeline, frame) -> None:
    both = pipe([frame, frame], prompt=["fog", "rain"], negative_prompt=["a", "b"], guidance=2.0, output_type="latent")
    for views, prompt, negative in zip(both, ("fog", "rain"), ("a", "b"), strict=True):
        assert (views.settings.prompt, views.settings.negative_prompt) == (prompt, negative)
        alone = pipe(frame, prompt=prompt, negative_prompt=negative, guidance=2.0, output_type="latent")
        assert torch.equal(views["CAM_FRONT"], alone["CAM_FRONT"])
    for name in ("prompt", "negative_prompt"):
        with pytest.raises(InputError, match=r"2 .*prompts are given for 1 frames"):
            pipe(frame, **{name: ["a", "b"]})
    for given in ({"prompt": ["a", "b"]}, {"negative": ["a"]}, ["a"], {"prompt": 3}):
        with pytest.raises(InputError, match="text"):
            pipe(frame, inputs={"text": given})
        with pytest.raises(InputError, match="text"):
            pipe(frame, inputs={"text": given}, negative_prompt="fog")
    with pytest.raises(InputError, match="description"):
        pipe(replace(frame, description=["a", "b"]))


# -- callbacks, copies, threads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("returned", [torch.zeros(1), [1], "x", {"latent": 1}, {"latents": 3}, {"latents": torch.zeros(1)}])
def test_a_callback_that_returns_something_else_is_told_so(pipe: Pipeline, frame, returned) -> None:
    with pytest.raises(InputError, match="callback_on_step_end returned"):
        pipe(frame, callback_on_step_end=lambda *given: returned)


@pytest.mark.slow
def test_a_copy_made_in_a_callback_is_whole_and_its_own(frame) -> None:
    host = tiny_host(("text", "layout"))
    pipe = Pipeline(Model(host, Sampling(steps=2, sampler="ddim", guidance=2.0), SIZE))
    expected, copies = latents(pipe, frame), []

    def take(p, i, t, state):
        if i == 0:
            copies.extend((copy.deepcopy(p), pickle.loads(pickle.dumps(p)), copy.deepcopy(p.host.backbone.unet)))

    assert torch.equal(latents(pipe, frame, callback_on_step_end=take), expected)
    plain = [type(module) for module in host.modules()]
    for copied in copies[:2]:
        assert [type(module) for module in copied.host.modules()] == plain
        assert torch.equal(latents(copied, frame), expected)
    for module in (m for one in (copies[0].host, copies[1].host, copies[2]) for m in one.modules()):
        assert not {"forward", "_temporary_forward"} & set(vars(module))
    with torch.no_grad():
        for parameter in host.parameters():
            parameter.zero_()  # the copies do not compute with the original's weights
    assert torch.equal(latents(copies[0], frame), expected)


@pytest.mark.slow
def test_threads_take_turns(pipe: Pipeline, frame) -> None:
    """In two pipelines of one model too; one whose generation fails leaves the model whole for the others."""
    other = Pipeline(pipe.model)
    expected = {seed: latents(pipe, frame, seed=seed, guidance=2.0) for seed in range(4)}
    found, errors = {}, []

    def fail(*given):
        raise InputError("enough")

    def work(seed: int) -> None:
        try:
            with pytest.raises(InputError, match="enough"):
                pipe(frame, seed=seed, callback_on_step_end=fail)
            found[seed] = latents((pipe, other)[seed % 2], frame, seed=seed, guidance=2.0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(torch.equal(found[seed], expected[seed]) for seed in expected)
    assert not any("_temporary_forward" in vars(module) for module in pipe.host.modules())


def test_frames_are_prepared_in_turn(pipe: Pipeline, frame) -> None:
    """What a plugin's `prepare` keeps is no other thread's."""
    planned, found = pipe.plans(frame, pipe.settings(steps=1)), []
    thread = threading.Thread(target=lambda: found.extend(planned))
    with computing(pipe.host.backbone.unet):
        thread.start()
        thread.join(0.2)
        assert not found
    thread.join()
    assert [plan.frame.token for plan in found] == [frame.token]


@pytest.mark.parametrize("callback", [lambda: None, lambda pipe, step, t: None, lambda a, b, c, d, e: None])
def test_a_callback_of_another_form_is_refused_at_once(pipe: Pipeline, frame, callback) -> None:
    with pytest.raises(InputError, match="must be a function of"):
        pipe.generate(frame, callback_on_step_end=callback)


@pytest.mark.parametrize("change", [lambda x: x.to("meta"), lambda x: x.to_sparse(), lambda x: x.long(), lambda x: x + 0j])
def test_latents_are_plain_numbers(pipe: Pipeline, frame, change) -> None:
    with pytest.raises(InputError, match="latents must be a plain tensor of floating-point numbers, not one of torch"):
        pipe(frame, latents=change(torch.zeros(1, *LATENT)))


@pytest.mark.slow
def test_a_callback_may_generate_and_may_not_change_the_model(pipe: Pipeline, frame, tmp_path: Path) -> None:
    inner, expected = [], latents(pipe, frame)
    pipe.save_plugin("layout", tmp_path / "layout")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    file = lora.save(lora.LoRA({"unet": {layer: (torch.randn(2, 64), torch.randn(64, 2))}}), tmp_path)
    assert torch.equal(
        latents(pipe, frame, callback_on_step_end=lambda p, *a: inner.append(latents(p, frame)) or None), expected
    )
    assert all(torch.equal(one, expected) for one in inner)
    for change in (
        lambda p: p.add_plugin(tmp_path / "layout", "second"), lambda p: p.remove_plugin("layout"), lambda p: p.load_lora(file),
        lambda p: p.unload_lora(),
    ):  # fmt: skip
        with pytest.raises(InputError, match="while a generation runs"):
            pipe(frame, callback_on_step_end=lambda p, *given, change=change: change(p))
    assert torch.equal(latents(pipe, frame), expected)


def test_another_default_format_of_torch_changes_nothing(pipe: Pipeline, frame) -> None:
    expected = latents(pipe, frame)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(latents(pipe, frame), expected)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# -- what is put in --------------------------------------------------------------------------------------------------------


def test_a_lora_is_known_by_its_file(frame, tmp_path: Path) -> None:
    pipe = Pipeline(Model(tiny_host(("text",)), Sampling(steps=1, sampler="ddim", guidance=1.0), SIZE))
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    made = [lora.LoRA({"unet": {layer: (torch.randn(2, 64), torch.randn(64, 2))}}) for _ in range(2)]
    files = [lora.save(one, tmp_path / name) for one, name in zip(made, ("a", "b"), strict=True)]
    plain, one, two = latents(pipe, frame), {}, {}
    for file in files:
        pipe.load_lora(file)
        one[file] = latents(pipe, frame)
        pipe.unload_lora()
    names = [pipe.load_lora(file) for file in files]
    both = latents(pipe, frame)
    assert len(set(names)) == len(pipe.loras) == 2
    assert not any(torch.allclose(both, other) for other in (plain, *one.values()))
    two = pipe(frame).settings.loras
    assert list(two) == names
    assert pipe.load_lora(files[0].parent, 0.5) == names[0]  # the same file, by its folder: another scale, not another LoRA
    assert pipe.loras == {names[0]: 0.5, names[1]: 1.0}
    pipe.unload_lora(names[0])
    assert torch.equal(latents(pipe, frame), one[files[1]])
    assert list(pipe.extensions.sha256) == [names[1]]


def test_the_pipeline_has_a_manager_and_is_none(pipe: Pipeline) -> None:
    from drivegen.saved.sharing import Extensions

    assert isinstance(pipe.extensions, Extensions)
    assert not isinstance(pipe, Extensions)
    for name in ("add_plugin", "remove_plugin", "save_plugin", "push_to_hub", "load_lora", "unload_lora"):
        assert callable(getattr(pipe, name))
    assert pipe.model is pipe.extensions.model


# -- number formats --------------------------------------------------------------------------------------------------------


def test_number_formats_have_the_same_words_everywhere() -> None:
    from drivegen.training.config import TrainConfig

    cpu = torch.device("cpu")
    for word in (*dtypes.DTYPES, *dtypes.SHORT_DTYPES):
        expected = getattr(torch, dtypes.SHORT_DTYPES.get(word, word))
        assert runtime.parse_dtype(word) is runtime.parse_dtype(expected) is expected
        assert TrainConfig(steps=1, precision=word).precision in ("32", "bf16", "fp16")
    for wrong in ("int8", "fp8", torch.int8, torch.float64, None, 32, "AUTO"):
        with pytest.raises(InputError, match="no dtype"):
            runtime.choose_dtype(wrong, cpu)
    for half in ("fp16", torch.float16):
        with pytest.raises(InputError, match="not for the CPU"):
            runtime.choose_dtype(half, cpu)


def test_a_classifier_and_a_plugin_are_no_settings_of_another_kind() -> None:
    with pytest.raises(InputError, match="must be a"):
        GenerationSettings(classifier=Plugin)
    assert GenerationSettings(classifier=Classifier(lambda views, frame: views.mean())).classifier is not None

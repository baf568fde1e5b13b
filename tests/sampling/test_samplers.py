"""Samplers: what they are does not move, of a model they take the facts of training, and any number of steps ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drivegen.catalog import samplers
from drivegen.plugin.sampler import Run
from drivegen.sampling import SAMPLERS, Sampling, build_scheduler, camera_generators, sample
from drivegen.support.errors import InputError

GOLDEN = json.loads(Path(__file__).with_name("golden_samplers.json").read_text())
"""Of 20 steps, before samplers took nothing but facts of training: timesteps, some sigmas, some latents."""

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO = {**SD, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


def trained(kind: str = "sd15", class_name: str = "DDPMScheduler", **options: Any) -> Any:
    import diffusers

    if kind == "sd15" and class_name == "DDPMScheduler" and not options:
        return diffusers.PNDMScheduler(**SD, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    return getattr(diffusers, class_name).from_config({**(ZERO if kind == "zero" else SD), **options})


def run(scheduler: Any) -> Tensor:
    """Sample with a denoiser that depends on latents and timestep."""
    x = torch.linspace(-2, 2, 2 * 4 * 4 * 4).reshape(2, 4, 4, 4) * scheduler.init_noise_sigma
    return sample(
        lambda x, t: torch.tanh(x * 0.7 + 0.001 * float(t)), scheduler, x, generators=camera_generators(0, ["a", "b"])
    )


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in GOLDEN for name in GOLDEN[kind]])
def test_what_a_sampler_does_in_twenty_steps_has_not_moved(kind: str, name: str) -> None:
    golden = GOLDEN[kind][name]
    scheduler = build_scheduler(name, trained(kind), 20)
    assert [float(t) for t in scheduler.timesteps] == golden["timesteps"]
    sigmas = [float(s) for s in getattr(scheduler, "sigmas", [])]
    # torch's fp32 moves a sigma of zero terminal SNR by 1.8e-6 between an AMD EPYC and an Intel Xeon, the others by less.
    assert [*sigmas[:1], *sigmas[9:10], *sigmas[-2:]] == pytest.approx(golden["sigmas"], rel=3e-6 if kind == "zero" else 1e-6)
    x = run(scheduler).flatten().tolist()
    assert x[:4] + x[-4:] == pytest.approx(golden["latents"], rel=1e-4, abs=1e-6)


SAYS = {
    "use_karras_sigmas": True, "use_exponential_sigmas": True, "use_beta_sigmas": True, "use_lu_lambdas": True,
    "timestep_spacing": "trailing", "steps_offset": 7, "solver_order": 1, "solver_type": "heun",
    "algorithm_type": "dpmsolver", "thresholding": True, "sample_max_value": 3.0, "dynamic_thresholding_ratio": 0.5,
    "clip_sample": True, "clip_sample_range": 0.1, "lower_order_final": False, "euler_at_final": True,
    "variance_type": "fixed_large", "final_sigmas_type": "zero", "set_alpha_to_one": True, "skip_prk_steps": False,
    "predict_x0": False, "interpolation_type": "log_linear", "lambda_min_clipped": -1.0, "disable_corrector": [0, 1],
    "sigma_min": 0.5, "sigma_max": 2.0, "flow_shift": 3.0,
}  # fmt: skip
"""Whatever a scheduler_config.json may say of how to sample."""


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_nothing_but_the_facts_of_training_is_taken(name: str) -> None:
    said = trained()
    said.register_to_config(**SAYS)
    plain, other = (build_scheduler(name, scheduler, 12) for scheduler in (trained(), said))
    assert plain.config == other.config
    assert torch.equal(run(plain), run(other))


@pytest.mark.parametrize("class_name", ["LCMScheduler", "HeunDiscreteScheduler", "TCDScheduler", "DEISMultistepScheduler"])
def test_the_defaults_of_a_schedulers_own_class_are_facts_too(class_name: str) -> None:
    """diffusers leaves out settings that are a class's defaults when another class is built from them."""
    import diffusers

    own = getattr(diffusers, class_name)()
    for name in ("ddim", "heun", "unipc"):
        torch.testing.assert_close(build_scheduler(name, own, 5).alphas_cumprod, own.alphas_cumprod)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd15", "zero"])
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_any_number_of_steps_ends_or_is_refused(name: str, kind: str) -> None:
    model = trained(kind, num_train_timesteps=100)
    if kind == "zero" and not SAMPLERS[name].zero_snr:
        with pytest.raises(InputError, match=rf"zero terminal SNR, where the sampler '{name}' cannot start; use one of unipc"):
            build_scheduler(name, model, 1)
        return
    for steps in (1, 2, 3, 33, 60, 67, 99, 100):
        if name == "pndm" and steps in (60, 67):
            with pytest.raises(InputError, match=f"takes equal steps, and {steps} do not divide the 100 timesteps"):
                build_scheduler(name, model, steps)
            continue
        if SAMPLERS[name].distilled and steps > 50:
            with pytest.raises(InputError, match=f"{steps} steps are more than the 50 of the distillation's solver"):
                build_scheduler(name, model, steps)
            continue
        scheduler = build_scheduler(name, model, steps)
        assert torch.isfinite(run(scheduler)).all(), steps
        if steps not in (2, 3):
            assert float(scheduler.timesteps[0]) >= 94, steps
    for steps in (0, 101, 2.5, True):
        with pytest.raises(InputError, match=f"{steps} steps"):
            build_scheduler(name, model, steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ddim", "ddpm", "pndm"])
def test_leading_spacing_stays_where_it_starts_from_noise(name: str) -> None:
    import diffusers

    for steps in (4, 7, 20, 30, 50, 250, 999):
        theirs = diffusers.DDIMScheduler(**SD, timestep_spacing="leading", steps_offset=1)
        theirs.set_timesteps(steps)
        assert set(build_scheduler(name, trained(), steps).timesteps.tolist()) == set(theirs.timesteps.tolist())
    assert build_scheduler(name, trained(), 1).timesteps.tolist() == [999]


def test_ddim_of_unequal_steps_is_ddim() -> None:
    """What takes its place where timesteps do not divide equals it where they do."""
    import diffusers

    other = SAMPLERS["ddim"].otherwise
    assert other is not None
    theirs = diffusers.DDIMScheduler(**SD, timestep_spacing="trailing", set_alpha_to_one=False, clip_sample=False)
    ours = getattr(diffusers, other.class_name)(**SD, **other.settings)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(50)
    torch.testing.assert_close(run(ours), run(theirs), rtol=1e-3, atol=1e-4)
    assert build_scheduler("ddim", trained(), 600).timesteps[0] == 999


@pytest.mark.parametrize(
    ("steps", "name"), [(67, "ddim"), (60, "ddpm"), (60, "ddim"), (100, "ddim"), (100, "pndm"), (1, "ddim")]
)
def test_steps_that_do_not_divide_reach_what_the_denoiser_knows(steps: int, name: str) -> None:
    clean = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    scheduler = build_scheduler(name, trained(num_train_timesteps=100), steps)
    alphas = scheduler.alphas_cumprod

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return (x - alphas[int(t)].sqrt() * clean) / (1 - alphas[int(t)]).sqrt()

    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    found = sample(denoise, scheduler, noise, generators=camera_generators(0, ["a"]))
    assert (found - clean).abs().mean() < 0.05


@pytest.mark.parametrize("name", ["pndm", "euler_a"])
def test_a_sampler_that_cannot_take_the_prediction_is_refused(name: str) -> None:
    with pytest.raises(
        InputError, match=rf"prediction_type 'sample', with which the sampler '{name}' cannot start; use one of"
    ):
        build_scheduler(name, trained(prediction_type="sample"), 5)


# -- few steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lcm", "tcd"])
@pytest.mark.parametrize("kind", ["sd15", "zero"])
def test_distilled_samplers_are_diffusers_own(name: str, kind: str) -> None:
    import diffusers

    original = 25
    theirs = getattr(diffusers, SAMPLERS[name].class_name)(
        **(ZERO if kind == "zero" else SD), original_inference_steps=original, clip_sample=False
    )
    theirs.set_timesteps(4)
    ours = build_scheduler(name, trained(kind), 4, options={"original_inference_steps": original})
    assert ours.timesteps.tolist() == theirs.timesteps.tolist() == [999, 759, 519, 279]
    assert torch.equal(run(ours), run(theirs))
    assert build_scheduler(name, trained(kind), 4).timesteps.tolist() == [999, 759, 499, 259]


def test_noise_of_tcd_is_an_option() -> None:
    sampled = {}
    for eta in (0.0, 0.3, 1.0):
        sampler = samplers.make("tcd", {"eta": eta})
        told = Run(trained=trained(), steps=4, generators=camera_generators(0, ["a", "b"]))
        sampled[eta] = sampler(lambda x, t, known=None: torch.tanh(x), torch.ones(2, 4, 4, 4), told)
    theirs = build_scheduler("tcd", trained(), 4)
    x = torch.ones(2, 4, 4, 4)
    for t in theirs.timesteps:
        x = theirs.step(torch.tanh(x), t, x, eta=0.0, return_dict=False)[0]
    assert torch.equal(sampled[0.0], x)
    assert not torch.equal(sampled[0.3], sampled[1.0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"original_inference_steps": 600}, "600 of the sampler 'lcm' do not divide the 1000 timesteps"),
        ({"original_inference_steps": 1001}, "do not divide"), ({"original_inference_steps": 3}, "4 steps are more than the 3"),
        ({"original_inference_steps": 0}, "whole number of 1 or above"), ({"original_inference_steps": "a"}, "a whole number"),
        ({"original_inference_step": 50}, "did you mean 'original_inference_steps'"), ({"eta": 1}, "eta = 1 is unknown"),
        ({"original_inference_steps": [50]}, "must be a number, a text, true or false"), ({1: 2}, "must be a text"),
        (5, "by name"),
    ],
)  # fmt: skip
def test_options_that_fit_no_sampler_are_refused(options: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Sampling(sampler="lcm", steps=4, sampler_options=options).run(trained())


def test_options_belong_to_their_sampler() -> None:
    sampling = Sampling(sampler="tcd", sampler_options={"original_inference_steps": 25})
    assert Sampling.from_dict(json.loads(json.dumps(sampling.to_dict())), "a file") == sampling
    assert sampling.replaced(sampler_options={"eta": 0.1}).sampler_options == {"original_inference_steps": 25, "eta": 0.1}
    assert sampling.replaced(sampler="tcd").sampler_options == {"original_inference_steps": 25}
    assert sampling.replaced(sampler="ddim").sampler_options == {}
    assert Sampling.from_dict({"sampler": "ddim"}, "a folder of before").sampler_options == {}


# -- samplers of others --------------------------------------------------------------------------------------------------


def install(folder: Path, package: str, name: str, source: str) -> None:
    (folder / f"{package}.py").write_text(source)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[drivegen.samplers]\n{name} = {package}:Mine\n")


HALVING = """
import torch
from drivegen.plugin.sampler import Sampler

class Mine(Sampler):
    '''Halves the noise.'''
    def __init__(self, times: int = 1):
        self.times = times
    def timesteps(self, run):
        return torch.arange(run.steps).flip(0)
    def __call__(self, denoise, x, run):
        for i, t in enumerate(self.timesteps(run)):
            denoise(x, t)
            x = run.stepped(i, t, x / 2**self.times)
        return x
"""


@pytest.mark.slow
def test_a_strangers_sampler_is_found_and_a_broken_one_breaks_itself_alone(tmp_path: Path, monkeypatch: Any) -> None:
    from drivegen.catalog import listing

    install(tmp_path, "halving_pkg", "halving", HALVING)
    install(tmp_path, "no_sampler_pkg", "sick", "import no_such_library\nclass Mine: pass\n")
    install(tmp_path, "claiming_pkg", "ddim", HALVING)
    install(tmp_path, "plain_pkg", "plain", "class Mine: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    listed = {entry.kind: entry for entry in listing.listed_samplers() if not entry.problem}
    assert (listed["halving"].summary, listed["halving"].parameters) == ("Halves the noise.", ("times=1",))
    assert set(SAMPLERS) <= set(listed)
    problems = {entry.kind: entry.problem for entry in listing.listed_samplers() if entry.problem}
    assert "'no_such_library', which is not installed" in problems["sick"]
    assert "drivegen" in problems["ddim"]
    assert not {"halving_pkg", "no_sampler_pkg"} & set(sys.modules)
    assert samplers.load("ddim") is SAMPLERS["ddim"]
    sampling = Sampling(sampler="halving", steps=3, sampler_options={"times": 2})
    x = torch.randn(2, 4, 4, 4)
    assert torch.equal(sampling.made()(lambda x, t, known=None: x, x, sampling.run(trained())), x / 64)
    with pytest.raises(InputError, match=r"sampler 'sick' \(no_sampler_pkg 1.0\) cannot be imported"):
        Sampling(sampler="sick")
    with pytest.raises(InputError, match=r"sampler 'plain': plain_pkg:Mine is not a drivegen\.plugin\.sampler\.Sampler"):
        Sampling(sampler="plain")
    with pytest.raises(InputError, match=r"no sampler 'halvin'; there are .*did you mean 'halving'"):
        Sampling(sampler="halvin")
    with pytest.raises(InputError, match="'halving' takes no timesteps; use one of dpm"):
        sampling.run(trained(), timesteps=(9, 5, 1))
    with pytest.raises(InputError, match="is registered already"):
        samplers.register("halving")(SAMPLERS["ddim"])

"""LoRAs and tuners held to some steps, or to a part of the picture: as with them where they act, as without elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drivegen.catalog import tuners
from drivegen.pipeline.pipeline import Pipeline
from drivegen.sampling import Sampling
from drivegen.saved import tuners as saved
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from drivegen.testing.models import randomize
from tests.tiny_hosts import SIZE, tiny_host

SCENE = frame(views=2)
FRONT, OTHER = SCENE.channels
EVERYTHING = r".*(attn[12]\.to_([qkv]|out\.0)|conv1|conv_in|time_emb_proj|proj_in|ff\.net\.2)"
NEAR = {"rtol": 1e-3, "atol": 1e-4}


def pipeline() -> Pipeline:
    return Pipeline(Model(tiny_host(("text", "boxes")), Sampling(sampler="ddim", steps=2, guidance=2.0), SIZE))


def written(folder: Path, kind: str, options: dict[str, Any], seed: int = 3) -> Path:
    """Write a tuner of random numbers for the tiny model."""
    host, tuner = tiny_host(("text",)), tuners.make(kind, options)
    host.add_tuner("it", tuner)
    randomize(tuner, seed)
    with torch.no_grad():
        for parameter in tuner.parameters():
            parameter.mul_(0.5)
    return saved.save(tuner, folder / f"{kind}{seed}").parent


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"rank": 2, "targets": EVERYTHING, "text_encoder": True}
    return written(tmp_path_factory.mktemp("lora"), "lora", options)


def made(pipe: Pipeline, **options: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(one) for name, one in pipe(SCENE, seed=1, output_type="latent", **options).items()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in SCENE.channels)


def test_all_of_it_is_today_and_none_of_it_is_without(lora: Path) -> None:
    pipe = pipeline()
    without = made(pipe)
    pipe.load_lora(lora, name="look")
    whole = made(pipe)
    assert not same(whole, without)
    full = {FRONT: np.ones((SIZE[0], SIZE[1])), OTHER: True}
    assert same(made(pipe, ranges={"look": (0, 1)}, regions={"look": full}), whole)
    assert same(made(pipe, regions={"look": {FRONT: np.zeros(SIZE)}}), without)
    assert same(made(pipe, ranges={"look": (0.3, 0.8)}), without)  # no step of two lies within
    assert same(made(pipe), whole)
    pipe.unload_lora()
    assert same(made(pipe), without)


KINDS = {
    "lora": {"rank": 2, "targets": EVERYTHING, "text_encoder": True}, "dora": {"rank": 2, "targets": r".*(attn2\.to_k|conv2)"},
    "hypernetwork": {"activation": "swish"}, "custom_diffusion": {"query_and_output": True},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_one_camera_has_it_and_the_other_is_as_without(kind: str, tmp_path: Path) -> None:
    pipe = pipeline()
    without = made(pipe)
    folder = written(tmp_path, kind, KINDS[kind])
    names = [pipe.load_tuner(folder, name="look")]
    whole = made(pipe)
    if kind in ("lora", "dora"):
        pipe.unload_tuner()
        names.append(pipe.load_lora(folder, name="file"))
        np.testing.assert_allclose(made(pipe)[FRONT], whole[FRONT], **NEAR)
        pipe.load_tuner(folder, scale=0.0, name="look")
    found = made(pipe, regions={names[-1]: {FRONT: True}})
    assert np.array_equal(found[OTHER], without[OTHER])
    assert np.abs(whole[FRONT] - without[FRONT]).max() > 1e-2
    np.testing.assert_allclose(found[FRONT], whole[FRONT], **NEAR)


@pytest.mark.slow
def test_two_in_two_cameras(lora: Path, tmp_path: Path) -> None:
    other = written(tmp_path, "lora", KINDS["lora"], seed=5)
    each = []
    for one in (lora, other):
        pipe = pipeline()
        pipe.load_lora(one, 0.8)
        each.append(made(pipe))
    pipe = pipeline()
    names = [pipe.load_lora(one, 0.8, name) for one, name in ((lora, "first"), (other, "second"))]
    found = made(pipe, regions={names[0]: {FRONT: True}, names[1]: {OTHER: True}})
    np.testing.assert_allclose(found[FRONT], each[0][FRONT], **NEAR)
    np.testing.assert_allclose(found[OTHER], each[1][OTHER], **NEAR)


def test_half_a_picture_in_closed_form(tmp_path: Path) -> None:
    """A change of the last convolution alone: each latent is as with it within, as without beyond."""
    folder = written(tmp_path, "lora", {"rank": 2, "targets": "conv_out"})
    pipe = pipeline()
    without = made(pipe, steps=1, guidance=1.0)
    name = pipe.load_lora(folder)
    whole = made(pipe, steps=1, guidance=1.0)
    mask = np.zeros(SIZE)
    mask[:, : SIZE[1] // 2] = 1
    found = made(pipe, steps=1, guidance=1.0, regions={name: {FRONT: mask}})
    half = whole[FRONT].shape[-1] // 2
    np.testing.assert_allclose(found[FRONT][..., :half], whole[FRONT][..., :half], **NEAR)
    assert np.array_equal(found[FRONT][..., half:], without[FRONT][..., half:])
    assert np.array_equal(found[OTHER], without[OTHER])


@pytest.mark.parametrize("part", [(0, 0.5), (0.5, 1)])
def test_steps_within_the_range_have_it_and_others_do_not(lora: Path, part: tuple[float, float]) -> None:
    first: list[torch.Tensor] = []

    def keep(pipe: Any, i: int, t: Any, given: dict[str, torch.Tensor]) -> None:
        if i == 0:
            first.append(given["latents"].clone())

    pipe = pipeline()
    without = made(pipe, callback_on_step_end=keep)
    pipe.load_lora(lora, name="look")
    whole = made(pipe, callback_on_step_end=keep)
    found = made(pipe, callback_on_step_end=keep, ranges={"look": part})
    begins, other = (first[1], first[0]) if part[0] == 0 else (first[0], first[1])
    torch.testing.assert_close(first[2], begins, **NEAR)
    assert not torch.allclose(first[2], other, **NEAR)
    assert not any(np.allclose(found[FRONT], one[FRONT], **NEAR) for one in (without, whole))
    used = pipe(SCENE, seed=1, ranges={"look": part}).settings
    assert used.to_dict()["ranges"] == {"look": list(part)}
    assert used.loras == {"look": 1.0}


def test_what_cannot_be_held_is_refused_by_name(lora: Path, tmp_path: Path) -> None:
    pipe = pipeline()
    pipe.load_lora(lora, name="look")
    pipe.load_lora(written(tmp_path, "lora", {"rank": 1, "targets": r"time_embedding\.linear_1"}), name="time")
    pipe.host.add_tuner("word", tuners.make("textual_inversion", {"word": "<tanker>", "initial": "truck"}))
    for wrong, said in (
        ({"ranges": {"lok": (0, 0.5)}}, "no plugin 'lok' in this model, and no LoRA or tuner .*did you mean 'look'"),
        ({"scales": {"look": 0.5}}, "'look' is a LoRA or tuner, and a scale of those is given where it is loaded"),
        ({"regions": {"time": {FRONT: True}}}, "'time', which changes unet.time_embedding.linear_1, and with it the whole"),
        ({"regions": {"word": {FRONT: True}}}, "'word', which teaches '<tanker>'"),
        ({"ranges": {"word": (0, 0.5)}}, "'word', which teaches '<tanker>'"),
        ({"ranges": {"look": (0.5, 0.2)}}, "0 <= start < end <= 1"),
        ({"regions": {"look": {"CAM_NOWHERE": True}}}, "CAM_NOWHERE"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            made(pipe, **wrong)
    assert pipe.host.tuners.keys() == {"word"}
    made(pipe, ranges={"time": (0, 0.5)})
    pipe.load_lora(lora, name="text")
    with pytest.raises(InputError, match="a plugin and a LoRA or tuner named 'text'"):
        made(pipe, ranges={"text": (0, 0.5)})
    pipe.unload_lora()
    assert pipe.host.tuners.keys() == {"word"}


def test_none_is_let_apart_inside_a_generation(lora: Path) -> None:
    pipe = pipeline()
    pipe.load_lora(lora, name="look")

    def inner(pipe: Any, i: int, t: Any, given: Any) -> None:
        made(pipe, ranges={"look": (0, 0.5)})

    with pytest.raises(InputError, match=r"cannot let LoRAs act apart .* while a generation runs"):
        made(pipe, callback_on_step_end=inner)

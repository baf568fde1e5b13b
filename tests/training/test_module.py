"""What a training of one's own trains, of a host that was built and of one that was loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.plugin import Plugin
from drivegen.sampling import Sampling
from drivegen.saved import model
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from drivegen.training.build import build_model
from drivegen.training.config import Config, DataConfig, TrainConfig
from drivegen.training.model_config import ModelConfig, PluginConfig
from drivegen.training.module import DriveModule
from drivegen.tuners.lora import LoRA
from tests.street import street_frame
from tests.tiny_hosts import SIZE, tiny_host
from tests.tiny_models import randomize, tiny_backbone

NAMES = ("text", "camera", "boxes")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save(tiny_host(NAMES), tmp_path_factory.mktemp("models") / "m", Sampling(steps=1), image_size=SIZE)


def learning(host: Host) -> set[str]:
    return {name for name, parameter in host.named_parameters() if parameter.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize("names", [("boxes",), NAMES, ()])
def test_a_loaded_model_trains_what_is_named_as_from_a_config(saved: Path, names: tuple[str, ...]) -> None:
    host = model.load(saved).host
    assert learning(host) == set()
    module = DriveModule(host, TrainConfig(steps=1), train_plugins=names)
    expected = {n for n, _ in host.named_parameters() if n.startswith(tuple(f"plugins.{name}." for name in names))}
    assert learning(host) == expected
    assert [name for name, _ in module.trained()] == [f"host.{n}" for n, _ in host.named_parameters() if n in expected]
    config = Config(
        output="unused", model=ModelConfig(base=str(saved)), plugins={n: PluginConfig(train=n in names) for n in NAMES},
        data=DataConfig(roots=("unused",), size=SIZE), train=TrainConfig(steps=1),
    )  # fmt: skip
    configured = build_model(config).host
    DriveModule(configured, config.train, train_plugins=names)
    assert learning(configured) == expected


def test_without_names_every_plugin_of_a_loaded_model_trains(saved: Path) -> None:
    loaded, built = model.load(saved).host, tiny_host(NAMES)
    for host in (loaded, built):
        DriveModule(host, TrainConfig(steps=1))
    assert learning(loaded) == learning(built) == {n for n, _ in built.named_parameters() if n.startswith("plugins.")}


class Partly(Plugin):
    """One layer learns, one is its author's."""

    def attach(self, backbone: object) -> None:
        self.learns, self.fixed = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).requires_grad_(False)


def test_what_an_author_or_a_caller_froze_stays_frozen() -> None:
    own = {"plugins.partly.learns.weight", "plugins.partly.learns.bias"}
    fresh = Host(tiny_backbone(), {"partly": Partly()})
    DriveModule(fresh, TrainConfig(steps=1))
    assert learning(fresh) == own
    frozen = Host(tiny_backbone(), {"partly": Partly()}).requires_grad_(False)
    DriveModule(frozen, TrainConfig(steps=1))
    assert learning(frozen) == own
    chosen = Host(tiny_backbone(), {"partly": Partly()})
    chosen.plugin("partly").learns.bias.requires_grad_(False)
    DriveModule(chosen, TrainConfig(steps=1))
    assert learning(chosen) == {"plugins.partly.learns.weight"}


def test_plugins_and_loras_come_and_go_beside_a_tuner_that_trains(saved: Path, tmp_path: Path) -> None:
    host = tiny_host(("text",))
    host.add_tuner("mine", LoRA(rank=2))
    randomize(host.tuner("mine"), 3)
    own = dict(host.named_parameters())
    pipe = Pipeline(Model(host, Sampling(steps=1), SIZE))
    before = pipe(street_frame(0), output_type="latent", seed=0)
    file = host.tuner("mine").save(tmp_path)
    name = pipe.load_lora(file)
    assert pipe.add_plugin(saved / "plugins" / "camera") == "camera"
    pipe.unload_lora(name)
    pipe.remove_plugin("camera")
    after = dict(host.named_parameters())
    assert after.keys() == own.keys()
    assert all(after[name] is p for name, p in own.items())
    assert all(p.requires_grad == ("tuners" in name) for name, p in own.items())
    again = pipe(street_frame(0), output_type="latent", seed=0)
    assert all(torch.equal(before[name], again[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("said", [{}, {"guidance": 3.0}, {"sampler": "ddim", "noise": "shared"}])
def test_what_a_config_does_not_say_of_sampling_is_the_base_s(saved: Path, tmp_path: Path, said: dict[str, Any]) -> None:
    base = Sampling("euler", 7, 1.5, guidance_rescale=0.3, null=("text",), noise="sphere", agreement=0.25)
    folder = model.save(model.load(saved).host, tmp_path / "base", base, image_size=SIZE)
    values: dict[str, Any] = {"data": DataConfig(roots=("unused",), size=SIZE), "train": TrainConfig(steps=1), "sampling": said}
    config = Config(
        output="unused", model=ModelConfig(base=str(folder)), plugins={"lens": PluginConfig(kind="camera")}, **values
    )
    assert build_model(config).sampling == base.replaced(**said)
    plain = tmp_path / "plain"
    model.load(saved).host.backbone.save(plain)
    config = Config(output="unused", model=ModelConfig(base=str(plain)), plugins={"text": PluginConfig(kind="text")}, **values)
    assert build_model(config).sampling == model.load(plain).sampling.replaced(**said)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_zero_terminal_snr_is_not_trained_with_epsilon(prediction: str) -> None:
    from diffusers import DDPMScheduler

    backbone = tiny_backbone()
    backbone.scheduler = DDPMScheduler(prediction_type=prediction, rescale_betas_zero_snr=True)
    if prediction == "epsilon":
        with pytest.raises(InputError, match="zero terminal SNR"):
            DriveModule(Host(backbone), TrainConfig(steps=1))
    else:
        DriveModule(Host(backbone), TrainConfig(steps=1))

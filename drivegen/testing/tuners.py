"""The battery that any author of a tuner runs: `CHECKS` by name, each on a `Case`; they raise AssertionError.

@pytest.mark.parametrize("check", CHECKS)
def test_my_tuner(check):
    CHECKS[check](Case(MyTuner))

Each puts the tuner into a tiny host of random weights, with a text plugin: two scenes of three views.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivegen.catalog import registry
from drivegen.catalog.construct import construct_plugin
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.objectives import twin
from drivegen.plugin.tuner import Tuner
from drivegen.support.errors import InputError
from drivegen.testing.case import close, refused
from drivegen.testing.frames import frame
from drivegen.testing.models import randomize, tiny_backbone
from drivegen.testing.runs import differences, trained
from drivegen.training.config import TrainConfig
from drivegen.training.frames import TrainBatch
from drivegen.training.module import DriveModule

VIEWS, LATENTS = 3, (4, 8, 8)
NAME = "tuner"


@dataclass(frozen=True)
class Case:
    """A tuner under test.

    Args:
        tuner: its class.
        options: what it is made with.
        prompt: one that it has an effect on; None = one with all of its words.
        others: plugins beside it, by instance name and kind.
    """

    tuner: type[Tuner]
    options: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    others: Mapping[str, str] = field(default_factory=lambda: {"boxes": "boxes"})

    def made(self) -> Tuner:
        """Make the tuner, always with the same numbers."""
        return construct_plugin(self.tuner, self.options, self.tuner.__name__)

    def bare(self) -> Host:
        """Make a host without the tuner; always of the same weights."""
        host = Host(tiny_backbone(), {"text": registry.load("text")()})
        for name, kind in self.others.items():
            self.plug(host, name, kind)
        return host.eval()

    def plug(self, host: Host, name: str, kind: str) -> None:
        """Add a plugin with numbers that depend on its name alone.

        Args:
            host: where it goes.
            name: its instance name.
            kind: its kind.
        """
        host.add_plugin(name, registry.load(kind)())
        randomize(host.plugin(name), len(name))

    def host(self, used: bool = True) -> Host:
        """Make a host with the tuner; its numbers are random where `used`, as after a training, else fresh."""
        host = self.bare()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            host.add_tuner(NAME, self.made())
        if used:
            randomize(host.tuner(NAME), 7)
        return host.eval()

    def words(self) -> str:
        """Return a prompt that the tuner has an effect on."""
        return self.prompt or " ".join(["a", *self.made().words, "day"])

    def batch(self, host: Host, prompt: str = "a rainy day") -> data.Batch:
        """Make the batch of a host.

        Args:
            host: whose plugins prepare it.
            prompt: in place of the frames' descriptions.
        """
        plugins = {name: host.plugin(name) for name in host.plugins}
        frames = [replace(frame(seed=seed, views=VIEWS), description=prompt) for seed in range(2)]
        return data.collate([data.prepare(one, plugins) for one in frames], plugins, VIEWS, ("first", "second"))

    @torch.no_grad()
    def run(self, host: Host, prompt: str = "a rainy day") -> Tensor:
        """Predict.

        Args:
            host: with the tuner or without.
            prompt: of both scenes.
        """
        batch = self.batch(host, prompt)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(batch.grid.rows, *LATENTS, generator=generator)
        return host(x, torch.tensor([100, 700]).repeat_interleave(VIEWS), host.encode(batch.arrays, batch.grid))

    def module(self) -> DriveModule:
        """Make the module that trains it, and nothing else."""
        settings = TrainConfig(steps=4, images=6, warmup=1, lr=1e-2, precision="32", device="cpu")
        return DriveModule(self.host(used=False).requires_grad_(False), settings, train_plugins=())

    def trained(self, steps: int, start: Mapping[str, Any] | None = None) -> tuple[DriveModule, dict[str, Any]]:
        """Train; returns the module and its checkpoint.

        Args:
            steps: after which it ends.
            start: a checkpoint to go on from; None begins anew.
        """
        module = self.module()
        module.host.tuner(NAME).requires_grad_(True)
        moments = torch.randn(2 * VIEWS, 2 * LATENTS[0], *LATENTS[1:], generator=torch.Generator().manual_seed(5))
        moments[:, LATENTS[0] :] = 0.1
        return trained(module, TrainBatch(self.batch(module.host, self.words()), moments=moments), steps, start)


def fresh_is_identity(case: Case) -> None:
    """A fresh tuner changes nothing, bit for bit; one with words, nothing for prompts without them.

    One that is made of files begins as what they are, and is not looked at.
    """
    if case.host(used=False).tuner(NAME).sources:
        return
    prompts = ["a rainy day"] + ([] if case.made().words else [case.words()])
    for prompt in prompts:
        assert torch.equal(case.run(case.host(used=False), prompt), case.run(case.bare(), prompt)), (
            f"a fresh tuner changes what is predicted for {prompt!r}"
        )


def has_an_effect(case: Case) -> None:
    """With other numbers it changes the prediction; scale 0 is its absence bit for bit."""
    host = case.host()
    there = case.run(host, case.words())
    assert not torch.equal(there, case.run(case.host(used=False), case.words())), "its numbers have no effect on the prediction"
    host.tuner(NAME).scale = 0.0
    assert torch.equal(case.run(host), case.run(case.bare())), "with scale 0 it still has an effect"


def detaches_bit_for_bit(case: Case) -> None:
    """Taken out, it leaves the very layers that were there; put in again, it is as before."""
    host = case.bare()
    layers, prompt = dict(host.named_modules()), case.words()
    values = {name: value.clone() for name, value in host.state_dict().items()}
    before = case.run(host, prompt)
    host.add_tuner(NAME, case.made())
    randomize(host.tuner(NAME), 7)
    during = case.run(host, prompt)
    tuner = host.remove_tuner(NAME)
    after = dict(host.named_modules())
    assert layers.keys() == after.keys(), "the networks have other layers than before"
    assert all(after[name] is layer for name, layer in layers.items()), "a layer was replaced"
    changed = [name for name, value in host.state_dict().items() if not torch.equal(value, values[name])]
    assert not changed, f"{changed[0]} was written to"
    assert torch.equal(case.run(host, prompt), before), "without it the prediction is another than before it came"
    host.add_tuner(NAME, tuner)
    assert torch.equal(case.run(host, prompt), during), "put in again it does something else"


def owns_its_parameters(case: Case) -> None:
    """Nothing of it is in a network or a plugin, and it holds nothing of theirs."""
    host, bare = case.host(), case.bare()
    for part in ("backbone", "plugins"):
        own, others = getattr(host, part), getattr(bare, part)
        assert own.state_dict().keys() == others.state_dict().keys(), f"its parameters are in the {part}"
    theirs = {id(p) for part in (host.backbone, host.plugins) for p in part.parameters()}
    borrowed = [name for name, p in host.tuner(NAME).named_parameters() if id(p) in theirs]
    assert not borrowed, f"{borrowed[0]} is a parameter of a network, and would be trained and saved with the tuner"
    assert list(host.tuner(NAME).parameters()), "it has no parameters"


def trains_alone(case: Case) -> None:
    """A training moves it, and leaves networks and plugins bit for bit as they were."""
    module, _ = case.trained(3)
    fresh = case.host(used=False)
    for part in ("backbone", "plugins"):
        values, now = (getattr(host, part).state_dict() for host in (fresh, module.host))
        moved = [name for name, value in now.items() if not torch.equal(value, values[name])]
        assert not moved, f"a training of the tuner moves {part}.{moved[0]}"
    values = dict(fresh.tuner(NAME).named_parameters())
    still = [name for name, p in module.host.tuner(NAME).named_parameters() if p.requires_grad and torch.equal(p, values[name])]
    assert not still, f"three steps leave {still[0]} where it was: no gradient reaches it"
    module.host.remove_tuner(NAME)
    what = "after a training, without it, against before it came"
    close(case.run(module.host.eval(), case.words()), case.run(case.bare(), case.words()), what)


def saved_is_loaded(case: Case) -> None:
    """A fresh tuner that loads what another saved predicts the same, to 1e-5; the folder holds that file alone."""
    host, fresh = case.host(), case.host(used=False)
    with tempfile.TemporaryDirectory() as folder:
        file = host.tuner(NAME).save(Path(folder) / "new")
        there = sorted(path.name for path in file.parent.iterdir())
        assert file.parent == Path(folder) / "new", f"it is told to write into a folder, and writes {file}"
        assert there == [file.name], f"save writes {', '.join(there)}; it writes one file, which it returns"
        for source in (file, file.parent):
            randomize(fresh.tuner(NAME), 9)
            fresh.tuner(NAME).load(source)
            close(case.run(fresh, case.words()), case.run(host, case.words()), f"loaded from {source.name} against saved")


def refuses_other_files(case: Case) -> None:
    """A file that is damaged or of another layout is refused by an InputError, and nothing has changed then."""
    from drivegen.support import weights

    host = case.host()
    before = case.run(host, case.words())
    with tempfile.TemporaryDirectory() as folder:
        damaged, other, missing = (Path(folder) / f"{name}.safetensors" for name in ("damaged", "other", "missing"))
        damaged.write_bytes(b"\x08\0\0\0\0\0\0\0{")
        weights.save_state({"something.of.another.kind": torch.ones(2)}, other)
        for path in (damaged, other, missing):
            try:
                host.tuner(NAME).load(path)
            except InputError:
                continue
            raise AssertionError(f"a {path.stem} file is not refused by an InputError")
    assert torch.equal(case.run(host, case.words()), before), "a refused file has changed it"


def composes_with_plugins(case: Case) -> None:
    """Plugins that come before it or after it predict the same beside it."""
    before, after = case.host(), replace(case, others={}).host()
    for name, kind in case.others.items():
        case.plug(after, name, kind)
    close(case.run(after.eval(), case.words()), case.run(before, case.words()), "plugins after the tuner against before it")


def twins_copy_it_alone(case: Case) -> None:
    """A twin of the host has its own copy of the tuner, and shares all that is frozen."""
    host = case.host()
    other = twin(host)
    assert torch.equal(case.run(other, case.words()), case.run(host, case.words())), "a twin predicts something else"
    own = {id(p) for p in host.tuner(NAME).parameters()}
    shared = [name for name, p in other.tuner(NAME).named_parameters() if id(p) in own]
    assert not shared, f"a twin has no {shared[0]} of its own"
    before = case.run(host, case.words())
    randomize(other.tuner(NAME), 11)
    assert torch.equal(case.run(host, case.words()), before), "a twin's numbers act in the host"
    assert not torch.equal(case.run(other, case.words()), before), "a twin's numbers have no effect in it"


def steps_and_resumes(case: Case) -> None:
    """Four steps are the same as two, a checkpoint, and two more from a fresh start, bit for bit."""
    _, whole = case.trained(4)
    _, half = case.trained(2)
    assert all(name.startswith(f"host.tuners.{NAME}.") for name in whole["state_dict"]), (
        "a checkpoint holds more than the tuner"
    )
    different = differences(whole, case.trained(4, half)[1])
    assert not different, f"a resumed run differs in {different[:3]}"


def options_are_plain(case: Case) -> None:
    """Options are JSON values, with which it is made again, and unknown ones are refused."""
    made = case.made()
    again = construct_plugin(case.tuner, json.loads(json.dumps(made.config)), "saved options")
    assert again.config == json.loads(json.dumps(made.config)) or again.config == made.config, "other options come back"
    refused(lambda: construct_plugin(case.tuner, {**case.options, "option_of_nobody": 1}, "options"), "an unknown option")


CHECKS: dict[str, Callable[[Case], None]] = {
    check.__name__: check
    for check in (
        fresh_is_identity, has_an_effect, detaches_bit_for_bit, owns_its_parameters, trains_alone, saved_is_loaded,
        refuses_other_files, composes_with_plugins, twins_copy_it_alone, steps_and_resumes, options_are_plain,
    )
}  # fmt: skip
"""The battery, by name."""

"""From frames to images: the interface for callers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from drivegen.host.batch import neighbours_wanted
from drivegen.host.confined import Reach
from drivegen.host.host import Host
from drivegen.pipeline.denoise import denoise, noise_of
from drivegen.pipeline.derived import again, inverting
from drivegen.pipeline.plan import Plan, check, plans
from drivegen.pipeline.refining import REFINE_FROM, check_refiner
from drivegen.pipeline.settings import GenerationSettings, UsedSettings
from drivegen.pipeline.views import Views
from drivegen.plugin import Plugin
from drivegen.saved.card import fingerprint
from drivegen.saved.fast import student
from drivegen.saved.integrity import FAST
from drivegen.saved.model import Model, load
from drivegen.saved.sharing import Extensions
from drivegen.scene import Frame
from drivegen.support import runtime
from drivegen.support.errors import InputError
from drivegen.support.turns import computing
from drivegen.support.values import file_path, text, whole, yes_or_no


class Pipeline:
    """A model that generates the images that a frame's cameras would see.

    ``Pipeline(model)`` uses the model's host as it is: its device, its dtype, its weights (so a training run can generate with
    its own); `from_pretrained` loads one and chooses. `extensions` manages plugins, LoRAs and words that are added to the model
    and removed again; its methods are the pipeline's too. Several threads may use one pipeline, or several pipelines one model:
    they take turns.
    """

    def __init__(self, model: Model) -> None:
        if not isinstance(model, Model):
            raise InputError(f"a pipeline needs a drivegen.Model, not {model!r:.80}; Pipeline.from_pretrained loads one")
        self.extensions = Extensions(model)

    @classmethod
    def from_pretrained(
        cls, source: str | Path = "tiny", device: str | torch.device = "auto", dtype: str | torch.dtype = "auto",
        offload: bool = False, config_folder: str | Path | None = None, vae: str | Path | None = None,
        variant: str | None = None, prediction_type: str | None = None, refiner: str | Path | None = None,
        fast: bool = False,
    ) -> Pipeline:  # fmt: skip
        """Load a model.

        Args:
            source: "tiny" (the embedded model), a model folder, a diffusers folder or a single-file checkpoint.
            device: "auto" is CUDA, then Metal, then the CPU.
            dtype: "auto" is bfloat16 where the processor has it, else float32.
            offload: keeps each network in main memory until it is used; it needs a GPU.
            config_folder: a diffusers folder that says how the networks of a single file are built.
            vae: folder or file of a VAE that replaces the model's own; None keeps that.
            variant: which weight files of a folder to take where it has several, such as "fp16".
            prediction_type: "epsilon", "v_prediction" or "sample", where a model does not say it, or wrongly.
            refiner: folder or file of a second model that computes the last steps (`refine_from`); None for none.
            fast: takes the model's student of few steps (`saved.fast`), a LoRA with settings of its own.
        """
        target = runtime.choose_device(device)
        number = runtime.choose_dtype(dtype, target)
        offload, fast = yes_or_no(offload, "offload"), yes_or_no(fast, "fast")
        for what, given in (("source", source), ("config_folder", config_folder), ("vae", vae), ("refiner", refiner)):
            if given is not None or what == "source":
                file_path(given, f"{what} of a pipeline:")
        for what, word in (("variant", variant), ("prediction_type", prediction_type)):
            if word is not None:
                text(word, what)
        with runtime.float32_by_default():
            model = load(source, config_folder=config_folder, vae=vae, variant=variant, prediction_type=prediction_type)
            second = None if refiner is None else check_refiner(model, load(refiner))
        if second is not None and not second.digest:
            second = replace(second, digest=fingerprint(second.host.backbone.unet))
        found = student(model) if fast else None
        for host in (model.host, *(() if second is None else (second.host,))):
            runtime.convert(host, number)
            host.to(memory_format=torch.channels_last)
            if offload:
                runtime.offload(host, target)
            else:
                host.to(target)
        if found is None:
            return cls(replace(model, refiner=second))
        pipe = cls(replace(model, refiner=second, sampling=found.sampling))
        pipe.load_lora(found.folder, name=FAST)
        return pipe

    # -- generation --------------------------------------------------------------------------------------------------

    @overload
    def __call__(self, frames: Frame, settings: GenerationSettings | None = None, **overrides: Any) -> Views: ...

    @overload
    def __call__(
        self, frames: Sequence[Frame], settings: GenerationSettings | None = None, **overrides: Any
    ) -> list[Views]: ...

    def __call__(
        self, frames: Frame | Sequence[Frame], settings: GenerationSettings | None = None, **overrides: Any
    ) -> Views | list[Views]:
        """Generate the views of one frame, or a list of them for a list of frames or with `repeats`; as `generate` does."""
        made = list(self.generate(frames, settings, **overrides))
        return made[0] if isinstance(frames, Frame) and len(made) == 1 else made

    def generate(
        self, frames: Frame | Sequence[Frame], settings: GenerationSettings | None = None, **overrides: Any
    ) -> Iterator[Views]:
        """Yield the views of each frame as they are done; frames are generated one by one, so that none depends on the others.

        Raises InputError at once for settings that do not fit the model, and for a frame that cannot be generated when it is
        reached.

        Args:
            frames: one frame, or a sequence whose items are read one at a time.
            settings: `Views.settings` of an earlier generation may be used too; None is the model's defaults.
            overrides: options that replace those of the settings, by the names of `GenerationSettings` or diffusers'
                (num_inference_steps, guidance_scale, num_images_per_prompt).
        """
        planned = self.plans(frames, self.settings(settings, **overrides))
        # Whatever is wrong with the settings is raised here, and not when the first result is asked for.
        return (self.run(plan) for plan in planned)

    def settings(self, settings: GenerationSettings | None = None, **overrides: Any) -> GenerationSettings:
        """Return settings with overrides, checked against this model; see `generate`."""
        if settings is None:
            settings = GenerationSettings()
        if not isinstance(settings, GenerationSettings):
            raise InputError(f"settings {settings!r:.80} must be a drivegen.GenerationSettings; options are given by name")
        found = again(settings, overrides).replaced(**overrides)
        check(self.model, found, self._reaches(found))
        return found

    def _reaches(self, settings: GenerationSettings) -> dict[str, Reach]:
        """Return what LoRAs and tuners change, looked up for those that are held to steps or places."""
        return self.extensions.reaches({*(settings.ranges or {}), *(settings.regions or {})})

    def plans(self, frames: Frame | Sequence[Frame], settings: GenerationSettings) -> Iterator[Plan]:
        """Plan generations without running them: `generate` runs each.

        Raises InputError at once for what is wrong whatever the frame. Threads take turns here too: plugins prepare the frame.
        """
        planned = plans(self.model, frames, settings, self._reaches(settings))

        def in_turn() -> Iterator[Plan]:
            while True:
                with computing(self.host.backbone.unet):
                    plan = next(planned, None)
                if plan is None:
                    return
                yield plan

        return in_turn()

    def run(self, plan: Plan, progress: Any = None) -> Views:
        """Generate the views of a plan; progress(step) is called after each step."""
        callback = plan.settings.callback_on_step_end

        def after(i: int, t: Tensor, x: Tensor) -> Any:
            changed = callback(self, i, t, {"latents": x}) if callback is not None else None
            if progress is not None:
                progress(i + 1)
            return changed

        with computing(self.host.backbone.unet):
            used = self.used(plan)
            values = denoise(self.model, self._arranged(plan), after)
        return Views(plan.frame, dict(zip(plan.frame.channels, values, strict=True)), used)

    def invert(
        self, frame: Frame, settings: GenerationSettings | None = None, iterations: int = 4, **overrides: Any
    ) -> Views:  # fmt: skip
        """Find the noise from which the sampler `ddim` makes a frame's pictures: latents (C, h, w) by camera.

        ``pipe(frame, found.settings, latents=found)`` makes the pictures again; with another prompt, guidance, or frame what
        they have in common stays. Raises InputError for settings that do not go with it.

        Args:
            frame: its recorded pictures are taken, unless `image` gives others.
            settings: how the pictures are made of the noise; guidance and agreement are off unless they are given.
            iterations: evaluations of the network per step; more come nearer (`drivegen.sampling.invert`).
            overrides: options in place of the settings'.
        """
        iterations = whole(iterations, "iterations of invert", 1, 100)
        if not isinstance(frame, Frame):
            raise InputError(f"invert takes one drivegen.scene.Frame, not {type(frame).__name__}")
        (plan,) = self.plans(frame, inverting(self.settings(settings, **overrides)))
        with computing(self.host.backbone.unet):
            values = noise_of(self.model, self._arranged(plan), iterations)
        back = replace(plan, pictures=None, settings=replace(plan.settings, image=None))
        return Views(plan.frame, dict(zip(plan.frame.channels, values, strict=True)), self.used(back))

    def _arranged(self, plan: Plan) -> Plan:
        """Let LoRAs act each by itself where the plan holds one of them to steps or places, else as one."""
        return replace(plan, apart=self.extensions.arranged(plan.confined))

    def used(self, plan: Plan) -> UsedSettings:
        """Return the settings of a plan with the model's defaults filled in."""
        s, sampling = plan.settings, plan.sampling
        given = {f.name: getattr(s, f.name) for f in fields(GenerationSettings)}
        return UsedSettings(**given | {
            "prompt": plan.frame.description, "negative_prompt": s.negative_prompt or "", "seed": plan.seed, "repeats": 1,
            "generator": None, "sampler": sampling.sampler, "steps": sampling.steps, "guidance": sampling.guidance,
            "guidance_rescale": sampling.guidance_rescale, "guidance_range": sampling.guidance_range,
            "noise": sampling.noise, "agreement": sampling.agreement, "sampler_options": dict(sampling.sampler_options),
            "scales": {name: float((s.scales or {}).get(name, 1.0)) for name in self.host.plugins},
            "ranges": dict(s.ranges or {}), "strength": plan.strength, "size": plan.size, "loras": self.loras,
            "refine_from": None if plan.refinement is None else REFINE_FROM if s.refine_from is None else s.refine_from,
            "refiner": "" if plan.refinement is None else plan.refinement.model.digest or "given",
            "words": self.words, "tuners": self.tuners, "vae": str(self.model.about.get("vae", "")),
            "dtype": str(self.dtype).removeprefix("torch."), "device": str(self.device), "threads": torch.get_num_threads(),
        })  # fmt: skip

    @property
    def neighbours(self) -> tuple[float, float]:
        """Seconds of past and future that the plugins read: ``data.frame_with_neighbours(token, *pipe.neighbours)``."""
        return neighbours_wanted({name: self.host.plugin(name) for name in self.host.plugins})

    def ignored(self, frame: Frame) -> tuple[str, ...]:
        """Name what the frame holds that a model with text alone cannot use."""
        if any(not getattr(self.host.plugin(name), "takes_prompt", False) for name in self.host.plugins):
            return ()
        held = {"cameras": True, "boxes": bool(frame.boxes), "map": frame.map is not None}
        return tuple(name for name, there in held.items() if there)

    # -- the model, and what is put into it ----------------------------------------------------------------------------

    @property
    def model(self) -> Model:
        """The model, with the plugins that were added."""
        return self.extensions.model

    @property
    def host(self) -> Host:
        """The model's networks and plugins."""
        return self.model.host

    @property
    def device(self) -> torch.device:
        """The device that the networks compute on."""
        return self.extensions.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the UNet's weights."""
        return self.extensions.dtype

    @property
    def loras(self) -> dict[str, float]:
        """Scales of the active LoRAs, by name."""
        return self.extensions.loras

    def add_plugin(
        self, source: str | Path, name: str | None = None, kind: str | None = None,
        components: Mapping[str, str | Path] | None = None, options: Mapping[str, Any] | None = None,
    ) -> str:  # fmt: skip
        """Attach a plugin that was saved alone, and return its name here; see `Extensions.add_plugin`.

        Args:
            source: its folder, a released weight file or folder, or its id (user/name) on the hub.
            name: its name here; None = its own, or its kind.
            kind: its kind; None = what the source says or looks like.
            components: folders of networks that it requires, by name; None looks in the model's folder and beside the source.
            options: constructor arguments for released weights; None for none.
        """
        return self.extensions.add_plugin(source, name, kind, components, options)

    def remove_plugin(self, name: str) -> Plugin:
        """Detach a plugin, and restore the model without it; returns the plugin."""
        return self.extensions.remove_plugin(name)

    def save_plugin(self, name: str, folder: str | Path, dtype: str | torch.dtype | None = None) -> Path:
        """Write one plugin as a folder of its own, which `add_plugin` reads; see `Extensions.save_plugin`.

        Args:
            name: the plugin's name.
            folder: a new one, or a plugin's, which is overwritten.
            dtype: of the weights; None keeps theirs.
        """
        return self.extensions.save_plugin(name, folder, dtype)

    def push_to_hub(self, name: str, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Publish one plugin on the hub, and return its address; see `Extensions.push_to_hub`.

        Args:
            name: the plugin's name.
            repo_id: user/name.
            private: whether others cannot see it.
            token: an access token; None = the user's login.
        """
        return self.extensions.push_to_hub(name, repo_id, private, token)

    def load_lora(self, source: str | Path, scale: float = 1.0, name: str | None = None) -> str:
        """Add a LoRA file to the UNet and text encoder, and return its name; see `Extensions.load_lora`.

        Args:
            source: the file, or a folder with one.
            scale: multiplies its term, -100 to 100.
            name: its name here; None = the file's.
        """
        return self.extensions.load_lora(source, scale, name)

    def unload_lora(self, name: str | None = None) -> None:
        """Remove one LoRA, or all of them (None)."""
        self.extensions.unload_lora(name)

    @property
    def tuners(self) -> dict[str, float]:
        """Scales of the tuners that were loaded, by name."""
        return self.extensions.tuners

    def load_tuner(self, source: str | Path, scale: float = 1.0, name: str | None = None) -> str:
        """Put a hypernetwork, Custom Diffusion or another tuner in, and return its name; see `Extensions.load_tuner`.

        Args:
            source: the file, or a folder with one.
            scale: how much of it counts, from -100 to 100.
            name: its name here; None = the file's.
        """
        return self.extensions.load_tuner(source, scale, name)

    def unload_tuner(self, name: str | None = None) -> None:
        """Remove one tuner that was loaded, or all of them (None)."""
        self.extensions.unload_tuner(name)

    @property
    def words(self) -> dict[str, int]:
        """How many vectors each word has that the text encoder was taught."""
        return self.extensions.words

    def load_embedding(self, source: str | Path, word: str | None = None) -> tuple[str, ...]:
        """Teach the text encoder the words of a textual inversion, and return them; see `Extensions.load_embedding`.

        Args:
            source: the file, or a folder with one.
            word: what prompts shall have for it; None = what the file says, or its name.
        """
        return self.extensions.load_embedding(source, word)

    def unload_embedding(self, word: str | None = None) -> None:
        """Forget one word that was loaded by itself, or all of them (None)."""
        self.extensions.unload_embedding(word)

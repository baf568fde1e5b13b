"""What is put into a loaded model's own networks, and taken out again: LoRAs, other tuners, words for the text encoder."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from drivegen import lora, words
from drivegen.host.confined import Reach
from drivegen.host.host import Host
from drivegen.lora import LoRA
from drivegen.saved import tuners
from drivegen.saved.brought import named
from drivegen.saved.integrity import digest_of
from drivegen.saved.model import Model
from drivegen.support import files, runtime
from drivegen.support.errors import InputError
from drivegen.support.names import check_name
from drivegen.support.turns import changing, unchanged_inside
from drivegen.support.values import file_path, number, text


@dataclass(frozen=True, eq=False)
class Loaded:
    """An active LoRA: its matrices and scale, and the content of its file."""

    lora: LoRA
    scale: float
    sha256: str


class Inside:
    """Adds and removes LoRAs, other tuners and words; after each is removed the host is bit for bit as before.

    A change waits until no other thread generates with the model, and is refused inside a generation's callback.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._loras: dict[str, Loaded] = {}
        self._words: dict[str, str] = {}
        """The sha256 of the file of each word that was loaded by itself."""
        self._apart: dict[str, str] = {}
        """Names of the host's tuners by those of the LoRAs, where they act each by itself."""
        self._tuners: dict[str, tuple[str, tuple[str, ...]]] = {}
        """The sha256 of the file of each tuner that was loaded, and the words that came with it."""

    @property
    def host(self) -> Host:
        """The model's host."""
        return self.model.host

    @property
    def device(self) -> torch.device:
        """The device that the networks compute on."""
        return runtime.device_of(self.host.backbone.unet)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the UNet's weights."""
        return next(self.host.backbone.unet.parameters()).dtype

    @property
    def loras(self) -> dict[str, float]:
        """Scales of the active LoRAs, by name."""
        return {name: loaded.scale for name, loaded in self._loras.items()}

    @property
    def tuners(self) -> dict[str, float]:
        """Scales of the tuners that were loaded, by name."""
        return {name: self.host.tuner(name).scale for name in self._tuners}

    @property
    def words(self) -> dict[str, int]:
        """How many vectors each word has that the text encoder was taught: by its own file, a LoRA's, or a tuner."""
        return words.known(self.host.backbone)

    @property
    def sha256(self) -> dict[str, str]:
        """Hashes of the files of what was added, which is not in the model's own folder, by name."""
        return {
            **{name: loaded.sha256 for name, loaded in self._loras.items()},
            **self._words,
            **{name: sha256 for name, (sha256, _) in self._tuners.items()},
        }

    def load_lora(self, source: str | Path, scale: float = 1.0, name: str | None = None) -> str:
        """Put a LoRA file (kohya, PEFT or diffusers) into the UNet and text encoder, and return its name.

        Several add up. Raises InputError, and changes nothing, where it does not fit.

        Args:
            source: the file, or a folder with one.
            scale: what its term is multiplied by, from -100 to 100.
            name: its name here, which replaces one of that name; None = the file's, with a number where another file has it.
                A LoRA that is in already, from this file or a copy of it, is then replaced, not added twice.
        """
        scale = number(scale, "scale of a LoRA:", -100, 100)
        path = file_path(source, "source of a LoRA")
        name = None if name is None else text(name, "name of a LoRA")
        with named(path, "--lora"):
            found = lora.read(path)
        sha256 = files.sha256(lora.find(path))
        with changing(self.host.backbone.unet, "load a LoRA"):
            name = name or self._lora_name(path, sha256)
            before = dict(self._loras)
            self._loras[name] = Loaded(found, scale, sha256)
            try:
                self._apply()
            except InputError:
                self._loras = before
                self._apply()
                raise
        return name

    def _lora_name(self, source: Path, sha256: str) -> str:
        """Name a LoRA by its file, whose own name many others share; the same content keeps the name that it has."""
        for name, loaded in self._loras.items():
            if loaded.sha256 == sha256:
                return name
        stem = source.name if source.is_dir() else lora.find(source).resolve().stem
        taken = (stem, *(f"{stem}_{i}" for i in range(2, len(self._loras) + 2)))
        return next(name for name in taken if name not in self._loras)

    def unload_lora(self, name: str | None = None) -> None:
        """Remove one LoRA, or all of them (None); the original layers are then in place again."""
        if name is not None and (not isinstance(name, str) or name not in self._loras):
            raise InputError(f"there is no LoRA {name!r:.80} in this model; it has {', '.join(self._loras) or 'none'}")
        with changing(self.host.backbone.unet, "take a LoRA out"):
            self._loras = {} if name is None else {n: v for n, v in self._loras.items() if n != name}
            self._apply()

    def _apply(self, apart: bool = False) -> None:
        self._apart = {}
        there = {name: one for name, one in self._loras.items() if one.scale != 0}
        if apart:
            self._apart = lora.apply_apart(self.host, [(name, one.lora, one.scale) for name, one in there.items()])
            for name in self._apart.values():
                self.host.tuner(name).eval()
        else:
            lora.apply(self.host, [(one.lora, one.scale) for one in there.values()])

    def reaches(self, names: Collection[str]) -> dict[str, Reach]:
        """Return what each LoRA and each tuner changes, by name; it is looked up for those of some names alone."""
        found = {name: Reach.of(self.host.tuner(name)) for name in self.host.tuners if name not in self._apart.values()}
        nothing = dict.fromkeys(self._loras, Reach(()))
        return (
            found
            | nothing
            | {name: Reach(lora.changed_layers(self.host, one.lora)) for name, one in self._loras.items() if name in names}
        )

    def arranged(self, names: Collection[str]) -> dict[str, str]:
        """Let LoRAs act each by itself where one of the names is a LoRA's, else as one; nothing changes that is so already.

        For a generation whose turn it is. Returns the names of the host's tuners by the LoRAs'. Raises InputError where it
        would change the networks inside another generation.
        """
        apart = any(name in self._loras for name in names)
        if apart != bool(self._apart):
            unchanged_inside(self.host.backbone.unet, "let LoRAs act apart from each other, or together again,")
            self._apply(apart)
        return self._apart

    def load_tuner(self, source: str | Path, scale: float = 1.0, name: str | None = None) -> str:
        """Put a hypernetwork, Custom Diffusion or another tuner into the networks, and return its name.

        A folder of Custom Diffusion brings its words, too. Several add up. Raises InputError, and changes nothing, where it
        does not fit.

        Args:
            source: the file, or a folder with one.
            scale: how much of it counts, from -100 to 100.
            name: its name here; None = the file's, with a number where another has it.
        """
        scale = number(scale, "scale of a tuner:", -100, 100)
        path = file_path(source, "source of a tuner")
        name = None if name is None else text(name, "name of a tuner")
        with named(path, "--tuner"):
            tuner, file = tuners.make(path)
        with changing(self.host.backbone.unet, "load a tuner"):
            name = name or _free_name(path, set(self.host.tuners))
            self.host.add_tuner(name, tuner)
            brought: list[str] = []
            try:
                tuner.load(file)
                tuner.to(self.device).requires_grad_(False).eval()
                tuner.scale = scale
                for word_file in sorted(path.glob("<*>.*")) if file.is_dir() else ():
                    brought += self.load_embedding(word_file)
                self._tuners[name] = (_sha256(file), tuple(brought))
            except InputError:
                self._forget(brought)
                self.host.remove_tuner(name)
                raise
        return name

    def unload_tuner(self, name: str | None = None) -> None:
        """Remove one tuner that was loaded, or all of them (None), with the words that came with them."""
        if name is not None and (not isinstance(name, str) or name not in self._tuners):
            raise InputError(f"there is no tuner {name!r:.80} that was loaded; there are {', '.join(self._tuners) or 'none'}")
        with changing(self.host.backbone.unet, "take a tuner out"):
            for gone in list(self._tuners) if name is None else [name]:
                self.host.remove_tuner(gone)
                self._forget([word for word in self._tuners.pop(gone)[1] if word in self._words])

    def _forget(self, gone: Sequence[str]) -> None:
        words.forget(self.host.backbone, gone)
        self._words = {name: sha256 for name, sha256 in self._words.items() if name not in gone}

    def load_embedding(self, source: str | Path, word: str | None = None) -> tuple[str, ...]:
        """Teach the text encoder the words of a textual inversion, and return them; prompts may then have them.

        Prompts without them give the same pictures as before, bit for bit. Raises InputError, and changes nothing, for a file
        of anything else, for vectors of another width, and for a word that is there already.

        Args:
            source: the file (diffusers', AUTOMATIC1111's or ComfyUI's), or a folder with one.
            word: what prompts shall have for it; None = what the file says, or its name where it says nothing.
        """
        path = file_path(source, "source of an embedding")
        word = None if word is None else text(word, "word of an embedding")
        with named(path, "--embedding"):
            found = words.read(path, word)
        sha256 = files.sha256(words.find(path))
        with changing(self.host.backbone.unet, "load an embedding"):
            try:
                words.teach(self.host.backbone, found.words, found.second)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
            self._words |= dict.fromkeys(found.words, sha256)
        return tuple(found.words)

    def unload_embedding(self, word: str | None = None) -> None:
        """Forget one word that was loaded by itself, or all of them (None); a LoRA's words go with the LoRA."""
        if word is not None and (not isinstance(word, str) or word not in self._words):
            there = ", ".join(self._words) or "none"
            raise InputError(f"there is no word {word!r:.80} that was loaded by itself; there are {there}")
        with changing(self.host.backbone.unet, "take a word out"):
            self._forget(list(self._words) if word is None else [word])


def _free_name(source: Path, taken: Container[str]) -> str:
    """Name a tuner by its file or folder, as far as that can be an identifier."""
    stem = re.sub(r"\W", "_", source.name if source.is_dir() else source.stem)
    names = (one + number for number in ("", *(f"_{i}" for i in range(2, 1000))) for one in (stem, f"tuner_{stem}"))
    for name in names:
        try:
            check_name(name, "tuner")
        except InputError:
            continue
        if name not in taken:
            return name
    raise InputError(f"{source} gives no name; give one with name=")


def _sha256(source: Path) -> str:
    """Hash a file, or the weight files of a folder together."""
    if source.is_file():
        return files.sha256(source)
    return digest_of({path.name: files.sha256(path) for path in sorted(source.iterdir()) if path.is_file()})

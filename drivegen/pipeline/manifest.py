"""manifest.jsonl: one line per image, with everything needed to generate it again and to compare the result."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drivegen.pipeline.settings import UsedSettings
from drivegen.pipeline.views import SHEETS
from drivegen.saved.index import library_versions
from drivegen.saved.integrity import digest_of, weight_files
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from drivegen.support.files import sha256, write_atomically
from drivegen.support.names import check_file_name

NAME = "manifest.jsonl"
_EVERY_S = 5.0


class Manifest:
    """The manifest of an output folder; frames that are generated again replace their old lines.

    It is rewritten atomically, at most every few seconds and when closed (it is a context manager).
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self._lines: dict[str, list[dict[str, Any]]] = {}
        if self.path.exists() and not self.path.is_file():
            raise InputError(f"{self.path} is no file; move it away, or choose another output")
        if self.path.exists():
            for number, text in enumerate(self.path.read_bytes().splitlines(), 1):
                try:
                    line = json.loads(text)
                    line["sample_token"]
                    self._lines.setdefault(Path(line["file"]).parent.as_posix(), []).append(line)
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(f"{self.path}, line {number} is not a manifest's; move the file away") from error
        self._written = time.monotonic()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *error: object) -> None:
        self.write()

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Add the lines of one generation, which replace those of its folder."""
        self._lines[Path(lines[0]["file"]).parent.as_posix()] = lines
        if time.monotonic() - self._written > _EVERY_S:
            self.write()

    def holds(
        self, folder: Path, token: str, channels: tuple[str, ...], common: Mapping[str, Any], sheets: Sequence[str] = SHEETS
    ) -> bool:  # fmt: skip
        """Tell whether the pictures of a generation exist, were made with the same settings, and are complete.

        Args:
            folder: where they would be.
            token: the frame's.
            channels: its cameras.
            common: of `made_by`.
            sheets: names of the files that are beside the pictures.
        """
        lines = self._lines.get(folder.relative_to(self.folder).as_posix(), [])
        if [line.get("camera") for line in lines] != list(channels) or not all((folder / sheet).is_file() for sheet in sheets):
            return False
        expected = _on_any_of_its_kind(json.loads(json.dumps({"sample_token": token, **common})))
        for line in lines:
            path = self.folder / str(line["file"])
            made = {key: value for key, value in line.items() if key not in ("camera", "file", "sha256")}
            if _on_any_of_its_kind(made) != expected or not path.is_file() or sha256(path) != line.get("sha256"):
                return False
        return True

    def write(self) -> None:
        """Write the file."""
        lines = [json.dumps(line, ensure_ascii=False) for group in self._lines.values() for line in group]
        if lines:
            write_atomically(self.path, ("\n".join(lines) + "\n").encode())
        self._written = time.monotonic()


def _on_any_of_its_kind(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line without the device's number: frames that devices share may go to another one the next time."""
    return {**line, "device": str(line.get("device")).split(":")[0]}


def model_facts(model: Model, added: Mapping[str, str]) -> dict[str, Any]:
    """Describe the weights by their hashes; reads the files of a folder that states none.

    Args:
        model: the model.
        added: hashes of plugins and LoRAs that are not in the model's own folder, by name.
    """
    digest, folder = model.digest, model.folder
    if not digest and folder is not None:
        names = weight_files(folder) if folder.is_dir() else [""]
        digest = digest_of({name: sha256(folder / name) for name in names})
    return {"model": str(folder or ""), "model_sha256": digest, "added_sha256": dict(added)}


def made_by(used: UsedSettings, model: Mapping[str, Any], conditions: str) -> dict[str, Any]:
    """Return what all images of one generation have in common: the model, every setting, the inputs.

    Args:
        used: the settings.
        model: of `model_facts`.
        conditions: the plan's digest.
    """
    return {**model, **used.to_dict(), "conditions_sha256": conditions, "versions": library_versions()}


def describe(
    token: str, channels: Iterable[str], folder: Path, root: Path, common: Mapping[str, Any]
) -> list[dict[str, Any]]:  # fmt: skip
    """Return a line for each image of a generation that was saved.

    Args:
        token: the frame's.
        channels: its cameras.
        folder: where they were saved.
        root: the output folder, to which paths in the manifest are relative.
        common: what `made_by` says.
    """
    lines = []
    for channel in channels:
        path = folder / f"{check_file_name(channel, 'camera')}.png"
        name = path.relative_to(root).as_posix()
        lines.append({"sample_token": token, "camera": channel, "file": name, "sha256": sha256(path), **common})
    return lines

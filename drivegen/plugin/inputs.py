"""The inputs that a caller may give a plugin: declared by its class, listed for users, checked and converted for `prepare`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from drivegen.scene import Frame
from drivegen.scene.pictures import user_image
from drivegen.support.errors import InputError, nearest
from drivegen.support.values import number

InputType = Literal["text", "number", "picture", "array", "json", "file"]

TYPES: Mapping[str, str] = {
    "text": "text",
    "number": "a number",
    "picture": "a PIL image, an array (H, W) or (H, W, channels), or an image file",
    "array": "a numpy array, or a .npy file",
    "json": "JSON values, or a .json file",
    "file": "a file",
}
"""What may be given for each type, in words."""


@dataclass(frozen=True)
class Input:
    """One input that a caller may give a plugin.

    Args:
        name: its name, the key where a plugin takes several.
        type: one of `TYPES`; `prepare` gets text as str, a number as float, a picture as a PIL image of 8 bits or as the given
            array, an array as numpy's, JSON's values as they are, a file as an existing Path.
        what: a phrase for users: what it is, and its shape or unit.
        required: whether the plugin cannot work without it.
        per_camera: whether there is one for each camera, by channel; a folder of files named by channel may be given too.
        mode: what a picture is converted to, "L", "RGB" or "RGBA".
        masked: whether a picture may also be {"image": picture, "mask": picture}, of which `prepare` gets a dict of both; in a
            folder CHANNEL_mask is the mask of CHANNEL.
        read: the plugin's own conversion ``read(frame, value)``, which raises InputError for unsuitable values; for inputs with
            a grammar of their own, which the type then only names. It must be a module-level function, to be pickled. None uses
            the type's conversion.
    """

    name: str
    type: InputType
    what: str
    required: bool = False
    per_camera: bool = False
    mode: str = "RGB"
    masked: bool = False
    read: Callable[[Frame, Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise InputError(f"input {self.name!r} has the type {self.type!r}; there are {', '.join(TYPES)}")
        if not self.name.isidentifier():
            raise InputError(f"input name {self.name!r} must be an identifier (letters, digits, underscores)")

    @property
    def accepted(self) -> str:
        """What may be given, in words."""
        return f"per camera: {TYPES[self.type]}" if self.per_camera else TYPES[self.type]

    def converted(self, frame: Frame, value: Any) -> Any:
        """Check and convert a value; raises InputError that begins with this input's name."""
        if self.read is not None:
            return self.read(frame, value)
        if not self.per_camera:
            return self._one(value, self.name)
        channels = _by_channel(value, self, frame)
        return {channel: self._one(one, f"{self.name} of {channel}") for channel, one in channels.items()}

    def _one(self, value: Any, name: str) -> Any:
        if self.masked and isinstance(value, Mapping):
            for key in value:
                if key not in ("image", "mask"):
                    raise InputError(
                        f"{name} is given {key!r}{nearest(str(key), ('image', 'mask'))}; it has 'image' and 'mask'"
                    )
            if value.get("image") is None:
                raise InputError(f"{name} has a mask and no image; give {{'image': …, 'mask': …}}")
            both = {"image": _picture(value["image"], name, self.mode)}
            return both if value.get("mask") is None else both | {"mask": _picture(value["mask"], f"the mask of {name}", "L")}
        return _picture(value, name, self.mode) if self.type == "picture" else _CONVERTED[self.type](value, name)


def read_inputs(name: str, accepts: tuple[Input, ...] | None, frame: Frame, given: Any) -> Any:
    """Check and convert what a caller gave to a plugin, for its `prepare`; None stays None where nothing is required.

    A plugin with one input gets its value; one with several gets a dict by input name, and a value that is no mapping is its
    first input. Without a declaration the value passes as it is. Raises InputError, one sentence that names the plugin.

    Args:
        name: the plugin's instance name.
        accepts: the declaration, None = there is none.
        frame: the frame that it is given for.
        given: what was given.
    """
    if accepts is None:
        return given
    where = f"plugin {name!r}"
    if given is not None and not accepts:
        raise InputError(f"{where} takes no input, it reads the frame; leave out what is given to it")
    values = _by_name(where, accepts, given)
    for each in accepts:
        if each.required and values.get(each.name) is None:
            form = "…" if len(accepts) == 1 else f"{{{each.name!r}: …}}"
            raise InputError(
                f"{where} needs {each.name}, {each.what} ({each.accepted}), for frame {frame.token!r}; "
                f"give inputs={{{name!r}: {form}}}, or set its scale to 0"
            )
    if given is None:
        return None
    try:
        out = {each.name: each.converted(frame, values[each.name]) for each in accepts if values.get(each.name) is not None}
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return out.get(accepts[0].name) if len(accepts) == 1 else out


def _by_name(where: str, accepts: tuple[Input, ...], given: Any) -> dict[str, Any]:
    """Lay what was given out by the inputs' names."""
    if given is None:
        return {}
    names = [each.name for each in accepts]
    if len(accepts) == 1:
        return {names[0]: given}
    if not isinstance(given, Mapping):
        return {names[0]: given}
    for key in given:
        if key not in names:
            close = nearest(str(key), names)
            raise InputError(f"{where} takes no input {key!r}{close}; it takes {', '.join(names)}")
    return dict(given)


def _by_channel(value: Any, declared: Input, frame: Frame) -> dict[str, Any]:
    """Lay a mapping by channel, or a folder of files named by channel, out."""
    if isinstance(value, (str, Path)):
        folder = Path(value)
        if not folder.is_dir():
            raise InputError(
                f"{declared.name} is given per camera, as {{channel: …}} or a folder of files; {folder} is neither"
            )
        files = {path.stem: path for path in sorted(folder.iterdir()) if path.is_file()}
        value = {stem: path for stem, path in files.items() if stem in frame.channels}
        if declared.masked:
            masks = {stem: files[f"{stem}_mask"] for stem in value if f"{stem}_mask" in files}
            value |= {stem: {"image": value[stem], "mask": mask} for stem, mask in masks.items()}
        if not value:
            raise InputError(f"{declared.name}: {folder} has no file named by a camera; there are {', '.join(frame.channels)}")
    if not isinstance(value, Mapping):
        raise InputError(f"{declared.name} must be given per camera, as {{channel: …}}, not {described(value)}")
    for channel in value:
        if channel not in frame.channels:
            close = nearest(str(channel), frame.channels)
            cameras = ", ".join(frame.channels)
            raise InputError(
                f"{declared.name} is given for {channel!r}, which is no camera of the frame{close}; it has {cameras}"
            )
    return {channel: one for channel, one in value.items() if one is not None}


def described(value: Any) -> str:
    """Describe a value for a message: its type, and the shape and dtype of arrays or what short text says."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = "numpy array" if isinstance(value, np.ndarray) else type(value).__name__
        return f"a {kind} of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (str, Path, int, float)):
        return f"{type(value).__name__} {str(value)[:60]!r}"
    return "None" if value is None else f"{'an' if type(value).__name__[0] in 'AEIOaeio' else 'a'} {type(value).__name__}"


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, not {described(value)}")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, str):  # from the command line
        try:
            value = float(value)
        except ValueError:
            raise InputError(f"{name} must be a number, not the text {value[:60]!r}") from None
    return number(value, name)


def _picture(value: Any, name: str, mode: str) -> Any:
    if not isinstance(value, np.ndarray):
        return user_image(value, name, mode)
    if value.ndim not in (2, 3) or value.dtype.kind not in "biuf":
        raise InputError(f"{name} must be {TYPES['picture']}, not {described(value)}")
    return value


def _array(value: Any, name: str) -> np.ndarray:
    if isinstance(value, (str, Path)):
        path = Path(value).expanduser()
        try:
            loaded = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no .npy file of numbers"
            raise InputError(f"{name}: {path} cannot be read: {reason}") from error
        if not isinstance(loaded, np.ndarray):
            loaded.close()
            raise InputError(f"{name}: {path} holds several arrays; save the one as .npy")
        value = loaded
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise InputError(f"{name} must be {TYPES['array']}, not {described(value)}")
    return value


def _json(value: Any, name: str) -> Any:
    from drivegen.plugin.arguments import check_json

    if isinstance(value, Path) or (isinstance(value, str) and value.endswith(".json")):
        path = Path(value).expanduser()
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{name}: {path} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}: {path} is not JSON: {error}") from error
    elif isinstance(value, str):  # from the command line
        with contextlib.suppress(ValueError, RecursionError):  # text is a JSON value too
            value = json.loads(value)
    check_json(value, name)
    return value


def _file(value: Any, name: str) -> Path:
    if not isinstance(value, (str, Path)):
        raise InputError(f"{name} must be a file, not {described(value)}")
    path = Path(value).expanduser()
    if not path.is_file():
        raise InputError(f"{name}: there is no file {path}")
    return path


_CONVERTED: Mapping[str, Callable[[Any, str], Any]] = {
    "text": _text, "number": _number, "array": _array, "json": _json, "file": _file,
}  # fmt: skip

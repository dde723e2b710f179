"""Settings are frozen dataclasses that live beside the code that uses them; here is how they are read, checked and hashed.

A value comes from the first of: the command line, `--config FILE` (TOML), `--from-manifest FILE`, the default in the dataclass.
"""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from curate.records.errors import UserError
from curate.records.manifest import json_sha256

S = TypeVar("S")
LONGEST_TOLD = 100  # characters of a list in an error


def option(
    default: Any,
    help: str,
    *,
    hashed: bool = True,
    secret: bool = False,
    choices: tuple[str, ...] | None = None,
    at_least: float | None = None,
) -> Any:
    """A dataclass field with its help text.

    `hashed=False`: the setting cannot change the result (number of tasks, where logs go), so a resumed run may change it.
    `secret=True`: never shown, hashed or written to a manifest. `at_least`: the smallest number that makes sense.
    """
    metadata = {"help": help, "hashed": hashed and not secret, "secret": secret, "choices": choices, "at_least": at_least}
    return dataclasses.field(default=default, metadata=metadata)


def same(settings_class: type, name: str) -> Any:
    """A field with the default and the help of another class's: for a command that takes only some of its options."""
    item = next(item for item in dataclasses.fields(settings_class) if item.name == name)
    return dataclasses.field(default=item.default, metadata=item.metadata)


def to_dict(settings: Any, *, hashed_only: bool = False) -> dict[str, Any]:
    """The settings as JSON values, secrets left out; with `hashed_only`, just those that can change the result."""
    values = {}
    for item in dataclasses.fields(settings):
        if item.metadata.get("secret") or (hashed_only and not item.metadata.get("hashed", True)):
            continue
        value = getattr(settings, item.name)
        values[item.name] = [_plain(each) for each in value] if isinstance(value, tuple) else _plain(value)
    return values


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def settings_hash(settings: Any) -> str:
    """Hash of everything in `settings` that can change the result."""
    return json_sha256(to_dict(settings, hashed_only=True))


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """One line that names each setting with another value: `seed: 0 -> 1, model: "a" -> "b"`; of long lists how much differs."""
    return ", ".join(_changed(key, old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key))


def _changed(key: str, before: Any, after: Any) -> str:
    told = json.dumps(before), json.dumps(after)
    if isinstance(before, list) and isinstance(after, list) and max(map(len, told)) > LONGEST_TOLD:
        gone, come = sum(item not in after for item in before), sum(item not in before for item in after)
        return f"{key}: {gone} of {len(before)} gone, {come} new" if gone or come else f"{key}: in another order"
    return f"{key}: {told[0]} -> {told[1]}"


def build(settings_class: type[S], *layers: Mapping[str, Any]) -> S:
    """Make settings from layers of values, later layers first in line. All mistakes are reported at once.

    Raises UserError for an unknown key (with the nearest known one), a value of the wrong type, outside its choices, or too small.
    """
    fields = {item.name: item for item in dataclasses.fields(settings_class)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(settings_class)
    mistakes: list[str] = []
    values: dict[str, Any] = {}
    for layer in layers:
        for raw_key, value in layer.items():
            key = raw_key.replace("-", "_")
            if key not in fields:
                mistakes.append(f"unknown setting {raw_key!r}{did_you_mean(key, fields)}")
                continue
            try:
                values[key] = _coerce(value, hints[key])
            except (TypeError, ValueError, OverflowError):
                mistakes.append(f"{raw_key} = {value!r} is not {_type_name(hints[key])}")
                continue
            choices = fields[key].metadata.get("choices")
            if choices and values[key] is not None and values[key] not in choices:
                mistakes.append(f"{raw_key} = {value!r} is not one of {', '.join(choices)}{did_you_mean(str(value), choices)}")
            least = fields[key].metadata.get("at_least")
            if least is not None and values[key] is not None and not values[key] >= least:
                mistakes.append(f"{raw_key} = {value!r} is less than {least:g}")
    if mistakes:
        raise UserError("; ".join(dict.fromkeys(mistakes)))
    return settings_class(**values)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` or nothing."""
    near = difflib.get_close_matches(word, list(known), n=3)
    near.sort(key=lambda name: sorted(name) != sorted(word))  # swapped letters first: modle is model rather than mode
    return f" (did you mean {near[0]!r}?)" if near else ""


def read_config(path: Path, stage: str) -> dict[str, Any]:
    """Settings for `stage` from a TOML file: its table `[stage]` over its top-level keys. Other tables belong to other stages."""
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    common = {key: value for key, value in raw.items() if not isinstance(value, dict)}
    return common | (raw[stage] if isinstance(raw.get(stage), dict) else {})


def settings_from_manifest(path: Path, stage: str) -> dict[str, Any]:
    """The settings that a stage ran with, to run it again. `path` is a manifest or the folder that holds one."""
    path = path / "manifest.json" if path.is_dir() else path
    try:
        raw = json.loads(path.read_text())
        found, settings = raw["stage"], raw["settings"]
    except OSError as error:
        raise UserError(f"cannot read the manifest {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a manifest of ours") from None
    if found != stage:
        raise UserError(f"{path} was written by `{found}`, not by `{stage}`")
    return settings


def _coerce(value: Any, hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _coerce(value, next(arm for arm in typing.get_args(hint) if arm is not type(None)))
    if typing.get_origin(hint) is tuple:
        items = [value] if isinstance(value, str) else value
        return tuple(_coerce(item, typing.get_args(hint)[0]) for item in items)
    if hint is bool:
        if not isinstance(value, bool):
            raise TypeError
        return value
    if hint in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (hint is int and value != int(value)):
            raise TypeError
        return hint(value)
    if hint is Path:
        return Path(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # a threshold may be written as a number or as a text
    if not isinstance(value, hint):
        raise TypeError
    return value


def _type_name(hint: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    if typing.get_origin(hint) is tuple:
        return "a list of texts"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _type_name(next(arm for arm in typing.get_args(hint) if arm is not type(None)))
    return names.get(hint, str(hint))

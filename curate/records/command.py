"""From a settings dataclass to a command line: one option a field, `--config`, `--from-manifest`, one-line errors, exit codes."""

import dataclasses
import inspect
import shlex
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from curate.records.errors import FourHabitsError, UserError
from curate.records.settings import build, read_config, settings_from_manifest

COMMAND_LINE = "COMMANDLINE"


def new_app(name: str, help: str) -> typer.Typer:
    """A command that lists its subcommands when called bare; tracebacks stay plain, because they are our own mistakes."""
    return typer.Typer(
        name=name, help=help, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )


def add_command(app: typer.Typer, settings_class: type, run: Callable[[Any], Any], *, name: str, positional: str | None = None) -> None:
    """Register `run(settings)` as subcommand `name`; help comes from the docstring of `run`, options from the fields.

    `positional` names a field that is given as a bare argument. Errors of the user's are printed as one line.
    """

    def command(context: typer.Context, **given: Any) -> None:
        with one_line_errors():
            config, manifest = given.pop("config", None), given.pop("from_manifest", None)
            layers: list[dict[str, Any]] = []
            if manifest is not None:
                layers.append(settings_from_manifest(manifest, name))
            if config is not None:
                layers.append(read_config(config, name))
            layers.append({key: value for key, value in given.items() if _was_given(context, key)})
            run(build(settings_class, *layers))

    hints = typing.get_type_hints(settings_class)
    parameters = [inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    own = inspect.get_annotations(settings_class)  # what only this stage has comes first in its help
    for item in sorted(dataclasses.fields(settings_class), key=lambda item: item.name not in own):
        parameters.append(_parameter(item, hints[item.name], positional))
    for key, text in (
        ("config", "Read settings from this TOML file; the command line wins."),
        ("from_manifest", "Run again with the settings of this manifest."),
    ):
        annotation = Annotated[Path | None, typer.Option(f"--{key.replace('_', '-')}", help=text)]
        parameters.append(inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = inspect.getdoc(run)
    app.command(name)(command)


class one_line_errors:
    """Context: shows a FourHabitsError as `error: …` on stderr and leaves with its exit code."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FourHabitsError):
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code)
        if isinstance(error, KeyboardInterrupt):
            print("interrupted; run the same command again to go on", file=sys.stderr)
            raise typer.Exit(130)


def _parameter(item: Any, hint: Any, positional: str | None) -> inspect.Parameter:
    text = item.metadata.get("help", "")
    if choices := item.metadata.get("choices"):
        text = f"{text} [{'|'.join(choices)}]"
    is_list = typing.get_origin(hint) is tuple
    kind = list[typing.get_args(hint)[0]] if is_list else hint  # type: ignore[misc]
    default = list(item.default) if is_list and item.default is not None else item.default
    if item.default is dataclasses.MISSING:
        default = ...
    info = typer.Argument(help=text) if item.name == positional else typer.Option(help=text)
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _was_given(context: typer.Context, key: str) -> bool:
    source = context.get_parameter_source(key)
    return source is not None and source.name in (COMMAND_LINE, "ENVIRONMENT")


def command_line(script: str, name: str, settings_class: type, values: Mapping[str, Any], positional: str | None = None) -> str:
    """The command that runs stage `name` with these settings; those that have their default are left out.

    `values` are those of a manifest: paths are texts, tuples are lists.
    """
    words = [script, name]
    for item in dataclasses.fields(settings_class):
        value = values.get(item.name)
        default = list(item.default) if isinstance(item.default, tuple) else item.default
        if value is None or value == default:
            continue
        option = f"--{item.name.replace('_', '-')}"
        if item.name == positional:
            words.append(str(value))
        elif isinstance(value, bool):
            words.append(option if value else f"--no-{option.removeprefix('--')}")
        else:
            words += [word for single in (value if isinstance(value, list) else [value]) for word in (option, str(single))]
    return shlex.join(words)


def require(value: Any, name: str, hint: str = "") -> Any:
    """`value`, or a UserError when a setting without a default was left out."""
    if value is None or value == ():
        raise UserError(f"--{name.replace('_', '-')} is needed{': ' + hint if hint else ''}")
    return value

"""Every option and default of every command stands in flags.txt, so that a change shows in a diff.

Rewrite it with `UPDATE_FLAGS=1 python -m pytest tests/test_flags.py`.
"""

import difflib
import importlib
import importlib.util
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.helpers import ROOT, curate

SNAPSHOT = Path(__file__).with_name("flags.txt")
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def app_of(entry: str) -> Any | None:
    """The typer app behind an entry point; None while its module is not written yet."""
    module = entry.partition(":")[0]
    if importlib.util.find_spec(module) is None:
        return None
    loaded = importlib.import_module(module)
    return next(value for value in vars(loaded).values() if isinstance(value, typer.Typer))


def flags(script: str, app: typer.Typer) -> Iterator[str]:
    """One line a command, then one line an option: its names, its default, its help."""
    group: Any = typer.main.get_command(app)
    commands = getattr(group, "commands", None) or {"": group}
    for name, command in commands.items():
        yield f"{script} {name}".strip()
        for parameter in command.params:
            names = " / ".join([*parameter.opts, *parameter.secondary_opts])
            kind = "" if parameter.param_type_name == "option" else " (argument)"
            many = " (repeatable)" if parameter.multiple or parameter.nargs == -1 else ""
            default = parameter.default() if callable(parameter.default) else parameter.default
            text = "nothing" if default is None or default in ([], ()) else str(default)
            yield f"    {names}{kind}{many} = {text}: {parameter.help or ''}".rstrip()


def test_no_flag_or_default_has_changed_unnoticed() -> None:
    apps = {script: app for script, entry in SCRIPTS.items() if (app := app_of(entry)) is not None}
    now = {script: list(flags(script, app)) for script, app in apps.items()}
    if os.environ.get("UPDATE_FLAGS"):
        SNAPSHOT.write_text("\n\n".join("\n".join(lines) for lines in now.values()) + "\n")
    blocks = [block.splitlines() for block in SNAPSHOT.read_text().strip().split("\n\n")]
    before = {block[0].split(" ")[0]: block for block in blocks}
    difference = [line for script in now for line in difflib.unified_diff(before.get(script, []), now[script], lineterm="", n=0)]
    assert not difference, "\n".join([*difference, "", "if this is meant: UPDATE_FLAGS=1 python -m pytest tests/test_flags.py"])


def test_every_option_says_what_it_does() -> None:
    for script, entry in SCRIPTS.items():
        app = app_of(entry)
        bare = [
            line for line in (flags(script, app) if app else ()) if line.startswith("    ") and line.endswith(":") and "--help" not in line
        ]
        assert bare == []


def test_the_defaults_are_those_of_the_mission() -> None:
    text = SNAPSHOT.read_text()
    for default in (
        "--model = Qwen/Qwen2.5-32B-Instruct",
        "--dataset (repeatable) = ['openwebmath']",
        "--budget-tokens = 8300000",
        "--arms = pairs",
    ):
        assert default in text
    assert "--tokenizer = meta-llama/Llama-3.2-3B" in text


@pytest.mark.parametrize("arguments", [("--help",), ("classify", "--help"), ("run", "--help"), ("--version",), ("datasets",), ("doctor",)])
def test_help_version_and_the_lists_need_nothing(arguments: tuple[str, ...]) -> None:
    result = curate(*arguments)
    assert result.exit_code == 0
    assert result.stdout.strip()


def test_a_bare_command_lists_its_subcommands() -> None:
    result = curate()
    assert result.exit_code == 2
    assert all(name in result.output for name in ("classify", "select", "rewrite", "verify", "match", "report", "run", "status"))

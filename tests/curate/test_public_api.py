"""The functions of the Python interface are the commands, whatever was imported before them."""

import importlib
import inspect

import curate


def test_every_public_name_is_what_it_says_even_after_its_module_is_loaded() -> None:
    for module in ("classification", "selection", "rewriting", "verification", "matching", "reporting", "prevalence"):
        importlib.import_module(f"curate.{module}")
    for name in curate.__all__:
        value = getattr(curate, name)
        assert inspect.isclass(value) if name.endswith("Settings") else inspect.isfunction(value), name

"""Settings: no key is ignored, no value misread, and what a manifest says can be run again."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.records.errors import UserError
from curate.records.settings import build, difference, option, read_config, settings_from_manifest, settings_hash, to_dict
from pipelines.main import COMMANDS


@dataclasses.dataclass(frozen=True)
class Example:
    """One field of each type that settings have."""

    name: str = option("a", "A text.", choices=("a", "b"))
    count: int = option(1, "A number.", at_least=1)
    share: float = option(0.5, "A share.", at_least=0)
    maybe: int | None = option(None, "A number or nothing.", at_least=1)
    flag: bool = option(False, "A flag.")
    words: tuple[str, ...] = option((), "Texts.")
    folder: Path | None = option(None, "A folder.", hashed=False)
    key: str | None = option(None, "A key.", secret=True)


EXAMPLES = st.builds(
    Example,
    st.sampled_from(["a", "b"]),
    st.integers(1),
    st.floats(0, allow_nan=False, allow_infinity=False),
    st.none() | st.integers(1),
    st.booleans(),
    st.lists(st.text()).map(tuple),
    st.none() | st.text("abc/", min_size=1).map(Path),
    st.none(),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)


@given(EXAMPLES)
def test_settings_survive_json(example: Example) -> None:
    again = build(Example, json.loads(json.dumps(to_dict(example))))
    assert again == example
    assert settings_hash(again) == settings_hash(example)


@given(st.sampled_from([item.name for item in dataclasses.fields(Example)]), ANYTHING)
def test_a_value_is_taken_as_its_type_or_refused_in_one_line(name: str, value: Any) -> None:
    try:
        made = getattr(build(Example, {name: value}), name)
    except UserError as error:
        assert name in str(error)
        return
    kinds = {"name": str, "count": int, "share": float, "flag": bool, "words": tuple, "folder": Path | None, "key": str | None}
    assert isinstance(made, kinds.get(name, int | None))
    assert not isinstance(value, bool) or made is value  # true is no number
    if name in ("count", "maybe") and made is not None:
        assert made == value and made >= 1


@given(EXAMPLES, EXAMPLES)
def test_later_layers_win_and_earlier_ones_fill(first: Example, second: Example) -> None:
    low, high = to_dict(first), to_dict(second)
    kept = {key: high[key] for key in list(high)[::2]}
    made = to_dict(build(Example, low, kept))
    assert made == {**low, **kept}


def test_all_mistakes_come_at_once_with_the_nearest_known_name() -> None:
    with pytest.raises(UserError) as caught:
        build(Example, {"cuont": 2, "name": "c", "share": "much", "count": 0, "maybe": float("inf"), "flag": "yes", "words": 3})
    message = str(caught.value)
    for part in (
        "unknown setting 'cuont' (did you mean 'count'?)",
        "name = 'c' is not one of a, b",
        "share = 'much' is not a number",
        "count = 0 is less than 1",
        "maybe = inf is not a whole number",
        "flag = 'yes' is not true or false",
        "words = 3 is not a list of texts",
    ):
        assert part in message
    assert "\n" not in message


def test_not_a_number_passes_no_lower_bound() -> None:
    with pytest.raises(UserError, match="share = nan is less than 0"):
        build(Example, {"share": float("nan")})


def test_only_what_can_change_the_result_is_hashed_and_secrets_are_never_written() -> None:
    base = Example()
    assert settings_hash(dataclasses.replace(base, folder=Path("x"), key="sk-1")) == settings_hash(base)
    assert settings_hash(dataclasses.replace(base, count=2)) != settings_hash(base)
    assert "key" not in to_dict(dataclasses.replace(base, key="sk-1"))
    assert difference({"seed": 0, "same": 1}, {"seed": 1, "same": 1, "new": "x"}) == 'seed: 0 -> 1, new: null -> "x"'


@pytest.mark.parametrize("name", COMMANDS)
def test_the_defaults_of_every_command_are_valid_settings_of_it(name: str) -> None:
    settings_class, _ = COMMANDS[name]
    assert build(settings_class, to_dict(settings_class())) == settings_class()


def test_a_settings_file_gives_its_table_over_what_is_common(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('seed = 3\nlimit = 1\nselect = 5\n[classify]\nlimit = 2\nmodel-name = "x"\n[match]\nunknown = 1\n')
    assert read_config(path, "classify") == {"seed": 3, "limit": 2, "model-name": "x", "select": 5}
    path.write_text("seed = ")
    with pytest.raises(UserError, match="is not valid TOML"):
        read_config(path, "classify")
    with pytest.raises(UserError, match="cannot read the settings file"):
        read_config(tmp_path / "missing.toml", "classify")


def test_a_manifest_gives_its_settings_to_its_own_stage_only(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"stage": "select", "settings": {"seed": 7}}))
    assert settings_from_manifest(tmp_path, "select") == settings_from_manifest(path, "select") == {"seed": 7}
    with pytest.raises(UserError, match="was written by `select`, not by `match`"):
        settings_from_manifest(path, "match")
    for text in ("[]", "{", '{"stage": "select"}'):
        path.write_text(text)
        with pytest.raises(UserError, match="is not a manifest of ours"):
            settings_from_manifest(path, "select")


def test_long_lists_that_differ_are_counted_not_printed() -> None:
    before = {"seed": 0, "words": ["a"], "inputs": ["f" * 64, "e" * 64]}
    assert difference(before, {**before, "inputs": ["f" * 64, "0" * 64, "1" * 64]}) == "inputs: 1 of 2 gone, 2 new"
    assert difference(before, {**before, "inputs": before["inputs"][::-1]}) == "inputs: in another order"
    assert difference(before, {**before, "seed": 1, "words": ["b"]}) == 'seed: 0 -> 1, words: ["a"] -> ["b"]'

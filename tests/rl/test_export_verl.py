"""The exported folder works with verl 0.9.1 itself: its hydra configuration takes every override, its loader finds our reward."""

import ast
import importlib.util
import json
import logging
import os
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any, Optional

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rl import verl_reward
from rl.main import app
from rl.scoring import score

RUNNER = CliRunner()


@pytest.fixture(scope="module", params=["four-habits", "modern"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    arguments = ["tasks", "--operands", "3", "--max-number", "20", "--num-train", "300", "--num-test", "20", "--out", str(folder / "tasks")]
    assert RUNNER.invoke(app, arguments).exit_code == 0
    command = ["export-verl", "--data", str(folder / "tasks"), "--out", str(folder / "verl"), "--preset", request.param]
    result = RUNNER.invoke(app, command)
    assert result.exit_code == 0, result.output
    return folder / "verl"


@pytest.fixture(scope="session")
def verl(tmp_path_factory):
    """verl's wheel, unpacked. FOURHABITS_VERL_WHEEL names one at hand; else it is downloaded."""
    folder = tmp_path_factory.mktemp("verl")
    wheel = os.environ.get("FOURHABITS_VERL_WHEEL")
    if not wheel:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "verl==0.9.1", "-d", str(folder)]
        if subprocess.run(command, capture_output=True, timeout=120).returncode != 0:
            pytest.skip("verl's wheel cannot be had here (pip download --no-deps verl==0.9.1)")
        wheel = next(folder.glob("*.whl"))
    zipfile.ZipFile(wheel).extractall(folder / "src")
    return folder / "src"


def test_the_folder_is_complete(exported):
    assert {path.name for path in exported.iterdir()} >= {
        "train.parquet", "val.parquet", "reward.py", "overrides.yaml", "run.sh", "requirements-verl.txt", "README.md", "manifest.json",
    }  # fmt: skip
    row = pq.read_table(exported / "train.parquet").to_pylist()[0]
    assert set(row) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    assert row["prompt"][0]["content"].endswith("Assistant: Let me solve this step by step.\n<think>")
    assert set(row["reward_model"]["ground_truth"]) == {"target", "numbers"}
    assert subprocess.run(["bash", "-n", str(exported / "run.sh")]).returncode == 0
    values = dict(line.split("=", 1) for line in json.loads((exported / "manifest.json").read_text())["notes"]["overrides"])
    four_habits = "four-habits" in (exported / "README.md").read_text()
    assert values["algorithm.use_kl_in_reward"] == str(four_habits)
    assert values["critic.ppo_mini_batch_size"] == "32"
    assert values["actor_rollout_ref.actor.ppo_mini_batch_size"] == ("128" if four_habits else "64")


def test_the_reward_file_stands_alone(exported):
    tree = ast.parse((exported / "reward.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= set(sys.stdlib_module_names) and not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import reward, array\n"
        "truth = {'target': 14, 'numbers': array.array('q', [3, 4, 2])}\n"
        "print(reward.compute_score('countdown', 'x <answer>(3+4)*2</answer>', truth, {'index': 1}, extra=2)['score'])\n"
        "print(reward.compute_score('countdown', 'x <answer>3+4</answer>', truth)['score'], reward.compute_score('c', 'x', truth)['score'])\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, str(exported)], capture_output=True, text=True)
    format_reward = "0.1" if "four-habits" in (exported / "README.md").read_text() else "0.0"
    assert done.stdout.split() == ["1.0", format_reward, "0.0"], done.stderr


ANSWERS = st.text(alphabet="0123456789+-*/()= .×−\n`", max_size=25)


@given(ANSWERS, st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(0, 30))
@hypothesis_settings(max_examples=400, deadline=None)
def test_the_reward_file_scores_as_we_do(answer, numbers, target):
    for text in (f"<answer>{answer}</answer>", answer, f"<answer>{'+'.join(map(str, numbers))}{answer}</answer>"):
        ours = score(text, numbers, target)
        theirs = verl_reward.compute_score("countdown", text, {"numbers": numbers, "target": target})
        assert (theirs["score"], theirs["acc"] == 1.0) == (ours.value, ours.correct)


@pytest.fixture(scope="session")
def hydra_path(tmp_path_factory):
    """Where hydra can be imported from; installed beside the test when it is not here already."""
    if importlib.util.find_spec("hydra"):
        return ""
    folder = tmp_path_factory.mktemp("hydra")
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), "hydra-core>=1.3,<1.4"]
    if subprocess.run(command, capture_output=True, timeout=180).returncode != 0:
        pytest.skip("hydra-core cannot be had here (pip install hydra-core)")
    return str(folder)


COMPOSE = """
import json, sys, hydra
from omegaconf import OmegaConf
with hydra.initialize_config_dir(sys.argv[1], version_base=None):
    config = hydra.compose("ppo_trainer", overrides=json.loads(sys.argv[2]))
keys = ["reward.custom_reward_function.path", "actor_rollout_ref.model.custom_chat_template", "actor_rollout_ref.rollout.n"]
print(json.dumps([OmegaConf.select(config, key) for key in keys]))
"""


def test_hydra_takes_every_override(exported, verl, hydra_path):
    lines = json.loads((exported / "manifest.json").read_text())["notes"]["overrides"]
    environment = {**os.environ, "PYTHONPATH": hydra_path}

    def compose(overrides):
        command = [sys.executable, "-c", COMPOSE, str(verl / "verl" / "trainer" / "config"), json.dumps(overrides)]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    done = compose(lines)
    assert done.returncode == 0, done.stderr[-2000:]
    path, template, samples = json.loads(done.stdout)
    assert path.endswith("reward.py") and "{% for m in messages %}{{ m.content }}{% endfor %}" in template and samples == 4
    assert compose([*lines, "actor_rollout_ref.actor.clip_ratios=1"]).returncode != 0  # hydra does refuse what verl does not know


def test_verls_own_loader_finds_our_reward(exported, verl):
    loader = next(path for path in (verl / "verl").rglob("*.py") if "def load_extern_object" in path.read_text())
    tree = ast.parse(loader.read_text())
    names = ("load_module", "load_extern_object")
    wanted = [node for node in tree.body if isinstance(node, ast.Assign) or getattr(node, "name", "") in names]
    namespace: dict = {"importlib": importlib, "os": os, "sys": sys, "types": types, "warnings": warnings, "logging": logging}
    namespace |= {"Optional": Optional, "Any": Any, "__name__": "loader"}
    exec(compile(ast.Module(wanted, []), str(loader), "exec"), namespace)
    function = namespace["load_extern_object"](str(exported / "reward.py"), "compute_score")
    assert function("countdown", "<answer>3+4</answer>", {"target": 7, "numbers": [3, 4]})["score"] == 1.0
    assert Path(function.__code__.co_filename).name == "reward.py"

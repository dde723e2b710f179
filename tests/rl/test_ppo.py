"""The loop: first ratio is 1, micro-batches, layouts and processes change nothing, packing isolates, controls control."""

import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curate.records.errors import EngineError, UserError
from rl import ppo
from rl.build import build, restore
from rl.forward import Trajectories, micro_batches, plan, policy_outputs
from rl.settings import PRESETS, PPOSettings, resolve
from tests.rl.tiny import small_model, small_settings, small_tasks


def _lines(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def _weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def _one_step(folder, **changes):
    """Actor and critic after one step of a run in float64, and its metrics."""
    setup = build(resolve(small_settings(folder, out=folder / "unused", dtype="float64", **changes)))
    restore(setup)
    line = ppo.train_step(setup, 1)
    assert setup.critic is not None
    return line, setup.actor.state_dict(), setup.critic.state_dict()


def _difference(a, b):
    return max((a[key] - b[key]).abs().max().item() for key in a)


@pytest.mark.slow
def test_a_run_writes_what_it_promises(tmp_path):
    ppo.run(small_settings(tmp_path, shuffle=True, entropy_coefficient=0.01, reward="random"))
    run = tmp_path / "run"
    lines = _lines(run)
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        # the first mini-batch is on-policy: log-probabilities repeat, so nothing is clipped
        assert line["first_ratio_max"] == pytest.approx(1, abs=1e-5)
        assert line["first_clipfrac_low"] == line["first_clipfrac_high"] == 0
        assert abs(line["first_approx_kl"]) < 1e-6
        assert line["mismatch_mean"] < 1e-5 and line["mismatch_ratio_max"] == pytest.approx(1, abs=1e-4)
        assert 0 <= line["truncated_rate"] <= 1 and line["response_tokens_max"] <= 12
        assert line["actor_grad_norm"] > 0 and line["critic_grad_norm"] > 0
        for key in ("kl_k1", "kl_k3", "entropy", "policy_loss", "value_loss", "explained_variance", "equal_groups", "attempts", "flops"):
            assert isinstance(line[key], float | int)
        assert line["seconds"] >= sum(value for key, value in line.items() if key.startswith("seconds_")) - 0.1
    assert lines[0]["kl_k1"] == pytest.approx(0, abs=1e-6) and lines[2]["kl_k3"] > 0
    rollouts = pq.read_table(run / "rollouts" / "step-00000002.parquet").to_pylist()
    assert len(rollouts) == 16 and {row["weight_version"] for row in rollouts} == {1}
    assert [line["step"] for line in _lines(run, "evaluations.jsonl")] == [0, 2, 3]
    assert 0 <= _lines(run, "evaluations.jsonl")[0]["eval_sampled_low"] <= 1
    assert (run / "manifest.json").is_file() and (run / "evaluations" / "step-00000000-greedy.parquet").is_file()
    with pytest.raises(UserError, match="finished run"):
        ppo.run(small_settings(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": "gae"},
        {"advantage": "gae", "aggregation": "seq-mean-token-mean", "kl_place": "loss", "kl_kind": "k3+", "lam": 0.9},
        {"advantage": "gae", "aggregation": "seq-mean-token-sum-norm", "mask_truncated": True, "importance_cap": 2.0, "dual_clip": 3.0},
    ],
)
def test_micro_batches_and_layouts_do_not_change_the_result(tmp_path, changes):
    changes |= {"reward": "random", "entropy_coefficient": 0.01, "kl_coefficient": 0.1, "max_grad_norm": 0.1}
    whole = _one_step(tmp_path, micro_batch_tokens=100_000, layout="padded", **changes)
    for micro_batch_tokens, layout in ((20, "padded"), (60, "packed"), (100_000, "packed"), (1, "packed")):
        part = _one_step(tmp_path, micro_batch_tokens=micro_batch_tokens, layout=layout, **changes)
        for name in ("policy_loss", "value_loss", "entropy", "actor_grad_norm", "critic_grad_norm", "approx_kl", "kl_k1"):
            assert part[0][name] == pytest.approx(whole[0][name], abs=1e-9)
        # Adam's first step is lr * sign(gradient) where gradients are tiny, so float64 is asked for and 1e-7 given
        assert _difference(whole[1], part[1]) < 1e-7 and _difference(whole[2], part[2]) < 1e-7


def test_packed_and_padded_passes_equal_single_ones(tmp_path):
    setup = build(resolve(small_settings(tmp_path, dtype="float64")))
    trajectories = Trajectories([[1, 5, 6], [1], [1, 9], [1, 2, 3, 4]], [[7, 8], [30, 31, 32, 33], [2], [50, 60, 70]])
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for row in range(4):
        prompt, response = trajectories.prompts[row], trajectories.responses[row]
        logits = setup.actor(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1, : setup.vocab_size]
        logprobs = (logits / 0.7).log_softmax(-1).gather(1, torch.tensor(response)[:, None])
        expected[row, : len(response)] = logprobs.squeeze(1)
    for layout in ("packed", "padded"):
        for budget in (1, 12, 1000):
            rows = [row for group in plan(trajectories, range(4), budget, layout) for row in group]
            assert sorted(rows) == [0, 1, 2, 3]
            got = torch.zeros_like(expected)
            for micro in micro_batches(trajectories, range(4), budget, layout, torch.device("cpu")):
                got[micro.rows] = policy_outputs(setup.actor, micro, 0.7, setup.vocab_size)[0]
            torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)


def test_equal_rewards_move_nothing_but_are_no_error(tmp_path):
    line, actor, _ = _one_step(tmp_path, kl_place="none", kl_coefficient=0.0, format_reward=0.0, weight_decay=0.0)
    assert line["reward_std"] == 0 and line["equal_groups"] == 1
    start = build(resolve(small_settings(tmp_path, dtype="float64"))).actor.state_dict()
    # with values of 0 (the head starts at zero) every advantage is 0
    assert line["policy_loss"] == 0 and _difference(start, actor) == 0


@pytest.mark.parametrize("advantage", ["grpo", "rloo", "reinforce"])
def test_other_estimators_run_without_a_critic(tmp_path, advantage):
    ppo.run(small_settings(tmp_path, advantage=advantage, reward="random", total_steps=2, kl_place="loss", kl_kind="k2"))
    line = _lines(tmp_path / "run")[-1]
    assert "value_loss" not in line and line["actor_grad_norm"] > 0


def test_critic_warmup_leaves_the_actor_alone(tmp_path):
    line, actor, critic = _one_step(tmp_path, critic_warmup_steps=1, reward="random")
    start = build(resolve(small_settings(tmp_path, dtype="float64"))).actor.state_dict()
    assert _difference(start, actor) == 0 and critic["head.weight"].abs().sum() > 0 and "policy_loss" not in line


def test_kl_controller_moves_towards_its_target(tmp_path):
    ppo.run(small_settings(tmp_path, kl_target=10.0, kl_horizon=100.0, kl_coefficient=0.1))
    coefficients = [line["kl_coefficient"] for line in _lines(tmp_path / "run")]
    assert coefficients[0] == 0.1 and coefficients[0] > coefficients[1] > coefficients[2]


def test_the_first_values_are_zero_and_dropout_is_off(tmp_path):
    setup = build(resolve(small_settings(tmp_path)))
    assert setup.critic is not None and all(module.p == 0 for module in setup.critic.modules() if isinstance(module, torch.nn.Dropout))
    (micro,) = micro_batches(Trajectories([[1, 2]], [[3, 4]]), [0], 99, "padded", torch.device("cpu"))
    assert (setup.critic(micro) == 0).all()


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_prompt_tokens": 2}, "every prompt is longer than --max-prompt-tokens 2"),
        ({"actor_updates_per_step": 3}, "--actor-updates-per-step 3 does not divide"),
        ({"temperature": 0.0}, "--temperature is over 0"),
        ({"dual_clip": 0.5}, "--dual-clip is over 1"),
        ({"kl_place": "loss", "kl_kind": "k1"}, "gradient of zero"),
        ({"advantage": "grpo", "samples_per_prompt": 1}, "at least 2"),
        ({"template": "no fields"}, "no text with {numbers} and {target}"),
        ({"model": "/absent/model"}, "cannot load"),
        ({"total_steps": 0}, "--total-steps is at least 1"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=message.replace("{", r"\{").replace("}", r"\}")) as caught:
        ppo.run(small_settings(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_long_prompts_are_refused_and_counted(tmp_path):
    small_model(tmp_path / "model")
    small_tasks(tmp_path / "tasks")
    mixed = pa.table({"nums": [[1, 2]] * 20 + [[1, 2, 3]] * 10, "target": [3] * 20 + [6] * 10, "split": ["test"] * 2 + ["train"] * 28})
    pq.write_table(mixed, tmp_path / "tasks" / "tasks.parquet")
    ppo.run(small_settings(tmp_path, template="{numbers} {target}", max_prompt_tokens=9, total_steps=1))
    notes = json.loads((tmp_path / "run" / "manifest.json").read_text())["notes"]
    assert notes["refused_prompts"] == 10
    prompts = build(resolve(small_settings(tmp_path, out=tmp_path / "x", template="{numbers} {target}", max_prompt_tokens=9))).train.tokens
    assert len(prompts) == 18 and max(map(len, prompts)) <= 9


def test_nan_losses_are_skipped_counted_and_stop_with_the_last_good_checkpoint(tmp_path, monkeypatch):
    original = ppo.update_actor

    def spoiled(setup, step, experience):
        if step >= 2:
            experience.advantages_BT[:] = torch.nan
        return original(setup, step, experience)

    monkeypatch.setattr(ppo, "update_actor", spoiled)
    with pytest.raises(UserError, match="last good checkpoint"):
        ppo.run(small_settings(tmp_path, stop_after_bad_updates=2, reward="random"))
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step-00000001"
    assert len(_lines(tmp_path / "run")) == 1
    assert json.loads((tmp_path / "run" / "stopped.json").read_text())["step"] == 2
    monkeypatch.setattr(ppo, "update_actor", original)
    ppo.run(small_settings(tmp_path, stop_after_bad_updates=2, reward="random"))
    assert not (tmp_path / "run" / "stopped.json").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("engine core died\nlong trace"), "the torch sampler died: engine core died$"),
        (torch.OutOfMemoryError(), "--max-sampler-rows"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), "--max-sampler-rows"),
    ],
)
def test_a_sampler_that_dies_is_one_line(tmp_path, monkeypatch, error, message):
    from rl.samplers.torch import TorchSampler

    def die(*_):
        raise error

    monkeypatch.setattr(TorchSampler, "generate", die)
    with pytest.raises(EngineError, match=message):
        ppo.run(small_settings(tmp_path))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])
def test_out_of_memory_in_training_names_the_knob(tmp_path, monkeypatch, error):
    def die(*_):
        raise error

    monkeypatch.setattr(ppo, "update_actor", die)
    with pytest.raises(EngineError, match="--micro-batch-tokens"):
        ppo.run(small_settings(tmp_path))


def test_format_reward_that_outweighs_correctness_is_warned_about(tmp_path, capsys):
    setup = build(resolve(small_settings(tmp_path)))
    restore(setup)
    original = ppo.rollouts.score_response
    try:
        ppo.rollouts.score_response = lambda prompt, text, *rest: ppo.rollouts.scoring.Score(0.1 * (len(text) % 2), False, "numbers", "1")
        ppo.train_step(setup, 1)
    finally:
        ppo.rollouts.score_response = original
    assert "the format reward varies more" in capsys.readouterr().err


def test_presets_are_the_published_run():
    settings = resolve(PPOSettings())
    assert (settings.prompts_per_step, settings.samples_per_prompt, settings.total_steps) == (256, 4, 250)
    assert (settings.actor_updates_per_step, settings.critic_updates_per_step) == (2, 8)
    assert (settings.actor_learning_rate, settings.critic_learning_rate) == (1e-6, 1e-5)
    assert (settings.kl_coefficient, settings.kl_kind, settings.kl_place, settings.clip_low, settings.value_clip) == (
        0.001,
        "k1",
        "reward",
        0.2,
        0.5,
    )
    assert (settings.max_prompt_tokens, settings.max_response_tokens, settings.entropy_coefficient) == (256, 1024, 0.001)
    for preset in PRESETS:
        resolved = resolve(PPOSettings(preset=preset))
        needed = {field.name for field in dataclasses.fields(resolved)} - {"model", "critic", "data", "out"}
        assert all(getattr(resolved, name) is not None for name in needed)

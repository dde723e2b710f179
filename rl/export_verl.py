"""`rl export-verl`: a folder from which verl 0.9.1 trains the same run on a cluster. verl is never imported; its pins conflict with ours.

What is easily got wrong there, and is set here: the reward function's key (the old `custom_reward_function.path` is accepted and
ignored), KL in the reward (off by default), the chat template (always applied; made transparent), and the critic's mini-batch (both
mini-batches are multiplied by the samples per prompt now, so 8 critic updates a step are 256 / 8 = 32 prompts).
"""

import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256
from curate.records.parts import atomic_file, write_part
from curate.records.settings import option, to_dict
from rl import settings as ppo
from rl.countdown import Task
from rl.prompts import render
from rl.tasks import FILE_NAME, read_tasks

VERL = "0.9.1"
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
TEMPLATE_NO_BOS = "{% for m in messages %}{{ m.content }}{% endfor %}"


@dataclass(frozen=True)
class ExportSettings:
    """Settings of `rl export-verl`."""

    out: Path | None = option(None, "Folder to write; where verl will find it is --location", hashed=False)
    data: Path | None = option(None, "Tasks: the folder of `rl tasks`, or a Parquet file with numbers (nums) and target")
    model: str = option("meta-llama/Llama-3.2-3B", "Model on the cluster: name or path")
    preset: str = option("four-habits", "Settings of the run, as in `rl ppo`", choices=("four-habits", "modern"))
    location: str | None = option(None, "Path of the folder on the cluster; left out: --out")
    gpus_per_node: int = option(4, "GPUs a node")
    nodes: int = option(1, "Nodes")
    tensor_parallel: int = option(1, "GPUs a vLLM engine")
    seed: int = option(1, "Seed of the data order")
    eval_tasks: int = option(1024, "Test tasks of every evaluation")
    name: str = option("countdown", "Experiment name")


def run(settings: ExportSettings) -> None:
    """Write train/val Parquet, reward file, overrides, run script and requirements for verl 0.9.1."""
    started = time.monotonic()
    out, data = require(settings.out, "out"), require(settings.data, "data")
    preset = ppo.resolve(ppo.PPOSettings(preset=settings.preset))
    train, test = read_tasks(data, "train"), read_tasks(data, "test")[: settings.eval_tasks]
    if not train or not test:
        raise UserError(f"{data} needs training and test tasks (it has {len(train)} and {len(test)}); `rl tasks` makes both")
    if len(train) < preset.prompts_per_step:
        raise UserError(f"{data} has {len(train)} training tasks, fewer than the {preset.prompts_per_step} of a step: verl drops them all")
    for name, tasks, split in (("train", train, "train"), ("val", test, "test")):
        write_part(out / f"{name}.parquet", dataset(tasks, split, preset.template))
    _write(out / "reward.py", reward_file(preset.format_reward))
    lines = overrides(settings, preset)
    _write(out / "overrides.yaml", "".join(f"- '{line}'\n" for line in lines))
    _write(out / "run.sh", _run_script(lines), executable=True)
    _write(out / "requirements-verl.txt", f"# a virtual environment of its own: these pins conflict with fourhabits'\nverl[vllm]=={VERL}\n")
    _write(out / "README.md", _readme(settings))
    file = data / FILE_NAME if data.is_dir() else data
    rows = len(train) + len(test)
    manifest = Manifest(
        stage="export-verl",
        settings=to_dict(settings),
        inputs=[InputFile(str(file), file_sha256(file), rows)],
        rows_in=rows,
        rows_out=rows,
        model=settings.model,
        seed=settings.seed,
        seconds=time.monotonic() - started,
        notes={"verl": VERL, "overrides": lines},
    )
    manifest.write(out)
    print(f"{len(train)} train and {len(test)} val tasks, reward.py, overrides.yaml and run.sh in {out}")


def dataset(tasks: list[Task], split: str, template: str) -> pa.Table:
    """Rows as verl reads them: `prompt` is a list of messages, `reward_model.ground_truth` reaches the reward function as it is."""
    rows = [
        {
            "data_source": "countdown",
            "prompt": [{"role": "user", "content": render(template, numbers, target)}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": {"target": target, "numbers": list(numbers)}},
            "extra_info": {"split": split, "index": index},
        }
        for index, (numbers, target) in enumerate(tasks)
    ]
    return pa.Table.from_pylist(rows)


def reward_file(format_reward: float) -> str:
    """The text of reward.py with the run's format reward."""
    text = (Path(__file__).parent / "verl_reward.py").read_text()
    line = "FORMAT_REWARD = 0.1\n"
    assert text.count(line) == 1
    return text.replace(line, f"FORMAT_REWARD = {format_reward}\n")


def overrides(settings: ExportSettings, preset: ppo.PPOSettings) -> list[str]:
    """Hydra overrides of `verl.trainer.main_ppo`, one a line, all of them keys of verl 0.9.1 (a test composes them)."""
    where = (settings.location or str(settings.out)).rstrip("/")
    template = TEMPLATE_NO_BOS if preset.bos == "never" else TEMPLATE
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    in_loss = preset.kl_place == "loss"
    values: dict[str, object] = {
        "algorithm.adv_estimator": preset.advantage,
        "algorithm.gamma": preset.gamma,
        "algorithm.lam": preset.lam,
        "algorithm.use_kl_in_reward": preset.kl_place == "reward",
        "algorithm.kl_penalty": "kl" if preset.kl_kind == "k1" else "low_var_kl",
        "algorithm.kl_ctrl.type": "fixed",
        "algorithm.kl_ctrl.kl_coef": preset.kl_coefficient,
        "data.train_files": f"{where}/train.parquet",
        "data.val_files": f"{where}/val.parquet",
        "data.prompt_key": "prompt",
        "data.train_batch_size": preset.prompts_per_step,
        "data.max_prompt_length": preset.max_prompt_tokens,
        "data.max_response_length": preset.max_response_tokens,
        "data.filter_overlong_prompts": True,
        "data.truncation": "error",
        "data.shuffle": True,
        "data.seed": settings.seed,
        "actor_rollout_ref.model.path": settings.model,
        "actor_rollout_ref.model.custom_chat_template": f'"{template}"',
        "actor_rollout_ref.model.use_remove_padding": True,
        "actor_rollout_ref.model.enable_gradient_checkpointing": True,
        f"{actor}.strategy": "fsdp2",
        f"{actor}.optim.lr": preset.actor_learning_rate,
        f"{actor}.optim.weight_decay": preset.weight_decay,
        f"{actor}.ppo_mini_batch_size": preset.prompts_per_step // preset.actor_updates_per_step,
        f"{actor}.ppo_epochs": preset.epochs_per_step,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": 16_384,
        f"{actor}.clip_ratio": preset.clip_low,
        f"{actor}.clip_ratio_low": preset.clip_low,
        f"{actor}.clip_ratio_high": preset.clip_high,
        # verl has no switch for the dual clip; a bound that no ratio reaches (they are clamped at e^20) turns it off
        f"{actor}.clip_ratio_c": preset.dual_clip or 1e9,
        f"{actor}.entropy_coeff": preset.entropy_coefficient,
        f"{actor}.loss_agg_mode": preset.aggregation,
        f"{actor}.use_kl_loss": in_loss,
        f"{rollout}.name": "vllm",
        f"{rollout}.n": preset.samples_per_prompt,
        f"{rollout}.temperature": preset.temperature,
        f"{rollout}.top_p": 1.0,
        f"{rollout}.top_k": -1,
        f"{rollout}.tensor_model_parallel_size": settings.tensor_parallel,
        f"{rollout}.gpu_memory_utilization": 0.5,
        f"{rollout}.calculate_log_probs": True,
        "critic.strategy": "fsdp2",
        "critic.model.path": settings.model,
        "critic.model.enable_gradient_checkpointing": True,
        "critic.optim.lr": preset.critic_learning_rate,
        "critic.optim.weight_decay": preset.weight_decay,
        "critic.ppo_mini_batch_size": preset.prompts_per_step // preset.critic_updates_per_step,
        "critic.ppo_epochs": preset.epochs_per_step,
        "critic.use_dynamic_bsz": True,
        "critic.ppo_max_token_len_per_gpu": 32_768,
        "critic.cliprange_value": preset.value_clip,
        "reward.custom_reward_function.path": f"{where}/reward.py",
        "reward.custom_reward_function.name": "compute_score",
        "trainer.total_training_steps": preset.total_steps,
        "trainer.total_epochs": 15,
        "trainer.critic_warmup": preset.critic_warmup_steps,
        "trainer.n_gpus_per_node": settings.gpus_per_node,
        "trainer.nnodes": settings.nodes,
        "trainer.save_freq": preset.save_every_steps,
        "trainer.test_freq": preset.eval_every_steps,
        "trainer.val_before_train": True,
        "trainer.resume_mode": "auto",
        "trainer.logger": "[console]",
        "trainer.project_name": "fourhabits",
        "trainer.experiment_name": settings.name,
        "trainer.default_local_dir": f"{where}/checkpoints",
        "trainer.rollout_data_dir": f"{where}/rollouts",
        "trainer.validation_data_dir": f"{where}/validation",
        "trainer.max_actor_ckpt_to_keep": 3,
        "trainer.max_critic_ckpt_to_keep": 3,
    }
    if in_loss:
        values |= {f"{actor}.kl_loss_coef": preset.kl_coefficient, f"{actor}.kl_loss_type": preset.kl_kind}
    if preset.importance_cap > 0:
        values["algorithm.rollout_correction.rollout_is"] = "token"
        values["algorithm.rollout_correction.rollout_is_threshold"] = preset.importance_cap
    return [f"{key}={value}" for key, value in values.items()]


def _run_script(lines: list[str]) -> str:
    quoted = " \\\n".join("    '" + line.replace("'", "'\\''") + "'" for line in lines)
    return f"""#!/usr/bin/env bash
# Countdown with verl {VERL}. Needs the environment of requirements-verl.txt; extra overrides may follow on the command line.
set -euo pipefail
python -m verl.trainer.main_ppo \\
{quoted} \\
    "$@"
"""


def _readme(settings: ExportSettings) -> str:
    return f"""# Countdown with verl {VERL}

    python -m venv env && env/bin/pip install -r requirements-verl.txt
    source env/bin/activate && bash run.sh

- `overrides.yaml` lists the settings (preset `{settings.preset}`); `run.sh` holds the same. Several nodes: start Ray first, then run once.
- `reward.py` stands alone and is what verl imports; a complete but wrong answer is worth its `FORMAT_REWARD`.
- Prompts are raw text: the chat template is replaced by one that only joins the messages.
- Checkpoints to a Hugging Face folder: `python -m verl.model_merger merge --backend fsdp --local_dir
  checkpoints/global_step_N/actor --target_dir merged`. Rollouts are JSON lines in `rollouts/`.
- Mini-batches are counted in prompts and multiplied by the samples per prompt for actor *and* critic in this version.
"""


def _write(path: Path, text: str, executable: bool = False) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())
    if executable:
        path.chmod(0o755)

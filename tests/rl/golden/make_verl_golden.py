"""Makes verl_0_9_1.json: inputs and outputs of verl 0.9.1's own functions on random masked batches.

    pip download --no-deps verl==0.9.1 -d /tmp/verl && unzip -q /tmp/verl/verl-0.9.1-*.whl -d /tmp/verl/src
    python tests/rl/golden/make_verl_golden.py /tmp/verl/src tests/rl/golden/verl_0_9_1.json

verl itself cannot be imported beside this project's packages, so the functions are taken out of its source files and run as they stand.
"""

import ast
import json
import sys
from collections import defaultdict
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import torch

FROM_CORE = (
    "compute_gae_advantage_return",
    "compute_grpo_outcome_advantage",
    "compute_rloo_outcome_advantage",
    "compute_reinforce_plus_plus_outcome_advantage",
    "agg_loss",
    "compute_policy_loss_vanilla",
    "compute_value_loss",
    "kl_penalty",
    "kl_penalty_forward",
    "AdaptiveKLController",
)
FROM_FUNCTIONAL = ("masked_sum", "masked_mean", "masked_var", "masked_whiten", "clip_by_value")


class PolicyConfig(SimpleNamespace):
    """The four settings that the policy loss reads."""

    def get(self, name: str, default: Any) -> Any:
        """As in a configuration."""
        return getattr(self, name, default)


def load(path: Path, names: tuple[str, ...], namespace: dict[str, Any]) -> None:
    """Define the named functions and classes of a source file in `namespace`, without their decorators."""
    tree = ast.parse(path.read_text())
    kept = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names]
    assert {node.name for node in kept} == set(names)
    for node in kept:
        node.decorator_list = []
    exec(compile(ast.Module(kept, []), str(path), "exec"), namespace)


def main(source: Path, out: Path) -> None:
    """Run verl's functions on seeded inputs and store both."""
    functional: dict[str, Any] = {"torch": torch}
    load(source / "verl/utils/torch_functional.py", FROM_FUNCTIONAL, functional)
    core: dict[str, Any] = {
        "torch": torch,
        "np": np,
        "defaultdict": defaultdict,
        "Optional": Optional,
        "Any": Any,
        "Enum": Enum,
        "verl_F": SimpleNamespace(**{name: functional[name] for name in FROM_FUNCTIONAL}),
        "AlgoConfig": type("AlgoConfig", (), {}),
        "ActorConfig": PolicyConfig,
        "DictConfig": PolicyConfig,
    }
    load(source / "verl/trainer/ppo/core_algos.py", FROM_CORE, core)
    cases = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        b, t = 6, 9

        def normal(scale: float = 1.0, generator: torch.Generator = generator, b: int = b, t: int = t) -> torch.Tensor:
            return torch.randn(b, t, generator=generator, dtype=torch.float64) * scale

        lengths = torch.randint(1, t + 1, (b,), generator=generator)
        mask = (torch.arange(t)[None] < lengths[:, None]).double()
        if seed % 2:  # tokens inside the response that the model did not write
            mask = mask * (torch.rand(b, t, generator=generator) > 0.3)
            mask[:, 0] = 1
        rewards, values, old_values, returns = normal() * mask, normal(), normal(), normal()
        old, new, ref = normal(0.3) - 1, normal(0.3) - 1, normal(0.3) - 1
        advantages = normal()
        groups = torch.tensor([0, 0, 0, 1, 1, 2])
        gamma, lam = [(1.0, 1.0), (0.99, 0.95), (1.0, 0.9)][seed % 3]
        index = groups.numpy()
        gae = core["compute_gae_advantage_return"](rewards, values, mask, gamma, lam)
        reinforce = core["compute_reinforce_plus_plus_outcome_advantage"](rewards, mask, config=SimpleNamespace(gamma=gamma))
        policy = {}
        for clip_low, clip_high, dual in ((0.2, 0.2, 3.0), (0.2, 0.28, 1.5), (0.1, 0.3, 1e9)):
            for how in ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"):
                config = PolicyConfig(
                    clip_ratio=0.2, clip_ratio_low=clip_low, clip_ratio_high=clip_high, clip_ratio_c=dual, global_batch_info={}
                )
                loss, _ = core["compute_policy_loss_vanilla"](old, new, advantages, mask, how, config)
                policy[f"{clip_low}|{clip_high}|{dual}|{how}"] = loss.item()
        value, clipfrac = core["compute_value_loss"](values, returns, old_values, mask, 0.5)
        kl = {kind: core["kl_penalty"](new, ref, kind).tolist() for kind in ("k1", "abs", "k2", "k3", "k3+")}
        controller = core["AdaptiveKLController"](0.001, 0.1, 10_000)
        controller.update(0.13, 1024)
        whitened = functional["masked_whiten"](values, mask)
        case = {
            "gamma": gamma,
            "lam": lam,
            "inputs": {
                name: tensor.tolist()
                for name, tensor in {
                    "mask": mask,
                    "rewards": rewards,
                    "values": values,
                    "old_values": old_values,
                    "returns": returns,
                    "old": old,
                    "new": new,
                    "ref": ref,
                    "advantages": advantages,
                    "groups": groups,
                }.items()
            },
            "gae_whitened_advantages": gae[0].tolist(),
            "gae_returns": gae[1].tolist(),
            "grpo": core["compute_grpo_outcome_advantage"](rewards.clone(), mask, index)[0].tolist(),
            "dr_grpo": core["compute_grpo_outcome_advantage"](rewards.clone(), mask, index, norm_adv_by_std_in_grpo=False)[0].tolist(),
            "rloo": core["compute_rloo_outcome_advantage"](rewards.clone(), mask, index)[0].tolist(),
            "reinforce_advantages": reinforce[0].tolist(),
            "reinforce_returns": reinforce[1].tolist(),
            "policy": policy,
            "value": value.item(),
            "value_clipfrac": clipfrac.item(),
            "kl": kl,
            "adaptive_kl": controller.value,
            "whitened": whitened.tolist(),
        }
        cases.append(case)
    out.write_text(json.dumps(rounded({"verl": "0.9.1", "cases": cases}), separators=(",", ":")) + "\n")


def rounded(value: Any) -> Any:
    """Numbers to nine decimals: tests ask for six."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 9) if isinstance(value, float) else value


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

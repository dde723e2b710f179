"""`rl ppo`: sample, score, estimate advantages, update the critic and the actor, log, save. The loop reads top to bottom."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from curate.records.errors import EngineError, UserError
from curate.records.parts import write_json, write_part
from rl import losses, report, rollouts
from rl.build import Setup, autocast, build, restore, save
from rl.evaluate import evaluate, write_evaluation
from rl.forward import Trajectories, micro_batches
from rl.rollouts import generator_for
from rl.samplers.base import Sampling
from rl.settings import PPOSettings, resolve
from train.signals import stop_on_signals

# Purposes of random streams: a stream is named by (run seed, purpose, step).
TASKS, NOISE, SHUFFLE, COIN = 1, 2, 3, 4


@dataclass
class Experience:
    """What one step learns from; (B, T) tensors are 0 outside `mask_BT`. `loss_mask_BT` leaves out truncated responses if asked to."""

    trajectories: Trajectories
    groups_B: Tensor
    scores_B: Tensor
    mask_BT: Tensor
    loss_mask_BT: Tensor
    sampler_logprobs_BT: Tensor
    old_logprobs_BT: Tensor
    ref_logprobs_BT: Tensor | None
    values_BT: Tensor | None
    advantages_BT: Tensor
    returns_BT: Tensor


def run(settings: PPOSettings) -> None:
    """Train a policy on Countdown with PPO (or grpo, rloo, reinforce), evaluating, logging and saving as it goes."""
    with stop_on_signals() as stop:
        setup = build(resolve(settings))
        settings = setup.settings
        first = restore(setup) + 1
        if first == 1:
            write_evaluation(setup, 0, evaluate(setup))
        for step in range(first, settings.total_steps + 1):
            line = train_step(setup, step)
            if step % settings.eval_every_steps == 0 or step == settings.total_steps:
                with setup.timer("eval"):
                    results = evaluate(setup)
                line |= write_evaluation(setup, step, results)
            report.finish_line(setup, step, line)
            stopping = setup.ranks.any(stop.requested)
            if step % settings.save_every_steps == 0 or step == settings.total_steps or stopping:
                save(setup, step)
            if stopping and step < settings.total_steps:
                raise stop.requeue(step, setup.out)
        setup.finish()


def train_step(setup: Setup, step: int) -> dict[str, float]:
    """One step; returns its metrics."""
    settings, timer = setup.settings, setup.timer
    timer.start_step()
    prompted = setup.train
    tasks = rollouts.step_tasks(len(prompted.tasks), settings.prompts_per_step, step, settings.seed)
    with timer("weight_sync"):
        setup.sampler.wake()
        setup.sampler.load_weights(setup.weight_version)
    with timer("generate"):
        found = rollouts.roll_out(
            setup.sampler,
            prompted,
            setup.ranks.part(list(enumerate(tasks))),
            settings,
            setup.tokenizer,
            samples_per_prompt=settings.samples_per_prompt,
            sampling=Sampling(settings.max_response_tokens, settings.temperature),
            noise_seed=(settings.seed, NOISE, step),
            num_groups=settings.prompts_per_step,
        )
        setup.sampler.sleep()
    with timer("store"):
        everything = setup.ranks.gather(found)
        if setup.ranks.is_main:
            write_part(setup.out / "rollouts" / f"step-{step:08d}.parquet", rollouts.table(step, prompted, everything))
    try:
        experience = make_experience(setup, step, prompted, found)
        line = report.rollout_metrics(setup, everything, experience)
        with timer("update_critic"):
            if setup.critic is not None:
                line |= update_critic(setup, step, experience)
        with timer("update_actor"):
            if step > settings.critic_warmup_steps or setup.critic is None:
                line |= update_actor(setup, step, experience)
                setup.weight_version += 1
    except (RuntimeError, MemoryError) as error:
        if not rollouts.out_of_memory(error):
            raise
        raise EngineError(f"out of memory while training: lower --micro-batch-tokens (now {settings.micro_batch_tokens})") from error
    if settings.kl_target > 0 and settings.kl_place != "none":
        setup.kl_coefficient = losses.adapt_kl_coefficient(
            setup.kl_coefficient, line["kl_k1"], settings.kl_target, len(everything), settings.kl_horizon
        )
    return line


@torch.no_grad()
def make_experience(setup: Setup, step: int, prompted: rollouts.Prompted, found: list[rollouts.Rollout]) -> Experience:
    """Log-probabilities of actor and reference, values, rewards, advantages."""
    settings, timer, device = setup.settings, setup.timer, setup.ranks.device
    trajectories = Trajectories([prompted.tokens[item.task] for item in found], [item.sample.tokens for item in found])
    mask_BT = trajectories.mask_BT(device).to(setup.wide)
    groups_B = torch.tensor([item.group for item in found], device=device)
    with timer("reward"):
        scores_B = torch.tensor([item.score.value for item in found], device=device, dtype=setup.wide)
        if settings.reward == "random":
            coins = torch.rand(settings.prompts_per_step, settings.samples_per_prompt, generator=generator_for(settings.seed, COIN, step))
            mine = coins[[item.group for item in found], [item.sample_number for item in found]]
            scores_B = (mine < 0.5).to(scores_B)
    sampler_logprobs_BT = torch.zeros_like(mask_BT)
    for row, item in enumerate(found):
        sampler_logprobs_BT[row, : len(item.sample.logprobs)] = torch.tensor(item.sample.logprobs, dtype=setup.wide)
    with timer("old_logprobs"):
        old_BT = forward_all(setup, trajectories, lambda micro: setup.policy(micro, settings.temperature, setup.vocab_size)[0])
    ref_BT = values_BT = None
    with timer("ref_logprobs"):
        if setup.reference is not None:
            ref = setup.reference
            ref_BT = forward_all(setup, trajectories, lambda micro: ref(micro, settings.temperature, setup.vocab_size)[0])
    with timer("values"):
        if setup.critic is not None:
            values_BT = forward_all(setup, trajectories, setup.critic)
    with timer("advantages"):
        rewards_BT = last_token_rewards(scores_B, mask_BT)
        if settings.kl_place == "reward" and ref_BT is not None:
            kl_BT = losses.kl_estimate(old_BT, ref_BT, settings.kl_kind)
            rewards_BT = rewards_BT - setup.kl_coefficient * kl_BT * mask_BT
        truncated_B = torch.tensor([item.sample.truncated for item in found], device=device)
        loss_mask_BT = mask_BT * (~truncated_B[:, None] if settings.mask_truncated else 1)
        advantages_BT, returns_BT = estimate(setup, rewards_BT, values_BT, mask_BT, loss_mask_BT, groups_B)
    return Experience(
        trajectories,
        groups_B,
        scores_B,
        mask_BT,
        loss_mask_BT,
        sampler_logprobs_BT,
        old_BT,
        ref_BT,
        values_BT,
        advantages_BT,
        returns_BT,
    )


def estimate(
    setup: Setup, rewards_BT: Tensor, values_BT: Tensor | None, mask_BT: Tensor, loss_mask_BT: Tensor, groups_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Advantages as the policy loss takes them, and returns. All responses of a task are on one rank, so groups are whole."""
    settings = setup.settings
    if settings.advantage == "gae":
        assert values_BT is not None
        advantages_BT, returns_BT = losses.gae(rewards_BT, values_BT, mask_BT, settings.gamma, settings.lam)
        return losses.whiten(advantages_BT, loss_mask_BT, setup.ranks.sum), returns_BT
    if settings.advantage == "reinforce":
        returns_BT = losses.reinforce(rewards_BT, mask_BT, settings.gamma)
        return losses.whiten(returns_BT, loss_mask_BT, setup.ranks.sum), returns_BT
    function = losses.grpo if settings.advantage == "grpo" else losses.rloo
    return function(rewards_BT.sum(1), groups_B, mask_BT), rewards_BT.sum(1, keepdim=True) * mask_BT


def update_actor(setup: Setup, step: int, experience: Experience) -> dict[str, float]:
    """The actor's updates of a step; means over them, and the first one's ratio, which is 1 when all is well."""
    settings = setup.settings
    weights_BT = None
    if settings.importance_cap > 0:
        weights_BT = losses.importance_weights(experience.old_logprobs_BT, experience.sampler_logprobs_BT, settings.importance_cap)
    totals = report.Means(setup.ranks)

    def micro_loss(micro, denominator: Tensor, num_tokens: Tensor, first: bool) -> Tensor:  # type: ignore[no-untyped-def]
        rows = micro.rows
        old, advantages, mask = experience.old_logprobs_BT[rows], experience.advantages_BT[rows], experience.loss_mask_BT[rows]
        logprobs, entropy = setup.policy(micro, settings.temperature, setup.vocab_size)
        policy = losses.policy_loss(
            logprobs,
            old,
            advantages,
            mask,
            settings.clip_low,
            settings.clip_high,
            settings.dual_clip or None,
            weights_BT=None if weights_BT is None else weights_BT[rows],
            aggregation=settings.aggregation,
            denominator=denominator,
            max_tokens=settings.max_response_tokens,
        )
        loss = policy
        if settings.entropy_coefficient:
            loss = loss - settings.entropy_coefficient * losses.masked_sum(entropy, mask) / num_tokens
        if settings.kl_place == "loss" and experience.ref_logprobs_BT is not None:
            kl_bT = losses.kl_estimate(logprobs, experience.ref_logprobs_BT[rows], settings.kl_kind)
            loss = loss + setup.kl_coefficient * losses.aggregate(
                kl_bT, mask, settings.aggregation, denominator, settings.max_response_tokens
            )
        statistics = losses.policy_statistics(logprobs.detach(), old, advantages, mask, settings.clip_low, settings.clip_high)
        largest = statistics.pop("ratio_max")
        totals.add("policy_loss", policy.detach())
        totals.add("entropy", losses.masked_sum(entropy.detach(), mask) / num_tokens)
        for name, total in statistics.items():
            totals.add(name, total / num_tokens)
            if first:
                totals.add(f"first_{name}", total / num_tokens, once=True)
        totals.largest("ratio_max", largest)
        if first:
            totals.largest("first_ratio_max", largest)
        return loss

    return updates(setup, step, experience, "actor", settings.actor_updates_per_step, micro_loss, totals)


def update_critic(setup: Setup, step: int, experience: Experience) -> dict[str, float]:
    """The critic's updates of a step."""
    settings = setup.settings
    critic, values_BT = setup.critic, experience.values_BT
    assert critic is not None and values_BT is not None
    totals = report.Means(setup.ranks)

    def micro_loss(micro, denominator: Tensor, num_tokens: Tensor, first: bool) -> Tensor:  # type: ignore[no-untyped-def]
        rows = micro.rows
        old, returns, mask = values_BT[rows], experience.returns_BT[rows], experience.loss_mask_BT[rows]
        values = critic(micro)
        loss = losses.value_loss(
            values,
            old,
            returns,
            mask,
            settings.value_clip,
            aggregation=settings.aggregation,
            denominator=denominator,
            max_tokens=settings.max_response_tokens,
        )
        totals.add("value_loss", loss.detach())
        clipped = losses.value_clip_count(values.detach(), old, returns, mask, settings.value_clip)
        totals.add("value_clipfrac", clipped / num_tokens)
        return loss

    return updates(setup, step, experience, "critic", settings.critic_updates_per_step, micro_loss, totals)


def updates(
    setup: Setup, step: int, experience: Experience, which: str, per_step: int, micro_loss: Callable[..., Tensor], totals: report.Means
) -> dict[str, float]:
    """Mini-batches of whole prompts, `per_step` a pass; each is one optimizer step, its gradient summed over micro-batches and ranks.

    A gradient that is not finite skips the optimizer step and is counted; too many in a row stop the run.
    """
    settings, ranks = setup.settings, setup.ranks
    model, optimizer = setup.trained(which)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norms = []
    spare = next(micro_batches(experience.trajectories, [0], settings.micro_batch_tokens, setup.layout, ranks.device))
    for epoch in range(settings.epochs_per_step):
        order = torch.arange(settings.prompts_per_step)
        if settings.shuffle:
            order = torch.randperm(settings.prompts_per_step, generator=generator_for(settings.seed, SHUFFLE, step, epoch))
        for number, groups in enumerate(order.chunk(per_step)):
            rows = torch.isin(experience.groups_B.cpu(), groups).nonzero().squeeze(1).tolist()
            mask = experience.loss_mask_BT[rows]
            num_tokens = ranks.sum(mask.sum()).clamp(min=1)
            sequences = ranks.sum(mask.bool().any(1).sum().to(mask.dtype)).clamp(min=1)
            denominator = num_tokens if settings.aggregation == "token-mean" else sequences
            optimizer.zero_grad(set_to_none=True)
            plan = micro_batches(experience.trajectories, rows, settings.micro_batch_tokens, setup.layout, ranks.device)
            for micro, real in ranks.in_step(list(plan), spare):
                with autocast(setup):
                    if real:
                        loss = micro_loss(micro, denominator, num_tokens, epoch == 0 and number == 0)
                    else:
                        loss = 0.0 * setup.idle_pass(which, micro)
                loss.backward()
            ranks.sum_gradients(parameters)
            norm = clip_gradients(parameters, settings.max_grad_norm)
            totals.next_update()
            if not torch.isfinite(torch.tensor(norm)):
                count_bad_update(setup, step, which)
                continue
            setup.bad_in_a_row = 0
            optimizer.step()
            norms.append(norm)
    return totals.result() | {f"{which}_grad_norm": sum(norms) / len(norms) if norms else float("nan")}


def clip_gradients(parameters: list[torch.nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to `max_norm`; returns their norm before, over all ranks when they are sharded."""
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if hasattr(norm, "full_tensor"):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm.item()


def count_bad_update(setup: Setup, step: int, which: str) -> None:
    """Count a skipped update. Raises UserError after too many in a row, leaving `stopped.json`; the last checkpoint is from before them."""
    setup.bad_in_a_row += 1
    setup.skipped_updates += 1
    if setup.ranks.is_main:
        print(f"warning: step {step}: the {which}'s gradient is not finite; update skipped", file=sys.stderr, flush=True)
    if setup.bad_in_a_row >= setup.settings.stop_after_bad_updates:
        reason = f"{setup.bad_in_a_row} updates in a row had no finite gradient (step {step}, {which})"
        if setup.ranks.is_main:
            write_json(setup.out / report.STOPPED, {"step": step, "reason": reason})
        raise UserError(
            f"{reason}; the last good checkpoint is in {setup.out / 'checkpoints'}: lower the learning rates, or look into rollouts/ for "
            "what went wrong"
        )


def forward_all(setup: Setup, trajectories: Trajectories, function: Callable[..., Tensor]) -> Tensor:
    """`function` over all trajectories in micro-batches without gradients, (B, T)."""
    settings, device = setup.settings, setup.ranks.device
    out_BT = torch.zeros(len(trajectories), trajectories.longest_response, device=device, dtype=setup.wide)
    with torch.no_grad(), autocast(setup):
        plan = list(micro_batches(trajectories, range(len(trajectories)), settings.micro_batch_tokens, setup.layout, device))
        for micro, real in setup.ranks.in_step(plan, plan[0]):
            values = function(micro)
            if real:
                out_BT[micro.rows] = values.to(setup.wide)
    return out_BT


def last_token_rewards(scores_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Each score on the last token of its response, truncated or not, (B, T)."""
    rewards_BT = torch.zeros_like(mask_BT)
    last_B = mask_BT.sum(1).long() - 1
    rewards_BT[torch.arange(len(scores_B)), last_B] = scores_B
    return rewards_BT

"""The learning rate as a function of the step: nothing to save, nothing to resume."""

import math

SCHEDULES = ("cosine", "linear", "wsd", "constant")
WSD_DECAY = 0.2


def learning_rate(step: int, num_steps: int, peak: float, schedule: str, warmup_fraction: float, final_fraction: float = 0.0) -> float:
    """Rate of update `step` (0-based) of `num_steps`: linear warm-up, then down to `final_fraction` of the peak.

    The first update has `peak / warm-up steps`, not 0. `wsd` stays at the peak until the last fifth, then falls linearly. The cosine
    is that of `get_cosine_schedule_with_warmup` in transformers, shifted by the one step that it spends at rate 0.
    """
    warmup = round(num_steps * warmup_fraction)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(num_steps - warmup, 1)
    if schedule == "constant":
        left = 1.0
    elif schedule == "linear":
        left = 1.0 - progress
    elif schedule == "wsd":
        left = min(1.0, (num_steps - step) / max(num_steps * WSD_DECAY, 1.0))
    elif schedule == "cosine":
        left = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        raise ValueError(f"unknown schedule {schedule!r}")
    return peak * (final_fraction + (1.0 - final_fraction) * left)

"""Learning rates by step, so that a run goes on anywhere without more state."""

from __future__ import annotations

from hand_unc_ros.training.config import OptimiserConfig


def learning_rate(step: int, steps: int, config: OptimiserConfig) -> float:
    """The rate of step number `step` of `steps`: a linear warm-up, then one of the two schedules.

    The constant part of 'cooldown' lets a run be shortened: go on with fewer steps and it cools down from there.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == 'drop':
        return config.lr * (config.drop_factor if step >= config.drop_at * steps else 1.0)
    falling = config.cooldown * steps
    return config.lr * min(1.0, (steps - step) / falling) if falling else config.lr

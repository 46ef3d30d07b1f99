"""The learning rate, step by step."""

import math

from terascope.core.tuning import Hyperparameters


def rate(step: int, steps: int, settings: Hyperparameters) -> float:
    """Return the learning rate of step 0 to `steps` - 1: it rises, then falls as the schedule says."""
    rising = math.ceil(steps * settings.warmup_ratio)
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    shares = {"constant": 1.0, "linear": 1.0 - done, "cosine": (1.0 + math.cos(math.pi * done)) / 2}
    return settings.learning_rate * shares[settings.schedule]

"""What a job costs: a trained token three times a prompt's, a measured one as much as a prompt's."""

from collections.abc import Sequence

from terascope.core.prices import Price
from terascope.core.tuning import TRAINED_SHARE, Hyperparameters, TuningMethod
from terascope.tuning.checking import Size


def weighed(trained: int, measured: int) -> int:
    """So many tokens of a prompt would cost the same."""
    return TRAINED_SHARE * trained + measured


def cost(price: Price, trained: int, measured: int) -> int:
    """Return what so many tokens cost, in micro service units."""
    return price.cost(weighed(trained, measured), 0)


def most_tokens(settings: Hyperparameters, method: TuningMethod, sizes: Sequence[Size]) -> int:
    """Return the most that a job can come to, `weighed`; `sizes` are of its training file and its validation file."""
    trained, *validation = sizes
    before = settings.vectors if method is TuningMethod.SOFT_PROMPT else 0
    steps = settings.n_epochs * -(-trained.lines // settings.batch_size)
    tokens = settings.n_epochs * (trained.tokens + before * trained.lines)
    if settings.max_steps:
        steps = min(steps, settings.max_steps)
        tokens = min(tokens, steps * settings.batch_size * (trained.longest + before))
    times = 2 + (steps // settings.eval_every if settings.eval_every else settings.n_epochs)
    return weighed(tokens, times * _measured(settings, trained, validation, before))


def _measured(settings: Hyperparameters, trained: Size, validation: Sequence[Size], before: int) -> int:
    """Tokens of all held-out lines, at most."""
    if validation:
        return validation[0].tokens + before * validation[0].lines
    lines = -(-trained.lines * settings.held_out_share // 1)
    return min(trained.tokens, int(lines + 1) * trained.longest) + before * trained.lines
